"""The HDF5 container: one file with a contiguous dataset per array and ``pack.json``.

HDF5 is asked where the datasets lie and then left alone: reading and writing go to the file itself.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from cinicpack.errors import PackError
from cinicpack.shortage import is_shortage
from cinicpack.store.format import MANIFEST_NAME, ArraySpec, Manifest
from cinicpack.store.region import Region, allocate, write_all

__all__ = ["create_arrays", "has_manifest", "locate_arrays", "read_manifest", "write_manifest"]

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
        if MANIFEST_NAME not in h5:
            raise PackError(f"{file}: expected a pack, found HDF5 without {MANIFEST_NAME}")
        size = h5[MANIFEST_NAME].size
        _, _, offset = _region_of(h5, file, ArraySpec(MANIFEST_NAME, np.dtype("u1"), (size,)))
    with open(file, "rb") as stream:
        stream.seek(offset)
        text = stream.read(size)
    manifest = Manifest.from_json(text, f"{file}:{MANIFEST_NAME}")
    if (found := file.stat().st_size) != manifest.file_bytes:
        raise PackError(
            f"{file}: expected {manifest.file_bytes} bytes, found {found}; "
            "restore the file or pack again"
        )
    return manifest


def has_manifest(file: Path) -> bool:
    """Tell whether the file is HDF5 with a manifest in it, be it damaged."""
    try:
        with _open(file) as h5:
            return MANIFEST_NAME in h5
    except PackError:
        return False


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
        if is_shortage(error):
            raise
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
