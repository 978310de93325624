"""An open pack: its splits, and selections of their images."""

import os
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cinicpack.cinic10 import Origin
from cinicpack.errors import ArgumentError, PackError, SelectionError
from cinicpack.store.fingerprints import digest_image, fingerprint_images, image_header
from cinicpack.store.images import ScatteredImages, Shard, address_of
from cinicpack.store.manifest import Manifest
from cinicpack.store.mapping import Mapping, check_unchanged, map_files, view_arrays
from cinicpack.store.reader import check_labels, check_normalization, locate_pack, read_steadily
from cinicpack.store.region import name_place

__all__ = ["ORIGINS_OF_SOURCE", "Pack", "PathLike", "Split", "open_pack"]

#: What ``source=`` may be, and for which origins each of the names stands.
ORIGINS_OF_SOURCE: Final = {
    "cifar10": (Origin.CIFAR10_TRAIN, Origin.CIFAR10_TEST),
    "imagenet": (Origin.IMAGENET,),
}

PathLike: TypeAlias = str | os.PathLike[str]

# How many images a fingerprint fetches and hashes at a time, so that they stay in the cache.
_BLOCK: Final = 512


def open_pack(path: PathLike, *, in_memory: bool = False) -> "Pack":
    """Open a pack: a directory of npy files or an HDF5 file.

    The manifest, the size of every file, its header and the range of the labels are checked; the
    images are memory-mapped and not read. An open pack keeps working when its files are deleted or
    replaced. It does not when they are written to in place: whoever reads what has been cut off is
    ended by the system's signal SIGBUS. The files are read-only for that reason.

    Args:
        path: where the pack is.
        in_memory: read all of it once, into memory of this process, and map nothing: for files that
            others may write to, or that a network may take away.

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
    """An open pack; ``pack["train"]`` or ``pack["train+valid"]`` is a `Split`.

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
        self._folder = "" if path.is_absolute() else os.getcwd()
        # A pickle names the pack by an absolute path, since the working directory may have changed
        # by the time of pickling.
        self._home = path.absolute()

    def __getitem__(self, split: str) -> "Split":
        """Return one split, or several joined by ``+``, one after the other in that order."""
        names = split.split("+") if isinstance(split, str) else [split]
        for name in names:
            if not isinstance(name, str) or name not in self.manifest.splits:
                raise SelectionError(
                    f"{self.path}: expected a split out of {', '.join(self.splits)} "
                    f"(or several joined by '+'), found {name!r}"
                )
        if len(set(names)) < len(names):
            raise SelectionError(f"{self.path}: expected every split once, found {split!r}")
        shards = [
            self._arrays[f"{name}/images-{number:05d}"]
            for name in names
            for number in range(len(self.manifest.splits[name].shards))
        ]
        fields = {
            field: _concatenate([self._arrays[f"{name}/{field}"] for name in names])
            for field in ("labels", "sources", "names")
        }
        known = self.manifest.splits[split].fingerprint if len(names) == 1 else None
        return Split(self, split, shards, fields, None, known)

    def check_unchanged(self) -> None:
        """Raise `PackError` if a file of the pack was written to since it was opened.

        Size and time of change of every file are compared with those at opening, which takes some
        microseconds. A pack that was deleted or replaced meanwhile is as it was, and so is one that
        was read into memory.

        >>> import cinicpack
        >>> cinicpack.open_pack("cinic10.pack").check_unchanged()
        """
        check_unchanged(self._files, self._folder)

    def __contains__(self, split: object) -> bool:
        return split in self.manifest.splits

    def __repr__(self) -> str:
        height, width, _ = self.image_shape
        rows = ", ".join(f"{name} {info.rows}" for name, info in self.manifest.splits.items())
        return f"Pack({str(self.path)!r}, {rows}, {height}x{width}, {len(self.classes)} classes)"

    def __reduce__(self) -> tuple[Any, ...]:
        in_memory = all(mapping.is_copy for mapping in self._files.values())
        return _reopen, (self._home, self.fingerprint, in_memory)


