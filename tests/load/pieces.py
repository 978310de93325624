"""Work for the engine that a test sees and holds up: C functions that call Python."""

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any, Final

import pytest

from cinicpack.load import equipment
from cinicpack.load.engine import threads as engine
from cinicpack.load.engine.threads import Queue

__all__ = [
    "Late", "address_of_python", "count_pieces", "engine_for", "make_pieces_fail", "make_queue",
    "run_at_once",
]  # fmt: skip

Piece = Callable[[int, int], Any]

_FUNCTION: Final = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, ctypes.c_int64)
# Whatever a thread of the engine may still call.
_functions: Final[list[Any]] = []


def address_of_python(piece: Piece) -> int:
    """Return the address of a C function that calls ``piece``, and fails if that returns False."""
    function = _FUNCTION(lambda argument, number: piece(argument, number) is not False)
    _functions.append(function)
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def make_queue(piece: Piece, places: int = 1, num_workers: int = 1) -> Queue:
    """Make a queue whose jobs have the numbers of their places as arguments."""
    return Queue(address_of_python(piece), range(places), num_workers)


@contextmanager
def engine_for(cores: int) -> Iterator[None]:
    """Give this process another engine, for so many cores, and end its threads afterwards."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "_engine", None)
        patched.setattr(engine, "usable_cores", lambda: cores)
        yield
        if engine._engine is not None:
            engine._engine.stop()


def _replace_kernels(
    patched: pytest.MonkeyPatch, module: str, replace: Callable[[Any], Piece]
) -> None:
    """Let all loaders that are made from now on call Python, which is given the C function."""
    name = f"cinicpack.load.{module}.address_of"
    find = import_module(f"cinicpack.load.{module}").address_of
    patched.setattr(name, lambda kernel: address_of_python(replace(_FUNCTION(find(kernel)))))
    # What batches were made with before calls the kernel itself.
    patched.setattr(equipment, "_find_idle", cache(lambda _: deque(maxlen=1)))


def make_pieces_fail(patched: pytest.MonkeyPatch) -> None:
    _replace_kernels(patched, "kernels.task", lambda run: lambda *_: False)


def count_pieces(patched: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the argument of every piece that is begun from now on."""
    begun: list[int] = []

    def note(run: Any) -> Piece:
        def piece(argument: int, number: int) -> bool:
            begun.append(argument)
            return bool(run(argument, number))

        return piece

    _replace_kernels(patched, "kernels.task", note)
    return begun


class Late:
    """Pieces of all loaders made from now on: each waits, and is amid a kernel for that long.

    Args:
        patched: what undoes it.
        module: of cinicpack.load: "kernels.task" for batches, "samples" for reading ahead.

    Attributes:
        begun: set once a piece has begun.
        end: lets pieces go on.
        gone_on: set once a piece has gone on, by itself after a while.
    """

    def __init__(self, patched: pytest.MonkeyPatch, module: str = "kernels.task") -> None:
        self.begun, self.end, self.gone_on = (threading.Event() for _ in range(3))
        _replace_kernels(patched, module, self._wait_first)

    def _wait_first(self, run: Any) -> Piece:
        def piece(argument: int, number: int) -> bool:
            self.begun.set()
            is_let = self.end.wait(30)
            self.gone_on.set()
            return is_let and bool(run(argument, number))

        return piece


def run_at_once(function: Callable[[int], Any], count: int = 4) -> list[Any]:
    """Call it with 0 to count - 1, each on a thread; return what it returned or raised."""
    start = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        start.wait()
        try:
            results[number] = function(number)
        except Exception as error:
            results[number] = error

    # Daemons, so that what hangs fails a test and does not keep the process.
    consumers = [
        threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)
    ]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join(60)
        assert not consumer.is_alive()
    return results
