"""The HDF5 container: one file with a contiguous dataset per array and ``pack.json``.

HDF5 is asked where the datasets lie and then left alone: reading and writing go to the file itself.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from cinicpack.errors import PackError
from cinicpack.store.format import MANIFEST_NAME, ArraySpec, Manifest, list_others
from cinicpack.store.region import Region, allocate, write_all

__all__ = ["create_arrays", "find_others", "locate_arrays", "read_manifest", "write_manifest"]

_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
# Datasets of a page and more start on a page.
_PAGE: Final = 4096
# What the manifest grows by when the size of the file is filled in, and its last padding.
_MANIFEST_STEP: Final = 1024
_ALIGNED: Final[dict[str, Any]] = {"alignment_threshold": _PAGE, "alignment_interval": _PAGE}
_DAMAGE: Final = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError)


def create_arrays(file: Path, specs: list[ArraySpec]) -> list[Region]:
    """Create the HDF5 file with a dataset at full size for every one of ``specs``."""
    with _writing(file, "x") as h5:
        for spec in specs:
            _create_dataset(h5, spec)
    regions = [_locate_dataset(file, spec) for spec in specs]
    descriptor = os.open(file, os.O_RDWR)
    try:
        allocate(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
    return regions


def write_manifest(file: Path, manifest: Manifest) -> None:
    """Write the manifest as the last dataset, with the size that the file then has."""
    size = len(replace(manifest, file_bytes=2**63).to_json())
    size += -size % _MANIFEST_STEP
    spec = ArraySpec(MANIFEST_NAME, np.dtype("u1"), (size,))
    with _writing(file, "r+") as h5:
        _create_dataset(h5, spec)
    text = replace(manifest, file_bytes=file.stat().st_size).to_json()
    region = _locate_dataset(file, spec)
    descriptor = os.open(file, os.O_RDWR)
    try:
        write_all(descriptor, memoryview(text.ljust(size)), region.offset)
    finally:
        os.close(descriptor)


def read_manifest(file: Path) -> Manifest:
    """Read and check the manifest; raises `PackError` where the file is no pack."""
    with _open(file) as h5:
        text = _read_text(h5, file)
    manifest = Manifest.from_json(text, f"{file}:{MANIFEST_NAME}")
    if (found := file.stat().st_size) != manifest.file_bytes:
        raise PackError(
            f"{file}: expected {manifest.file_bytes} bytes, found {found}; "
            "restore the file or pack again"
        )
    return manifest


def find_others(file: Path) -> list[str]:
    """Name what keeps a file from being a pack and nothing else, as `format.list_others` does.

    Links, attributes and what follows on the HDF5 are something else, too.
    """
    try:
        with _open(file) as h5:
            text, found = _read_text(h5, file), [*_name_all(h5)]
    except PackError:
        return ["no HDF5 that can be read as a pack"]
    others = list_others(text, found)
    with suppress(PackError):
        size = Manifest.from_json(text, MANIFEST_NAME).file_bytes
        if size is not None and (extra := file.stat().st_size - size) > 0:
            others.append(f"{extra} bytes at the end")
    return others


def _name_all(h5: Any) -> Iterator[str]:
    """Name everything in the file but the manifest, groups with a slash at the end.

    A pack has datasets in groups and nothing below; what else there is gets a name of another kind.
    """
    import h5py

    objects = [("", h5)]
    for name in h5:
        objects.append((name, h5[name] if _is_in(h5, name) else None))
        if isinstance(group := objects[-1][1], h5py.Group):
            inner = ((f"{name}/{key}", group[key] if _is_in(group, key) else None) for key in group)
            objects += inner
    for name, item in objects:
        is_group = isinstance(item, h5py.Group)
        if item is not None and len(item.attrs):
            yield f"{name or '/'} (attributes)"
        if is_group and name:
            yield f"{name}/"
        elif not is_group and name != MANIFEST_NAME:
            yield name if isinstance(item, h5py.Dataset) else f"{name} (not a dataset)"


def _is_in(group: Any, name: str) -> bool:
    """Tell whether a member of a group is in it, not elsewhere where a link leads."""
    import h5py

    return isinstance(group.get(name, getlink=True), h5py.HardLink)


def _read_text(h5: Any, file: Path) -> bytes:
    if MANIFEST_NAME not in h5:
        raise PackError(f"{file}: expected a pack, found HDF5 without {MANIFEST_NAME}")
    size = h5[MANIFEST_NAME].size
    _, _, offset = _region_of(h5, file, ArraySpec(MANIFEST_NAME, np.dtype("u1"), (size,)))
    with open(file, "rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def locate_arrays(file: Path, manifest: Manifest) -> list[Region]:
    """Check type, shape and place of every dataset; raises `PackError`."""
    with _open(file) as h5:
        return [_region_of(h5, file, spec) for spec in manifest.specs()]


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    """Open a finished pack; what HDF5 and h5py stumble over in a damaged one is a `PackError`."""
    import h5py

    if not file.is_file():
        raise PackError(f"{file}: expected a directory or an HDF5 file, found neither")
    try:
        # Opened by Python, it is not locked (it never changes, and network disks cannot), and the
        # program may have opened it with h5py in another mode.
        with open(file, "rb") as stream:
            if (start := stream.read(len(_SIGNATURE))) != _SIGNATURE:
                raise PackError(
                    f"{file}: expected a pack, found a file that is not HDF5 (it starts with "
                    f"{start!r}); if it is an archive of PNG files, make a pack of it with "
                    f"'cinicpack pack {file} NAME.pack', and if it was a pack, restore it"
                )
            with h5py.File(stream, "r") as h5:
                yield h5
    except PackError:
        raise
    except _DAMAGE as error:
        raise PackError(
            f"{file}: expected the HDF5 file of a pack, found one that HDF5 refuses "
            f"({error}); restore the file or pack again"
        ) from error


@contextmanager
def _writing(file: Path, mode: str) -> Iterator[Any]:
    import h5py

    try:
        with h5py.File(file, mode, libver=("earliest", "v110"), **_ALIGNED) as h5:
            yield h5
    except RuntimeError as error:
        # What h5py makes of a write that fails when the file is closed.
        if (found := re.search(r"errno = (\d+)", str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from error


def _create_dataset(h5: Any, spec: ArraySpec) -> None:
    from h5py import h5d, h5p

    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_layout(h5d.CONTIGUOUS)
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    h5.create_dataset(spec.name, spec.shape, spec.dtype, dcpl=creation, track_times=False)


def _locate_dataset(file: Path, spec: ArraySpec) -> Region:
    with _open(file) as h5:
        return _region_of(h5, file, spec)


def _region_of(h5: Any, file: Path, spec: ArraySpec) -> Region:
    if spec.name not in h5:
        raise PackError(f"{file}: dataset {spec.name} is missing; restore the file or pack again")
    dataset = h5[spec.name]
    if dataset.dtype != spec.dtype or dataset.shape != spec.shape:
        raise PackError(
            f"{file}: expected {spec.name} to be {spec.dtype} {spec.shape}, found "
            f"{dataset.dtype} {dataset.shape}; restore the file or pack again"
        )
    # None for a dataset that is chunked, compact or external.
    offset = dataset.id.get_offset()
    if offset is None or offset + spec.nbytes > file.stat().st_size:
        raise PackError(
            f"{file}: expected {spec.name} contiguous within the file; "
            "restore the file or pack again"
        )
    return Region(spec, file, offset)