class Split:
    """Images of a pack with their labels, sources and names: a split, a union or a selection.

    Attributes:
        pack: the pack they are in.
        name: what was asked for: "train", "train+valid".
        rows: of a selection, its rows in what ``name`` stands for; None: all.
    """

    def __init__(
        self,
        pack: Pack,
        name: str,
        shards: Sequence[Shard],
        fields: dict[str, NDArray[Any]],
        rows: NDArray[np.int64] | None,
        fingerprint: str | None,
    ) -> None:
        self.pack = pack
        self.name = name
        self._shards = tuple(shards)
        self._fields = fields
        self.rows = rows
        self._fingerprint = fingerprint

    @cached_property
    def labels(self) -> NDArray[Any]:
        """Label of every image: (N,) uint8, uint16 above 256 classes."""
        return self._field("labels")

    @cached_property
    def sources(self) -> NDArray[Any]:
        """Provenance of every image: (N,) records of origin, synset and number."""
        return self._field("sources")

    @cached_property
    def names(self) -> NDArray[Any]:
        """File name of every image: (N,) bytes."""
        return self._field("names")

    @cached_property
    def images(self) -> NDArray[np.uint8] | ScatteredImages:
        """The images, (N, H, W, 3) uint8, read-only.

        An ndarray (a view of the file) where they lie in one run, else `ScatteredImages`.
        """
        images = ScatteredImages(self._shards, self.rows)
        return images if (run := images.run()) is None else run

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the images, whatever their order; of a selection hashed when asked for."""
        if self._fingerprint is not None:
            return self._fingerprint
        classes = [os.fsencode(name) for name in self.pack.classes]
        shape = self.pack.image_shape
        digests = []
        for start in range(0, len(self), _BLOCK):
            block = np.ascontiguousarray(self.images[start : start + _BLOCK])
            labels, names = self.labels[start : start + _BLOCK], self.names[start : start + _BLOCK]
            digests += [
                digest_image(image_header(classes[label], name, shape), pixels.data)
                for label, name, pixels in zip(labels.tolist(), names.tolist(), block, strict=True)
            ]
        return fingerprint_images(digests)

    def __len__(self) -> int:
        return len(self._fields["labels"]) if self.rows is None else len(self.rows)

    def __repr__(self) -> str:
        part = "" if self.rows is None else ", a selection"
        return f"Split({self.name!r} of {str(self.pack.path)!r}, {len(self)} images{part})"

    def select(
        self,
        source: str | None = None,
        classes: str | Iterable[str] | None = None,
        indices: ArrayLike | None = None,
    ) -> "Split":
        """Narrow to some of the images, without copying them.

        A loader normalises a selection as it does the whole: with the pack's mean and std.

        Args:
            source: "cifar10" or "imagenet".
            classes: one class name or several; labels stay as they are.
            indices: rows of this split (integers, in the order wanted, or a boolean mask).

        Raises `SelectionError` for a source, class or index that there is not, and where nothing
        is left.
        """
        rows = self.where(source=source, classes=classes)
        if indices is not None:
            chosen = self._check_indices(indices)
            rows = chosen[np.isin(chosen, rows)]
        if not len(rows):
            raise SelectionError(
                f"{self!r} has no images with source={source!r}, classes={classes!r} "
                "and these indices"
            )
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        rows = rows if self.rows is None else self.rows[rows]
        return Split(self.pack, self.name, self._shards, self._fields, rows, None)

    def where(
        self, *, source: str | None = None, classes: str | Iterable[str] | None = None
    ) -> NDArray[np.int64]:
        """Return the rows, ascending int64, of the images of a source and of some classes.

        Raises `SelectionError` for a source or class that there is not.
        """
        chosen = np.ones(len(self), bool)
        if source is not None:
            if not isinstance(source, str) or source not in ORIGINS_OF_SOURCE:
                raise SelectionError(
                    f"expected source {' or '.join(map(repr, ORIGINS_OF_SOURCE))}, found {source!r}"
                )
            chosen &= np.isin(self.sources["origin"], ORIGINS_OF_SOURCE[source])
        if classes is not None:
            names = [classes] if isinstance(classes, str) else list(classes)
            if unknown := [name for name in names if name not in self.pack.classes]:
                raise SelectionError(
                    f"expected classes out of {', '.join(self.pack.classes)}, "
                    f"found {', '.join(map(repr, unknown))}"
                )
            chosen &= np.isin(self.labels, [self.pack.class_to_idx[name] for name in names])
        return np.flatnonzero(chosen)

    def addresses(self) -> NDArray[np.uint64]:
        """Return where each image lies in memory: (N,) uint64, valid while the pack is referenced.

        At each address are 3 * H * W bytes: the planes of the image.
        """
        starts = np.concatenate(
            [
                address_of(shard)
                + np.arange(len(shard), dtype=np.uint64) * np.uint64(shard[0].nbytes)
                for shard in self._shards
            ]
        )
        return starts if self.rows is None else starts[self.rows]

    def __reduce__(self) -> tuple[Any, ...]:
        return _reselect, (self.pack, self.name, self.rows)

    def _field(self, name: str) -> NDArray[Any]:
        field = self._fields[name]
        if self.rows is None:
            return field
        field = field[self.rows]
        field.flags.writeable = False
        return field

    def _check_indices(self, indices: ArrayLike) -> NDArray[np.int64]:
        array = np.asarray(indices)
        if array.dtype == bool and array.shape == (len(self),):
            return np.flatnonzero(array)
        if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or not array.size):
            raise SelectionError(
                f"expected indices as whole numbers, or a mask of {len(self)}, in one dimension, "
                f"found {array.dtype} {array.shape}"
            )
        if array.size and not (-len(self) <= array.min() and array.max() < len(self)):
            raise SelectionError(f"expected indices below {len(self)}, found one outside")
        array = array.astype(np.int64)
        return np.where(array < 0, array + len(self), array)


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


def _reselect(pack: Pack, name: str, rows: NDArray[np.int64] | None) -> Split:
    return pack[name] if rows is None else pack[name].select(indices=rows)
