"""The pickles of CIFAR-10's Python version: written as Python 2 would, read as nothing but data."""

import io
import pickle
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import SourceError

__all__ = ["Value", "dump_pickle", "load_pickle"]

Value = bytes | int | Sequence["Value"] | Mapping[bytes, "Value"] | NDArray[np.uint8]

_PROTOCOL_2: Final = b"\x80\x02"
_STOP: Final = b"."


def dump_pickle(value: Value) -> bytes:
    """Pickle with protocol 2, bytes becoming Python 2's ``str``.

    Readers ask for these as text (torchvision: ``encoding="latin1"``) or as bytes (Keras:
    ``encoding="bytes"``), and Python 3's own pickler can only write one or the other. It numbers
    what it writes as Python 2's cPickle did, so ``batches.meta`` comes out as the original, byte
    for byte.

    >>> import pickle
    >>> pickle.loads(dump_pickle({b"num_vis": 3072}), encoding="latin1")
    {'num_vis': 3072}
    """
    out = io.BytesIO()
    _Writer(out).write(value)
    return _PROTOCOL_2 + out.getvalue() + _STOP


class _Writer:
    """Writes opcodes, and remembers how many values have been numbered."""

    def __init__(self, out: io.BytesIO) -> None:
        self._out = out
        self._numbered = 0

    def write(self, value: Value) -> None:
        put = self._out.write
        match value:
            case bytes():
                self._write_string(value)
            case int():
                put(_integer(value))
            case Sequence():
                put(b"]" + self._number() + b"(")
                for item in value:
                    self.write(item)
                put(b"e")
            case Mapping():
                put(b"}" + self._number() + b"(")
                for key, item in value.items():
                    self.write(key)
                    self.write(item)
                put(b"u")
            case _:
                self._write_array(value)

    def _write_string(self, value: bytes) -> None:
        short = len(value) < 256
        start = b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))
        self._out.write(start)
        self._out.write(value)
        self._out.write(self._number())

    def _write_array(self, array: NDArray[np.uint8]) -> None:
        # As numpy.ndarray.__reduce__ has it: a call of _reconstruct(ndarray, (0,), "b"), then the
        # state (1, shape, dtype, False for C order, data).
        put = self._out.write
        put(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n")
        put(_integer(0) + b"\x85U\1btR(" + _integer(1) + b"(")
        put(b"".join(map(_integer, array.shape)) + b"t")
        put(b"cnumpy\ndtype\n(U\2u1" + _integer(0) + _integer(1) + b"tR(")
        put(_integer(3) + b"U\1|NNN" + _integer(-1) + _integer(-1) + _integer(0) + b"tb\x89")
        self._write_string(array.tobytes())
        put(b"tb")

    def _number(self) -> bytes:
        self._numbered += 1
        if self._numbered < 256:
            return b"q" + bytes([self._numbered])
        return b"r" + struct.pack("<i", self._numbered)


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 8:
        return b"K" + struct.pack("<B", value)
    if 0 <= value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    return b"J" + struct.pack("<i", value)


def load_pickle(data: bytes, where: str) -> dict[str, Any]:
    """Read a pickled dictionary, of any Python, with uint8 arrays in it.

    Nothing that a pickle names is called: numpy's constructors stand for themselves until the
    arrays are made here from their bytes, and anything else is refused. ``where`` names the file
    in errors.

    Raises `SourceError` if it is no pickle, or one with something else in it.
    """
    try:
        content = _Reader(io.BytesIO(data), encoding="latin1").load()
        if isinstance(content, dict):
            return {_text(key): _value(value) for key, value in content.items()}
    except Exception as error:
        # Every kind of exception: the unpickler raises many kinds for broken data, among them a
        # MemoryError where nine bytes announce more than any machine could hold.
        raise SourceError(
            f"{where}: expected a pickled batch of CIFAR-10, found {str(error) or repr(error)}"
        ) from None
    raise SourceError(f"{where}: expected a pickled dictionary, found {type(content).__name__}")


class _Call:
    """A call that a pickle asks for, and the state for what it returns; nothing is called."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _encode(text: str, encoding: str) -> bytes:
    """Do what Python 3 asks for bytes in protocols up to 2: ``_codecs.encode(text, "latin1")``."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


class _Reader(pickle.Unpickler):
    _KNOWN: Final[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _Call,
        ("numpy._core.multiarray", "_reconstruct"): _Call,
        ("numpy", "ndarray"): _Call,
        ("numpy", "dtype"): _Call,
        ("_codecs", "encode"): _encode,
        # Python 3 writes empty bytes as a call bytes() in protocols up to 2.
        ("__builtin__", "bytes"): lambda: b"",
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"a call of {module}.{name}, which is not made")
        return self._KNOWN[module, name]


def _value(value: Any) -> Any:
    if not isinstance(value, _Call):
        return value
    _, shape, dtype, by_columns, data = value.state
    if _text(dtype.arguments[0]) not in ("u1", "|u1", "uint8"):
        raise ValueError(f"an array of {dtype.arguments[0]}")
    pixels = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, np.uint8)
    return pixels.reshape(shape, order="F" if by_columns else "C")


def _text(text: str | bytes) -> str:
    return text.decode("latin1") if isinstance(text, bytes) else text
