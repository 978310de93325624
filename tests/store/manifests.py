"""Packs whose manifest is changed, with digests that are right all the same."""

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOOTER_BYTES = 72


def resign(content: dict[str, Any]) -> bytes:
    """Write a manifest with the digest that it should have."""
    content = {key: value for key, value in content.items() if key != "digest"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps({**content, "digest": sha256(canonical.encode()).hex()}).encode()


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def read_content(path: Path) -> dict[str, Any]:
    """Read the manifest of a pack."""
    if path.is_dir():
        text = (path / "pack.json").read_bytes()
    else:
        file = path.read_bytes()
        _, start, length = struct.unpack("<3Q", file[-56:-32])
        text = file[start : start + length]
    content: dict[str, Any] = json.loads(text)
    return content


def write_content(path: Path, content: dict[str, Any], spans: Sequence[tuple[int, int]]) -> None:
    """Give a pack another manifest; ``spans`` are where an HDF5 file has its arrays."""
    if path.is_dir():
        (path / "pack.json").write_bytes(resign(content))
    else:
        file, text = path.read_bytes()[:-FOOTER_BYTES], resign(content)
        path.write_bytes(sign(file + text, spans, len(file), len(text)))


def sign(file: bytes, spans: Sequence[tuple[int, int]], start: int, length: int) -> bytes:
    """Put the footer behind what is to be an HDF5 pack; the manifest is at ``start``."""
    size = len(file) + FOOTER_BYTES
    file += b"cinicpack footer" + struct.pack("<3Q", size, start, length)
    edges = [0, *(edge for span in sorted(spans) for edge in span), len(file)]
    return file + sha256(*(file[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)))
