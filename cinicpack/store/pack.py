"""An open pack, and how it is opened."""

import os
from collections.abc import Iterable, Iterator, KeysView
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError, PackError, SelectionError
from cinicpack.store.images import Shard, address_of
from cinicpack.store.manifest import Manifest
from cinicpack.store.mapping import Mapping, Stamp, check_unchanged, map_files, view_arrays
from cinicpack.store.reader import check_labels, check_normalization, locate_pack, read_steadily
from cinicpack.store.region import name_place
from cinicpack.store.split import Split, reselect

__all__ = ["Pack", "PathLike", "open_pack"]

PathLike: TypeAlias = str | os.PathLike[str]

# Pickles of splits that were written before `Split` had its own module name the function here.
_reselect = reselect


def open_pack(path: PathLike, *, in_memory: bool = False) -> "Pack":
    """Open a pack: a directory of npy files or an HDF5 file.

    The manifest, the size of every file, its header and the range of the labels are checked; the
    images are memory-mapped and not read. An open pack keeps working when its files are deleted or
    replaced. It does not when they are written to in place: whoever reads what has been cut off is
    ended by the system's signal SIGBUS. The files are read-only for that reason.

    Args:
        path: where the pack is.
        in_memory: read all of it once, into memory of this process that all who open it so share,
            and map nothing: for files that others may write to, or that a network may take away.

    Raises:
        ArgumentError: ``path`` is a `Split`.
        FileNotFoundError: there is nothing at ``path``.
        PackError: there is something else, or the pack is damaged.
        FormatVersionError: the pack was written by a newer cinicpack, or is an HDF5 pack of version
            1, which has to be made again.

    >>> import cinicpack
    >>> pack = cinicpack.open_pack("cinic10.pack")
    >>> pack["train"].images.shape[1:]
    (32, 32, 3)
    """
    if isinstance(path, Split):
        raise ArgumentError(
            f"expected the path of a pack, found {path!r}; give its pack first, as in "
            "Loader(split.pack, split)"
        )
    path = Path(path)
    return read_steadily(path, partial(_open, in_memory=in_memory))


def _open(path: Path, in_memory: bool) -> "Pack":
    container, manifest, regions = locate_pack(path)
    files = map_files(regions, in_memory=in_memory)
    arrays = view_arrays(regions, files)
    check_normalization(path, manifest)
    for region in regions:
        if region.spec.name.endswith("/labels"):
            place = name_place(region, regions)
            check_labels(place, arrays[region.spec.name], manifest)
    return Pack(path, container.name, manifest, arrays, files)


