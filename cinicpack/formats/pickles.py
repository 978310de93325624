"""The pickles of CIFAR's Python version: written as Python 2 would, read as nothing but data."""

import io
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import SourceError
from cinicpack.shortage import is_shortage
from cinicpack.text import one_line

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


def load_pickle(source: bytes | IO[bytes], where: str) -> dict[str, Any]:
    """Read a pickled dictionary, of any Python, with arrays of numbers in it.

    Nothing that a pickle names is called: functions of this module stand in for NumPy's, under the
    old and the new names of its modules, and anything else is refused. Keys, texts and lists of
    texts are ``str`` whatever they were. A file is read as it is needed, so that an array is in
    memory once. ``where`` names the file in errors.

    Raises `SourceError` if it is no pickle, or one with something else in it, and what ``source``
    does where it cannot be read.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        content = _Reader(file, encoding="bytes").load()
        if isinstance(content, dict):
            return {_text(key): _value(value) for key, value in content.items()}
    except Exception as error:
        # Every kind of exception: the unpickler raises many kinds for broken data, among them a
        # MemoryError where nine bytes announce more than any machine could hold.
        if isinstance(error, OSError) and is_shortage(error):
            raise
        found = one_line(error)
        if isinstance(error, MemoryError):
            found = "one that needs more memory than there is, or is damaged"
        raise SourceError(
            f"{where}: expected a pickled dictionary of arrays and labels, found {found}; fetch or "
            "make it again"
        ) from None
    raise SourceError(f"{where}: expected a pickled dictionary, found {type(content).__name__}")


class _Function:
    """What a pickle may call; it has no attribute that the pickle could set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function that is given a state")


class _Type:
    """A NumPy type, made from its name and, in its state, its byte order."""

    def __init__(self, name: str | bytes, *_: Any) -> None:
        self._name = _text(name).lstrip("|")
        self._order: Any = "="

    def __setstate__(self, state: Any) -> None:
        self._order = _text(state[1])

    def make(self) -> np.dtype[Any]:
        if self._name not in _NUMBERS:
            raise pickle.UnpicklingError(f"an array of {self._name}")
        return np.dtype(self._name).newbyteorder(self._order)


class _Array:
    """An array, made from its state."""

    def __init__(self, *_: Any) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        self.array = _from_buffer(data, dtype, shape, "F" if by_columns else "C")


def _from_buffer(data: Any, dtype: _Type, shape: Any, order: Any) -> NDArray[Any]:
    """Do what protocol 5 has called: ``numpy.core.numeric._frombuffer``."""
    return np.frombuffer(data, dtype.make()).reshape(shape, order=_text(order))  # type: ignore[call-overload, no-any-return]


def _scalar(dtype: _Type, data: bytes) -> Any:
    [number] = np.frombuffer(data, dtype.make()).tolist()
    return number


def _encode(text: str, encoding: str | bytes) -> bytes:
    """Do what Python 3 asks for bytes in protocols up to 2: ``_codecs.encode(text, "latin1")``."""
    if _text(encoding) != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


# Types of numbers, by the names that pickles have for them.
_NUMBERS: Final = frozenset({"u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"})


_KNOWN: Final = {
    ("numpy", "ndarray"): _Function(_Array),
    ("numpy", "dtype"): _Function(_Type),
    ("_codecs", "encode"): _Function(_encode),
    # Python 3 writes empty bytes as a call bytes() in protocols up to 2.
    ("__builtin__", "bytes"): _Function(lambda: b""),
    **{
        # NumPy 2 has renamed numpy.core.
        (f"{core}.{module}", name): _Function(call)
        for core in ("numpy.core", "numpy._core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"a call of {module}.{name}, which is not made")
        return _KNOWN[module, name]


def _value(value: Any) -> Any:
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    if isinstance(value, _Array | _Type | _Function):
        raise pickle.UnpicklingError("a part of NumPy where a value belongs")
    if isinstance(value, list):
        return [_text(item) if isinstance(item, bytes) else item for item in value]
    return _text(value) if isinstance(value, bytes) else value


def _text(text: str | bytes) -> str:
    return text.decode("latin1") if isinstance(text, bytes) else text
