"""Batches: labels and images of one file, pickled, binary or in npy files, a block at a time."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import SourceError
from cinicpack.formats.bundles import NPZ, Bundle, Entry, list_zip
from cinicpack.formats.npy import open_npy
from cinicpack.formats.pickles import load_pickle

__all__ = ["Batch", "Block", "Labels", "read_npy", "read_npz", "read_pickle", "read_records"]

# Images in a block: 3 MB of 32x32.
_BLOCK_ROWS: Final = 1024
# Sides of images by the bytes in a row of planes: CIFAR's, and the sizes that ImageNet was made in.
_SIDES: Final = {3 * side * side: side for side in (8, 16, 32, 64)}


_LABELS: Final = np.dtype(np.int64)


class Block(NamedTuple):
    """Some images of a batch.

    Attributes:
        labels: (n,) int64, counted from 0.
        images: (n, height, width, 3) uint8.
    """

    labels: NDArray[np.int64]
    images: NDArray[np.uint8]


class Batch(NamedTuple):
    """The images of one file.

    Attributes:
        size: how many there are.
        blocks: all of them, in their order.
    """

    size: int
    blocks: Iterator[Block]


class Labels(NamedTuple):
    """The labels that a batch may have.

    Attributes:
        number: how many there are.
        first: the lowest.
    """

    number: int
    first: int = 0

    def check(self, found: Any, where: str, start: int = 0) -> NDArray[np.int64]:
        """Return labels counted from 0, (n,) int64, of the rows from ``start`` on.

        Raises `SourceError`, which names the first wrong one.
        """
        try:
            labels = np.asarray(found)
        except ValueError:
            labels = np.empty((0, 0))  # the lists in the list differ in length
        _check_labels(labels.dtype if labels.size else _LABELS, labels.shape, where)
        wrong = (labels < self.first) | (labels >= self.first + self.number)
        if wrong.any():
            row = int(wrong.argmax())
            raise SourceError(
                f"{where}: expected labels from {self.first} to {self.first + self.number - 1}, "
                f"found {labels[row]} in row {start + row}; fetch or make it again"
            )
        return labels.astype(np.int64) - self.first


def read_pickle(entry: Entry, where: str, labels: Labels, key: str = "labels") -> Batch:
    """Read a pickle with images in its array ``data`` and labels in the list or array ``key``.

    The array is in memory until the last image is given. Raises `SourceError` for any other file;
    nothing in it is called.
    """
    with entry.open() as file:
        content = load_pickle(file, where)
    data, found = content.get("data"), content.get(key)
    if not isinstance(data, np.ndarray) or found is None:
        raise SourceError(
            f"{where}: expected an array 'data' and labels {key!r}, found "
            f"{', '.join(map(repr, content)) or 'nothing'}"
        )
    _check_images(data.dtype, data.shape, where)
    checked = labels.check(found, where)
    _check_lengths(len(data), len(checked), where)
    # A copy, so that a block that is still on its way does not keep the whole array.
    pieces = (data[row : row + _BLOCK_ROWS].copy() for row in range(0, len(data), _BLOCK_ROWS))
    return Batch(len(data), _join(pieces, checked))


def read_records(
    entry: Entry, where: str, labels: Labels, column: int = 0, columns: int = 1
) -> Batch:
    """Read records of so many labels, of one byte each, and the planes of a 32x32 image.

    The label in ``column`` is taken. Raises `SourceError` if the file ends within a record.
    """
    size = columns + 3 * 32 * 32
    count, rest = divmod(entry.nbytes, size)
    if rest:
        raise SourceError(
            f"{where}: expected records of {size} bytes, found {entry.nbytes:,} bytes, so record "
            f"{count} is cut off; fetch or make it again"
        )

    def read() -> Iterator[Block]:
        with entry.open() as file:
            for start in range(0, count, _BLOCK_ROWS):
                data = file.read(min(_BLOCK_ROWS, count - start) * size)
                if len(data) % size or not data:
                    raise EOFError(f"it ends within record {start + len(data) // size}")
                records = np.frombuffer(data, np.uint8).reshape(-1, size)
                checked = labels.check(records[:, column], where, start)
                yield Block(checked, _to_images(records[:, columns:]))

    return Batch(count, read())


def read_npz(entry: Entry, where: str, labels: Labels) -> Batch:
    """Read an npz file with images in ``data`` and their labels in ``labels``, as a stream.

    Raises `SourceError` for any other file.
    """

    @contextmanager
    def opening() -> Iterator[Bundle]:
        with entry.open() as file:
            bundle = Bundle(Path(where))
            list_zip(file, bundle)
            if not bundle.keys() >= NPZ:
                raise SourceError(
                    f"{where}: expected arrays 'data' and 'labels', found "
                    f"{', '.join(sorted(bundle)) or 'nothing'}"
                )
            yield bundle

    with opening() as bundle:
        checked = _read_labels(bundle["data.npy"], bundle["labels.npy"], where, labels)

    def read() -> Iterator[Block]:
        with opening() as bundle:
            yield from _read_images(bundle["data.npy"], where, checked)

    return Batch(len(checked), read())


def read_npy(images: Entry, found: Entry, where: str, labels: Labels) -> Batch:
    """Read an npy file of images, which is named in errors, as a stream, and one of their labels.

    Raises `SourceError` for other files.
    """
    checked = _read_labels(images, found, where, labels)
    return Batch(len(checked), _read_images(images, where, checked))


def _read_labels(images: Entry, found: Entry, where: str, labels: Labels) -> NDArray[np.int64]:
    """Read the labels of images, and compare their number with that of the images."""
    with images.open() as file:
        header = open_npy(file, images.nbytes, where)
        _check_images(header.dtype, header.shape, where)
    with found.open() as file:
        npy = open_npy(file, found.nbytes, f"{where}: its labels")
        _check_labels(npy.dtype, npy.shape, where)
        _check_lengths(header.shape[0], npy.shape[0], where)
        return labels.check(np.concatenate([np.empty(0, _LABELS), *npy.read(1 << 20)]), where)


def _read_images(images: Entry, where: str, labels: NDArray[np.int64]) -> Iterator[Block]:
    with images.open() as file:
        yield from _join(open_npy(file, images.nbytes, where).read(_BLOCK_ROWS), labels)


def _join(pieces: Iterable[NDArray[np.uint8]], labels: NDArray[np.int64]) -> Iterator[Block]:
    """Put images and labels together, which are as many."""
    start = 0
    for piece in pieces:
        yield Block(labels[start : start + len(piece)], _to_images(piece))
        start += len(piece)


def _to_images(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (n, height, width, 3) of that or of (n, planes)."""
    if rows.ndim == 4:
        return rows
    side = _SIDES[rows.shape[1]]
    return rows.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)


def _check_images(dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> None:
    planes = len(shape) == 2 and shape[1] in _SIDES
    if dtype != np.uint8 or not (planes or (len(shape) == 4 and shape[3] == 3 and all(shape[1:3]))):
        raise SourceError(
            f"{where}: expected images of uint8, (n, 3072) as CIFAR's, (n, 12288) for 64x64 or "
            f"(n, height, width, 3), found {dtype} {shape}"
        )


def _check_labels(dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> None:
    if len(shape) != 1 or dtype.kind not in "iu":
        raise SourceError(
            f"{where}: expected one list of whole numbers as labels, found {dtype} {shape}"
        )


def _check_lengths(images: int, labels: int, where: str) -> None:
    if images != labels:
        raise SourceError(
            f"{where}: expected as many labels as images, found {labels:,} labels and {images:,} "
            "images; fetch or make it again"
        )
