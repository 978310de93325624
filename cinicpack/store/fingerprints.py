"""Fingerprints: digests of images, splits and packs, as `store.format` specifies them."""

import hashlib
import struct
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["digest_image", "fingerprint_images", "fingerprint_splits", "image_header"]


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


def fingerprint_images(digests: Iterable[bytes]) -> str:
    """Combine the digests of the images of a split into its fingerprint."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def fingerprint_splits(fingerprints: dict[str, str]) -> str:
    """Combine the fingerprints of splits, by name, into that of a pack."""
    digest = hashlib.sha256()
    for name, fingerprint in sorted(fingerprints.items()):
        encoded = name.encode()
        digest.update(struct.pack("<I", len(encoded)) + encoded + bytes.fromhex(fingerprint))
    return digest.hexdigest()
