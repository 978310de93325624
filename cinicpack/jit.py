"""The decorator of every kernel: compiled without the GIL, kept on disk where that is possible."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import FunctionCache

__all__ = ["jit"]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# What numba lets through where the disk is full, read-only or gone, or a crash cut a file short.
_UNUSABLE = (OSError, EOFError, pickle.UnpicklingError)


class _OptionalCache(FunctionCache):
    """Numba's cache on disk, except that where it cannot be used the kernel is just compiled."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        numba: Any = super()
        try:
            return numba.load_overload(sig, target_context)
        except _UNUSABLE:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        numba: Any = super()
        try:
            numba.save_overload(sig, data)
        except _UNUSABLE:
            # The index is written before the machine code: where only the index made it, it may
            # name code that is there from an older version of the source.
            with suppress(OSError):
                numba.flush()


def jit(function: Kernel) -> Kernel:
    """Compile a function when it is first called with arguments of a type, or load it from disk.

    Numba alone lets a call fail where it can compile the function but not write it to disk. What is
    on disk is used until the function's own module changes: not this one, nor kernels it imports.
    """
    kernel: Any = njit(nogil=True, boundscheck=False, error_model="numpy")(function)
    # What numba does for cache=True; the error means that no directory is fit for a cache.
    with suppress(RuntimeError):
        kernel._cache = cast(Any, _OptionalCache)(function)
    return cast(Kernel, kernel)
