"""Fingerprints: digests of images, splits and packs, as `store.format` specifies them."""

import hashlib
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DIGEST_BYTES",
    "digest_image",
    "digest_images",
    "fingerprint_images",
    "fingerprint_splits",
    "image_header",
]

#: How many bytes a digest has.
DIGEST_BYTES: Final = 32
# How many images are fetched and hashed at a time.
_BLOCK: Final = 512


def image_header(class_name: bytes, name: bytes, image_shape: tuple[int, ...]) -> bytes:
    """Build what is hashed before the pixels of an image (Fingerprints in `store.format`)."""
    return b"%b%b%b%b" % (
        _sized(class_name),
        len(name).to_bytes(4, "little"),
        name,
        _shape_bytes(image_shape),
    )


@lru_cache
def _sized(text: bytes) -> bytes:
    return len(text).to_bytes(4, "little") + text


@lru_cache
def _shape_bytes(shape: tuple[int, ...]) -> bytes:
    return struct.pack("<3I", *shape)


def digest_image(header: bytes, pixels: memoryview) -> bytes:
    """Hash one image: ``header`` from `image_header`, ``pixels`` contiguous, H, W, channel."""
    digest = hashlib.sha256(header)
    digest.update(pixels)
    return digest.digest()


def digest_images(
    images: Any, labels: NDArray[Any], names: NDArray[Any], classes: Sequence[bytes]
) -> NDArray[np.uint8]:
    """Hash many images, fetching some at a time, so that they stay in the cache.

    Args:
        images: (N, H, W, 3) uint8, an array or what is indexed as one.
        labels: (N,), of each image.
        names: (N,) bytes, of each image.
        classes: class names in label order.

    Returns:
        (N, 32), a digest of each.
    """
    digests = []
    for start in range(0, len(labels), _BLOCK):
        block = slice(start, start + _BLOCK)
        pixels = np.ascontiguousarray(images[block])
        digests.append(
            b"".join(
                digest_image(image_header(classes[label], name, image.shape), image.data)
                for label, name, image in zip(
                    labels[block].tolist(), names[block].tolist(), pixels, strict=True
                )
            )
        )
    return np.frombuffer(bytearray().join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def fingerprint_images(digests: NDArray[np.uint8]) -> str:
    """Combine the digests of the images of a split, (N, 32), which are sorted, into a fingerprint.

    They are sorted where they are, so that a million take no more memory than they have.
    """
    digests.view(f"S{DIGEST_BYTES}").sort(axis=0)
    return hashlib.sha256(digests.data).hexdigest()


def fingerprint_splits(fingerprints: dict[str, str]) -> str:
    """Combine the fingerprints of splits, by name, into that of a pack."""
    digest = hashlib.sha256()
    for name, fingerprint in sorted(fingerprints.items()):
        encoded = name.encode()
        digest.update(struct.pack("<I", len(encoded)) + encoded + bytes.fromhex(fingerprint))
    return digest.hexdigest()
