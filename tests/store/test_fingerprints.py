import hashlib

import numpy as np

from cinicpack.store.fingerprints import (
    digest_image,
    fingerprint_images,
    fingerprint_splits,
    image_header,
)


def test_a_digest_covers_names_shape_and_pixels():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    headers = [
        image_header(b"cat", b"a.png", (2, 2, 3)),
        image_header(b"ca", b"ta.png", (2, 2, 3)),
        image_header(b"cat", b"b.png", (2, 2, 3)),
        image_header(b"dog", b"a.png", (2, 2, 3)),
        image_header(b"cat", b"a.png", (1, 4, 3)),
    ]
    digests = {digest_image(header, pixels.data) for header in headers}
    digests.add(digest_image(headers[0], pixels[::-1].copy().data))
    assert len(digests) == 6


def test_fingerprints_ignore_order_and_nothing_else():
    random = np.random.default_rng(0)
    digests = random.integers(0, 256, (300, 32), np.uint8)
    # Bytes that come first alike, and zeros where texts would end.
    digests[:200, :16], digests[:100, 16:] = 0, 0
    digests[:100, 20] = np.arange(100)
    joined = b"".join(sorted(digest.tobytes() for digest in digests))
    fingerprint = hashlib.sha256(joined).hexdigest()
    assert fingerprint_images(digests[::-1].copy()) == fingerprint
    assert fingerprint_images(digests[[*range(300), 0]]) != fingerprint
    assert fingerprint_images(digests) == fingerprint
    a, b = "0" * 64, "1" * 64
    assert fingerprint_splits({"a": a, "b": b}) == fingerprint_splits({"b": b, "a": a})
    assert fingerprint_splits({"a": a, "b": b}) != fingerprint_splits({"a": b, "b": a})
