"""Results: what became of all images, gathered from what workers found out about some of them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cinicpack.convert.conversion import Converted
from cinicpack.store.format import PROVENANCE_DTYPE
from cinicpack.store.mapping import map_file

__all__ = ["ConvertedImages", "HeldBack", "Results"]

# What is known of an image, as it lies in a scratch file.
_RECORD: Final = np.dtype(
    [
        ("scratch", "i8"),
        ("offsets", "i8"),
        ("shapes", "i4", 2),
        ("digests", "u1", 32),
        ("sums", "i8", 6),
        ("provenance", PROVENANCE_DTYPE),
        ("former", "u1"),
    ]
)
_FOUND: Final = ("offsets", "shapes", "digests", "sums", "provenance")


@dataclass(frozen=True)
class ConvertedImages:
    """All n images of a source, converted, in the order in which they came.

    Attributes:
        scratches: the files that have their planes.
        scratch: (n,) int64, place of each image's file in ``scratches``.
        offsets: (n,) int64, where in it each image is; -1 for one that is bad.
        shapes: (n, 2) int32, height and width.
        digests: (n, 32) uint8, as `store.format` defines them.
        sums: (n, 6) int64, sum and sum of squares of each channel.
        provenance: (n,) provenance, from the file names.
        bad: number and reason of every bad image.
        reduced: numbers of images with 16 bits per channel, of which Pillow keeps 8.
        former: (n,) uint8, place in ``kinds`` of what each image was.
        kinds: names of what was not RGB, behind "" for what was.
    """

    scratches: list[str]
    scratch: NDArray[np.int64]
    offsets: NDArray[np.int64]
    shapes: NDArray[np.int32]
    digests: NDArray[np.uint8]
    sums: NDArray[np.int64]
    provenance: NDArray[np.void]
    bad: dict[int, str]
    reduced: list[int]
    former: NDArray[np.uint8]
    kinds: list[str]

    def image_shape(self, rows: NDArray[np.int64]) -> tuple[int, int, int]:
        """Return height, width and channels of the first of these images, and so of all."""
        height, width = self.shapes[rows[0]].tolist()
        return height, width, 3

    def origins(self, rows: NDArray[np.int64]) -> list[int]:
        """Return the origins that occur among these images, ascending."""
        found: list[int] = np.unique(self.provenance["origin"][rows]).tolist()
        return found


class HeldBack(NamedTuple):
    """The last bytes of a task, which are to be written at ``offset`` of ``file`` in the end."""

    file: str
    offset: int
    data: bytes


class Results:
    """Results of tasks, in their order, kept in a scratch file: those of a million have 113 MB.

    Attributes:
        held_back: what workers held back.
    """

    def __init__(self, scratch: Path) -> None:
        self._path = scratch
        self._file = open(scratch, "xb")
        self._scratches: dict[str, int] = {}
        self._bad: dict[int, str] = {}
        self._reduced: list[int] = []
        self._kinds = {"": 0}
        self._count = 0
        self.held_back: list[HeldBack] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, result: Converted) -> None:
        """Add the result of the next task."""
        records = np.empty(len(result.offsets), _RECORD)
        records["scratch"] = self._scratches.setdefault(result.scratch, len(self._scratches))
        for field in _FOUND:
            records[field] = getattr(result, field)
        records["former"] = 0
        for place, kind in result.recoloured:
            records["former"][place] = self._kinds.setdefault(kind, len(self._kinds))
        self._file.write(records.data)
        self._bad.update((self._count + place, reason) for place, reason in result.bad)
        self._reduced += [self._count + place for place in result.reduced]
        self._count += len(records)
        if result.held_back:
            end = int(result.offsets[-1]) + 3 * math.prod(result.shapes[-1].tolist())
            place = end - len(result.held_back)
            self.held_back.append(HeldBack(result.scratch, place, result.held_back))

    def join(self) -> ConvertedImages:
        """Return all images; what is known of them stays in the file, and is mapped."""
        self._file.close()
        records = np.asarray(map_file(self._path)).view(_RECORD)
        return ConvertedImages(
            scratches=[*self._scratches],
            scratch=records["scratch"],
            **{field: records[field] for field in _FOUND},
            bad=self._bad,
            reduced=self._reduced,
            former=records["former"],
            kinds=[*self._kinds],
        )
