"""Arrays as a source: the images and labels of splits, in memory or mapped from files."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cinicpack.convert.files import Content, Read, Remarks, row_name
from cinicpack.convert.packer import make_pack
from cinicpack.convert.plan import Wanted
from cinicpack.errors import ArgumentError
from cinicpack.store.format import CHANNELS, is_folder_name, is_split_name
from cinicpack.store.pack import Pack
from cinicpack.text import some

__all__ = ["Arrays", "check_names", "pack_arrays", "put_channels_last"]

_EXPECTED: Final = 'expected {"train": (images, labels), ...}'


def pack_arrays(
    arrays: Mapping[str, tuple[ArrayLike, ArrayLike]],
    destination: str | os.PathLike[str],
    *,
    classes: Sequence[str],
    format: str = "npy",  # noqa: A002  the word that numpy and h5py users know
    shard_rows: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Pack:
    """Make a pack of arrays, and open it.

    Row i of a split is image i, and is named by its number: ``00000000.png``. Images are read a few
    at a time, so that arrays that are mapped from files (``np.load(..., mmap_mode="r")``) may be
    larger than memory. ``destination`` appears at once when all is done.

    Args:
        arrays: by the names of splits, images and labels, of NumPy or of torch on the host. Images
            are uint8, (N, H, W, 3) or (N, 3, H, W), all of one size; labels are N integers.
        destination: the pack to make.
        classes: the names of all classes, in the order of their labels. A split may lack some.
        format: "npy", a directory of npy files, or "hdf5", one file.
        shard_rows: images in one npy file or dataset; None: all of a split.
        overwrite: replace a pack at ``destination``.
        progress: show a bar, if standard error is a terminal.

    Raises:
        ArgumentError: images are of another type or shape, or of one that could be both, as
            (N, 3, H, 3) could; lengths differ; a label is of no class; names cannot be a pack's.
        DestinationError: ``destination`` is there and is not to be overwritten, or cannot be made.

    >>> import cinicpack
    >>> import numpy as np
    >>> images, labels = np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 1, 0]
    >>> cinicpack.pack_arrays({"train": (images, labels)}, "new.pack", classes=["cat", "dog"])
    Pack('new.pack', train 4, 8x8, 2 classes)
    """
    wanted = Wanted(shard_rows=shard_rows, progress=progress)
    opening = partial(Arrays, arrays, classes)
    return make_pack(opening, Path(destination), format, wanted, overwrite=overwrite)


class _Rows(NamedTuple):
    """Images (N, H, W, 3) uint8, and their labels (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer[Any]]


class Arrays:
    """Images and labels of some splits, a `Source` of pixels whose rows are known beforehand.

    Raises what `pack_arrays` does of its arrays and classes.
    """

    path = Path("arrays")
    keeps_order = True
    fraction = 1.0
    remarks = Remarks()

    def __init__(
        self, arrays: Mapping[str, tuple[ArrayLike, ArrayLike]], classes: Sequence[str]
    ) -> None:
        self.classes: tuple[str, ...] | None = check_names(arrays, classes)
        self._splits = {name: _check_pair(name, pair) for name, pair in arrays.items()}
        for name, (_, labels) in self._splits.items():
            _check_labels(name, labels, self.classes)
        sizes = {name: rows.images.shape[1:3] for name, rows in self._splits.items()}
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
            raise ArgumentError(f"expected images of one size in all splits, found {found}")
        self.read: Read | None = self._read

    def is_small(self, images: int, nbytes: int) -> bool:  # noqa: ARG002  whatever there is of both
        """Tell that it is: there is nothing to decode, so other processes would only copy."""
        return True

    def paths(self) -> Iterator[str]:
        """List the images, in the order of their rows."""
        assert self.classes is not None
        for split, (_, labels) in self._splits.items():
            for row, label in enumerate(labels):
                yield f"{split}/{self.classes[label]}/{row_name(row)}"

    def stream(self) -> Iterator[tuple[str, Content]]:
        """Give the pixels of every image."""
        paths = list(self.paths())
        return zip(paths, self._read(paths), strict=True)

    def _read(self, paths: Sequence[str]) -> Iterator[Content]:
        for path in paths:
            split, _, name = path.split("/")
            yield self._splits[split].images[int(name.partition(".")[0])]


def check_names(splits: Mapping[str, object], classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes; raises `ArgumentError` for names that a pack's splits or classes lack."""
    if not isinstance(splits, Mapping) or not splits:
        raise ArgumentError(f"{_EXPECTED}, found {splits if splits == {} else type(splits)}")
    for name in splits:
        if not isinstance(name, str) or not is_split_name(name):
            raise ArgumentError(
                f"expected splits with names as 'train', without '+', found {name!r}"
            )
    names = () if isinstance(classes, str) else tuple(classes)
    if not names or not all(isinstance(name, str) for name in names):
        raise ArgumentError(f"expected the names of the classes in a list, found {classes!r}")
    for name in names:
        if not is_folder_name(name) or name.startswith("."):
            raise ArgumentError(
                f"expected classes with names that a visible folder can have, found {name!r}"
            )
    if len(set(names)) < len(names):
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        raise ArgumentError(f"expected every class once, found more of {some(twice, quoted=True)}")
    return names


def put_channels_last(images: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
    """Return a view (..., H, W, 3) of images (..., H, W, 3) or (..., 3, H, W).

    Raises `ArgumentError`, which names ``what``, for other types and shapes, and for what has both.
    """
    last, first = images.shape[-1:] == (CHANNELS,), images.shape[-3:-2] == (CHANNELS,)
    if images.dtype != np.uint8 or not (last or first) or 0 in images.shape[-3:]:
        hint = "" if images.dtype == np.uint8 else ": give what was before it was scaled, 0 to 255"
        raise ArgumentError(
            f"{what}: expected pixels uint8, (height, width, 3) or (3, height, width) each, found "
            f"{images.dtype} {images.shape}{hint}"
        )
    if last and first:
        raise ArgumentError(
            f"{what}: expected pixels whose channels are either last or first, found "
            f"{images.shape}, which could be both; give PIL images to pack_dataset instead"
        )
    return images if last else np.moveaxis(images, -3, -1)


def _check_pair(split: str, pair: Any) -> _Rows:
    try:
        images, labels = pair
        arrays = np.asarray(images), np.asarray(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        # torch raises TypeError for a tensor on a device, NumPy ValueError for a ragged list.
        raise ArgumentError(
            f"{split}: {_EXPECTED}, of NumPy or of torch on the host, found something else: {error}"
        ) from None
    if arrays[0].ndim != 4:
        raise ArgumentError(
            f"{split}: expected images (N, height, width, 3) or (N, 3, height, width), found "
            f"{arrays[0].shape}"
        )
    pixels = put_channels_last(arrays[0], split)
    if arrays[1].dtype.kind not in "iu" or arrays[1].shape != arrays[0].shape[:1]:
        raise ArgumentError(
            f"{split}: expected {len(pixels):,} labels, integers in one row as there are images, "
            f"found {arrays[1].dtype} {arrays[1].shape}"
        )
    if not len(pixels):
        raise ArgumentError(f"{split}: expected images, found none; leave the split out")
    return _Rows(pixels, arrays[1])


def _check_labels(split: str, labels: NDArray[np.integer[Any]], classes: Sequence[str]) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise ArgumentError(
            f"{split}: expected labels from 0 to {len(classes) - 1}, since there are "
            f"{len(classes)} classes, found {labels[wrong[0]]} in row {wrong[0]}"
            f"{f' and {len(wrong) - 1:,} more' if len(wrong) > 1 else ''}"
        )
