"""What compiled code needs beside arithmetic: POSIX mutexes, conditions, clock, advice; addresses.

All of them take addresses as uint64.
"""

import ctypes
import time
from functools import cache
from typing import Any, Final

import numba
from llvmlite import ir
from numba.extending import intrinsic, register_jitable

__all__ = [
    "CONDITION", "MUTEX", "TIME", "advise", "array_at", "await_until", "await_wake", "call",
    "init_condition", "init_mutex", "lock", "read_clock", "record_at", "unlock",
    "wake_all", "wake_one",
]  # fmt: skip

_types: Any = numba.types
_carray: Any = getattr(numba, "carray")  # noqa: B009
_ADDRESS, _INT = _types.uint64, _types.int32

# Fields of records with room for a pthread_mutex_t or pthread_cond_t, which take 40 to 64 bytes,
# and for a timespec.
MUTEX: Final = ("i8", (8,))
CONDITION: Final = MUTEX
TIME: Final = ("i8", (2,))

_library: Final = ctypes.CDLL(None)
# Where a condition cannot go by the clock that nobody sets, it goes by the other one.
_has_monotonic: Final = hasattr(_library, "pthread_condattr_setclock")
_CLOCK: Final = int(time.CLOCK_MONOTONIC if _has_monotonic else time.CLOCK_REALTIME)


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    return _types.ExternalFunction(name, result(*arguments))


lock: Any = _declare("pthread_mutex_lock", _INT, _ADDRESS)
unlock: Any = _declare("pthread_mutex_unlock", _INT, _ADDRESS)
wake_one: Any = _declare("pthread_cond_signal", _INT, _ADDRESS)
wake_all: Any = _declare("pthread_cond_broadcast", _INT, _ADDRESS)
# Of a condition and its mutex, and for the second one a time as well: 0 means woken.
await_wake: Any = _declare("pthread_cond_wait", _INT, _ADDRESS, _ADDRESS)
await_until: Any = _declare("pthread_cond_timedwait", _INT, _ADDRESS, _ADDRESS, _ADDRESS)
# Of an address, a number of bytes and the number of an advice: how the memory will be used.
advise: Any = _declare("madvise", _INT, _ADDRESS, _ADDRESS, _INT)
_clock_gettime: Any = _declare("clock_gettime", _INT, _INT, _ADDRESS)


@register_jitable
def read_clock(address: Any) -> None:
    """Write the time of the clock that `await_until` goes by: seconds, and nanoseconds."""
    _clock_gettime(_CLOCK, address)


def init_mutex(address: int) -> None:
    """Make a mutex, unlocked."""
    _check(_library.pthread_mutex_init(ctypes.c_void_p(address), None))


def init_condition(address: int) -> None:
    """Make a condition."""
    _check(_library.pthread_cond_init(ctypes.c_void_p(address), _by_the_clock()))


@cache
def _by_the_clock() -> Any:
    """Make the attributes of a condition that goes by the clock."""
    attributes = (ctypes.c_int64 * 8)()
    _check(_library.pthread_condattr_init(attributes))
    if _has_monotonic:
        _check(_library.pthread_condattr_setclock(attributes, _CLOCK))
    return attributes


def _check(error: int) -> None:
    if error:
        raise OSError(error, "the system has no further mutex or condition")


def _type_void(_typing: Any, _address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return _types.voidptr(_ADDRESS), generate


_void: Any = intrinsic(_type_void)


@register_jitable
def array_at(address: Any, size: Any, kind: Any) -> Any:
    """See the memory at an address as an array (size,) of the NumPy dtype ``kind``."""
    return _carray(_void(address), size, kind)


@register_jitable
def record_at(address: Any, kind: Any) -> Any:
    """See the bytes at an address as a record of the NumPy dtype ``kind``."""
    return _carray(_void(address), 1, kind)[0]


def _type_call(_typing: Any, _function: Any, _argument: Any, _number: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        integer = ir.IntType(64)
        kind = ir.FunctionType(integer, [integer, integer]).as_pointer()
        return builder.call(builder.inttoptr(args[0], kind), list(args[1:]))

    return _types.int64(_ADDRESS, _ADDRESS, _types.int64), generate


# Calls the C function at an address with an address and a number, and returns its number.
call: Any = intrinsic(_type_call)
