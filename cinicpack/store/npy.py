"""The npy container: a directory with one npy file per array and ``pack.json``."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from cinicpack.errors import ArgumentError, PackError
from cinicpack.store.format import MANIFEST_NAME, MAX_MANIFEST_BYTES, ArraySpec, is_split_name
from cinicpack.store.manifest import Manifest
from cinicpack.store.region import Region, open_descriptor, open_file, reserve_space

__all__ = ["MOST_FILES", "Npy", "npy_header"]

# The data of a file starts at a multiple of so many bytes, a cache line, as in NumPy's own files.
_ALIGNMENT: Final = 64
#: The most files of a pack, which is opened by mapping each: half of the mappings that Linux allows
#: a process (vm.max_map_count).
MOST_FILES: Final = 32_765
# How every manifest begins: a pack that is damaged or of another version is known by it.
_START: Final = re.compile(rb'\s*\{\s*"format":\s*"cinicpack"')
_ARRAY: Final = re.compile(r"images-\d{5,}|labels|sources|names")
# The arrays that every split has.
_WHOLE: Final = ("images-00000", "labels", "sources", "names")


def npy_header(spec: ArraySpec) -> bytes:
    """Build the header of an npy 1.0 file: the same bytes under any version of NumPy."""
    descr = np.lib.format.dtype_to_descr(spec.dtype)
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {spec.shape!r}, }}"
    padding = -(10 + len(text) + 1) % _ALIGNMENT
    encoded = text.encode("ascii") + b" " * padding + b"\n"
    return b"\x93NUMPY\x01\x00" + len(encoded).to_bytes(2, "little") + encoded


class Npy:
    """The `Container` of npy files: the ``path`` of a pack is that of its directory."""

    name = "npy"
    suffixes: tuple[str, ...] = ()

    def holds(self, path: Path) -> bool:
        """Tell whether this is a directory."""
        return path.is_dir()

    def find_others(self, path: Path) -> list[str]:
        """Name what keeps a directory from being a pack and nothing else; empty: nothing does.

        A directory is a pack, of any version and be it damaged, if its manifest begins as one.
        Nothing else is in it if the rest are arrays of the manifest, some of which may be missing,
        and no links. Where the manifest cannot be read, these are all files that are called as
        arrays are, in folders that have at least one of each kind.
        """
        manifest = path / MANIFEST_NAME
        # Reading is only for a file: a pipe would be waited for, for ever.
        if not manifest.is_file():
            return [f"no {MANIFEST_NAME} in it"]
        found = set()
        for entry in path.rglob("*"):
            name = entry.relative_to(path).as_posix()
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                name += " (not a file)"
            elif entry.is_dir():
                name += "/"
            if name != MANIFEST_NAME:
                found.add(name)
        return _list_others(_read_start(manifest), found)

    def create(self, path: Path, specs: Sequence[ArraySpec]) -> list[Region]:
        """Create the npy files of ``specs`` at full size under ``path``, and that directory.

        Space is allocated at once, so that a full disk is found before the work is done (OSError).
        Raises `ArgumentError` where there are so many that the pack could not be opened.
        """
        if len(specs) > MOST_FILES:
            raise ArgumentError(
                f"expected at most {MOST_FILES:,} files, half of what Linux lets a process map, "
                f"found {len(specs):,}; choose larger shards (shard_rows)"
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


def _read_start(file: Path) -> bytes:
    """Read a manifest, or of a longer file its beginning, which is too long for a manifest."""
    with open_file(file) as stream:
        return stream.read(MAX_MANIFEST_BYTES + 1)


def _read_manifest(root: Path) -> Manifest:
    """Read and check ``pack.json``; raises `PackError` where there is none."""
    file = root / MANIFEST_NAME
    try:
        text = _read_start(file)
    except (FileNotFoundError, IsADirectoryError):
        raise PackError(
            f"{root}: expected a pack, found a directory without {MANIFEST_NAME}; "
            f"make one with 'cinicpack pack {root} NAME.pack' if this is a tree of images"
        ) from None
    if len(text) > MAX_MANIFEST_BYTES:
        raise PackError(
            f"{file}: expected at most {MAX_MANIFEST_BYTES} bytes, found {file.stat().st_size}; "
            "restore the file or pack again"
        )
    return Manifest.from_json(text, str(file))


def _locate(root: Path, spec: ArraySpec) -> Region:
    """Check header and size of a file and say where the array lies; raises `PackError`."""
    file = _file_of(root, spec)
    header = npy_header(spec)
    expected = len(header) + spec.nbytes
    try:
        descriptor = open_descriptor(file)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise PackError(f"{file}: missing from the pack; restore it or pack again") from None
    try:
        found, start = os.fstat(descriptor).st_size, os.pread(descriptor, len(header), 0)
    finally:
        os.close(descriptor)
    if found != expected:
        raise PackError(
            f"{file}: expected {expected} bytes, found {found}; restore the file or pack again"
        )
    if start != header:
        raise PackError(
            f"{file}: expected the header {_excerpt(header)}, found {_excerpt(start)}; "
            "restore the file or pack again"
        )
    return Region(spec, file, len(header))


def _list_others(text: bytes, found: set[str]) -> list[str]:
    """List what is neither the manifest, which reads ``text``, nor an array or a split of it.

    ``found`` are the names of all files but the manifest, and of folders, with a slash at the end.
    """
    if not _START.match(text):
        return [f"a {MANIFEST_NAME} that is not a pack's"]
    try:
        manifest = Manifest.from_json(text, MANIFEST_NAME)
    except PackError:
        splits = {name for name in found if is_split_name(name[:-1]) and name[-1] == "/"}
        splits = {name for name in splits if {f"{name}{array}.npy" for array in _WHOLE} <= found}
        mine = {
            name
            for name in found
            if name[: name.find("/") + 1] in splits
            and _ARRAY.fullmatch(name[name.find("/") + 1 :].removesuffix(".npy"))
        }
    else:
        splits = {f"{name}/" for name in manifest.splits}
        mine = {f"{spec.name}.npy" for spec in manifest.specs()}
    others: list[str] = []
    for name in sorted(found - mine - splits):
        # The name of a folder stands for all that is in it.
        if not (others and others[-1].endswith("/") and name.startswith(others[-1])):
            others.append(name)
    return others


def _file_of(root: Path, spec: ArraySpec) -> Path:
    return root / f"{spec.name}.npy"


def _excerpt(header: bytes) -> Any:
    return header[10:].rstrip() if header.startswith(b"\x93NUMPY\x01\x00") else header[:16]
