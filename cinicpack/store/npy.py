"""The npy container: a directory with one npy file per array and ``pack.json``."""

import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from cinicpack.errors import ArgumentError, PackError
from cinicpack.store.format import MANIFEST_NAME, ArraySpec, Manifest, list_others
from cinicpack.store.region import Region, open_file, reserve_space

__all__ = ["Npy", "npy_header"]

# Data starts on a cache line, as NumPy's own files have it.
_ALIGNMENT: Final = 64


def npy_header(spec: ArraySpec) -> bytes:
    """Build the header of an npy 1.0 file: the same bytes under any version of NumPy."""
    descr = np.lib.format.dtype_to_descr(spec.dtype)
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {spec.shape!r}, }}"
    padding = -(10 + len(text) + 1) % _ALIGNMENT
    encoded = text.encode("ascii") + b" " * padding + b"\n"
    return b"\x93NUMPY\x01\x00" + len(encoded).to_bytes(2, "little") + encoded


class Npy:
    """The container of npy files; all that a `Container` has takes the pack's directory."""

    name = "npy"
    suffixes: tuple[str, ...] = ()

    def holds(self, path: Path) -> bool:
        """Tell whether this is a directory."""
        return path.is_dir()

    def find_others(self, path: Path) -> list[str]:
        """Name what keeps a directory from being a pack and nothing else (`format.list_others`).

        Links are something else, too.
        """
        try:
            text = (path / MANIFEST_NAME).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return [f"no {MANIFEST_NAME} in it"]
        found = []
        for entry in path.rglob("*"):
            name = entry.relative_to(path).as_posix()
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                name += " (not a file)"
            elif entry.is_dir():
                name += "/"
            if name != MANIFEST_NAME:
                found.append(name)
        return list_others(text, found, ".npy")

    def create(self, path: Path, specs: Sequence[ArraySpec]) -> list[Region]:
        """Create the npy files of ``specs`` at full size under ``path``, and that directory.

        Space is allocated at once, so that a full disk is found before the work is done (OSError).
        Raises `ArgumentError` where there are so many that the pack could not be opened.
        """
        # An open pack has a descriptor of every file.
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY and len(specs) > limit // 2:
            raise ArgumentError(
                f"expected at most {limit // 2} files, half of what a process may have open here "
                f"(ulimit -n), found {len(specs)}; choose larger shards (shard_rows)"
            )
        regions = []
        for spec in specs:
            file = _file_of(path, spec)
            file.parent.mkdir(parents=True, exist_ok=True)
            header = npy_header(spec)
            with open(file, "xb") as stream:
                stream.write(header)
                stream.flush()
                reserve_space(stream.fileno(), len(header) + spec.nbytes)
            regions.append(Region(spec, file, len(header)))
        return regions

    def finish(
        self,
        path: Path,
        manifest: Manifest,
        regions: Sequence[Region],  # noqa: ARG002  where these lie follows from the manifest
    ) -> None:
        """Write ``pack.json``."""
        (path / MANIFEST_NAME).write_bytes(manifest.to_json())

    def open(self, path: Path) -> tuple[Manifest, list[Region]]:
        """Read and check ``pack.json``, and header and size of every file; raises `PackError`."""
        manifest = _read_manifest(path)
        return manifest, [_locate(path, spec) for spec in manifest.specs()]


def _read_manifest(root: Path) -> Manifest:
    """Read and check ``pack.json``; raises `PackError` where there is none."""
    file = root / MANIFEST_NAME
    try:
        with open_file(file) as stream:
            text = stream.read()
    except (FileNotFoundError, IsADirectoryError):
        raise PackError(
            f"{root}: expected a pack, found a directory without {MANIFEST_NAME}; "
            f"make one with 'cinicpack pack {root} NAME.pack' if this is a tree of PNG files"
        ) from None
    return Manifest.from_json(text, str(file))


def _locate(root: Path, spec: ArraySpec) -> Region:
    """Check header and size of a file and say where the array lies; raises `PackError`."""
    file = _file_of(root, spec)
    header = npy_header(spec)
    expected = len(header) + spec.nbytes
    try:
        with open_file(file) as stream:
            found = os.fstat(stream.fileno()).st_size
            if found != expected:
                raise PackError(
                    f"{file}: expected {expected} bytes, found {found}; "
                    "restore the file or pack again"
                )
            if (start := stream.read(len(header))) != header:
                raise PackError(
                    f"{file}: expected the header {_excerpt(header)}, found {_excerpt(start)}; "
                    "restore the file or pack again"
                )
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise PackError(f"{file}: missing from the pack; restore it or pack again") from None
    return Region(spec, file, len(header))


def _file_of(root: Path, spec: ArraySpec) -> Path:
    return root / f"{spec.name}.npy"


def _excerpt(header: bytes) -> Any:
    return header[10:].rstrip() if header.startswith(b"\x93NUMPY\x01\x00") else header[:16]