class Pack:
    """An open pack: a mapping of names to splits, and of unions such as "train+valid" too.

    Attributes:
        path: where it was opened.
        format: name of its container, "npy" or "hdf5".
        splits: names of the splits.
        classes: class names in label order, as torchvision's datasets have them.
        class_to_idx: label of every class name.
        image_shape: (height, width, 3).
        mean: mean of each channel for pixels in [0, 1], which ``normalize=True`` uses: CINIC-10's
            published one if the images are of CINIC-10, else that of train, or of the first split.
            Every split and selection has the same; ``manifest.normalization.origin`` says which.
        std: standard deviation of each channel for pixels in [0, 1], of the images that ``mean`` is
            of.
        fingerprint: SHA-256 over all images, the same for every container and kind of source.
        manifest: everything that the pack says of itself.

    >>> import cinicpack
    >>> pack = cinicpack.open_pack("cinic10.pack")
    >>> list(pack), {name: len(split) for name, split in pack.items()}
    (['train', 'valid', 'test'], {'train': 90, 'valid': 90, 'test': 90})
    """

    def __init__(
        self,
        path: Path,
        container: str,
        manifest: Manifest,
        arrays: dict[str, NDArray[Any]],
        files: dict[Path, Mapping],
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.format = container
        self.splits = tuple(manifest.splits)
        self.classes = manifest.classes
        self.class_to_idx = {name: label for label, name in enumerate(manifest.classes)}
        self.image_shape = manifest.image_shape
        self.mean = manifest.normalization.mean
        self.std = manifest.normalization.std
        self.fingerprint = manifest.fingerprint
        self._arrays = arrays
        self._files = files
        # What is compared when an epoch starts; nobody else writes what was read into memory.
        self._watched = [
            (file, os.path.abspath(file), mapping.stamp)
            for file, mapping in files.items()
            if mapping.stamp is not None
        ]
        # Those of the files above that have images of a split, by its name, once they are found.
        self._watched_of: dict[str, list[tuple[Path, str, Stamp]]] = {}
        self._in_memory = not self._watched
        # A pickle names the pack by an absolute path, since the working directory may have changed
        # by the time of pickling.
        self._home = path.absolute()

    def __getitem__(self, split: str) -> Split:
        """Return one split, or several joined by ``+``, one after the other in that order."""
        names = self._check_names(split)
        fields = {
            field: _concatenate([self._arrays[f"{name}/{field}"] for name in names])
            for field in ("labels", "sources", "names")
        }
        known = self.manifest.splits[split].fingerprint if len(names) == 1 else None
        return Split(self, split, self._find_shards(names), fields, None, known)

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)

    def keys(self) -> KeysView[str]:
        """Return the names of the splits."""
        return self.manifest.splits.keys()

    def values(self) -> list[Split]:
        """Return the splits."""
        return [self[name] for name in self]

    def items(self) -> list[tuple[str, Split]]:
        """Return the splits with their names."""
        return [(name, self[name]) for name in self]

    def check_unchanged(self, split: str | None = None) -> None:
        """Raise `PackError` if a file of the pack was written to since it was opened.

        Size and time of change of every file are compared with those at opening, which takes 2 µs
        each. A pack that was deleted or replaced meanwhile is as it was, and so is one that was
        read into memory.

        Args:
            split: look only at the files that have images of this split, or of several joined by
                ``+``; None: at all. Raises `SelectionError` for another.

        >>> import cinicpack
        >>> cinicpack.open_pack("cinic10.pack").check_unchanged()
        """
        check_unchanged(self._watched if split is None else self._find_watched(split))

    def find_mappings(self, addresses: NDArray[np.uint64]) -> list[Mapping]:
        """Find the files of the pack that lie at any of these addresses of memory."""
        return [mapping for mapping in self._files.values() if mapping.holds(addresses)]

    def _check_names(self, split: str) -> list[str]:
        """Name the splits of a union; raises `SelectionError`."""
        names = split.split("+") if isinstance(split, str) else [split]
        for name in names:
            if not isinstance(name, str) or name not in self.manifest.splits:
                raise SelectionError(
                    f"{self.path}: expected a split out of {', '.join(self.splits)} "
                    f"(or several joined by '+'), found {name!r}"
                )
        if len(set(names)) < len(names):
            raise SelectionError(f"{self.path}: expected every split once, found {split!r}")
        return names

    def _find_watched(self, split: str) -> list[tuple[Path, str, Stamp]]:
        if split not in self._watched_of:
            shards = self._find_shards(self._check_names(split))
            starts = np.array([address_of(shard) for shard in shards])
            self._watched_of[split] = [
                each for each in self._watched if self._files[each[0]].holds(starts)
            ]
        return self._watched_of[split]

    def _find_shards(self, splits: Iterable[str]) -> list[Shard]:
        return [
            self._arrays[f"{name}/images-{number:05d}"]
            for name in splits
            for number in range(len(self.manifest.splits[name].shards))
        ]

    def __contains__(self, split: object) -> bool:
        return split in self.manifest.splits

    def __repr__(self) -> str:
        height, width, _ = self.image_shape
        rows = ", ".join(f"{name} {info.rows}" for name, info in self.manifest.splits.items())
        return f"Pack({str(self.path)!r}, {rows}, {height}x{width}, {len(self.classes)} classes)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._home, self.fingerprint, self._in_memory)


def _concatenate(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    if len(arrays) == 1:
        return arrays[0]
    joined = np.concatenate(arrays)
    joined.flags.writeable = False
    return joined


def _reopen(path: Path, fingerprint: str, in_memory: bool) -> Pack:
    pack = open_pack(path, in_memory=in_memory)
    if pack.fingerprint != fingerprint:
        raise PackError(
            f"{path}: expected the pack {fingerprint[:12]}, found {pack.fingerprint[:12]}: "
            "it was replaced since this object was pickled"
        )
    return pack
