"""Files in npy form, of others, read some rows at a time."""

import math
from collections.abc import Iterator
from typing import IO, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import SourceError

__all__ = ["NpyFile", "open_npy"]

_EXPECTED: Final = "expected an npy file of numbers in C order"


class NpyFile(NamedTuple):
    """An open npy file, before its first row.

    Attributes:
        file: the file.
        where: what messages name.
        dtype: of its numbers.
        shape: of all rows.
    """

    file: IO[bytes]
    where: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read(self, rows: int) -> Iterator[NDArray[Any]]:
        """Give all rows, at most so many at a time."""
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        for start in range(0, self.shape[0], rows):
            count = min(rows, self.shape[0] - start)
            data = self.file.read(count * row_bytes)
            if len(data) < count * row_bytes:
                raise EOFError(f"it ends after {start + len(data) // row_bytes} rows")
            yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


def open_npy(file: IO[bytes], nbytes: int, where: str) -> NpyFile:
    """Read the header of an npy file of ``nbytes`` bytes, which ``where`` names in errors.

    Raises `SourceError` for one of objects, which are pickled, and for one that is cut off.

    >>> import io
    >>> np.save(file := io.BytesIO(), np.arange(5))
    >>> size, _ = file.tell(), file.seek(0)
    >>> [block.tolist() for block in open_npy(file, size, "here").read(3)]
    [[0, 1, 2], [3, 4]]
    """
    try:
        version = np.lib.format.read_magic(file)
        # Version 3 is for names of fields that are not ASCII.
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, by_columns, dtype = read(file)
    except (ValueError, KeyError, EOFError) as error:
        raise SourceError(f"{where}: {_EXPECTED}, found none ({error})") from None
    if dtype.kind not in "uif" or (by_columns and len(shape) > 1) or not shape:
        order = "Fortran order" if by_columns else "C order"
        raise SourceError(f"{where}: {_EXPECTED}, found {dtype} {shape} in {order}")
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if nbytes != expected:
        raise SourceError(
            f"{where}: expected {expected:,} bytes for {dtype} {shape}, found {nbytes:,}; "
            "fetch or make it again"
        )
    return NpyFile(file, where, dtype, shape)
