"""The decorator of every kernel: compiled without the GIL, kept on disk where that is possible."""

import logging
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import FunctionCache, NullCache
from numba.core.runtime.nrt import rtsys

__all__ = ["jit"]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# What numba lets through where the disk is full, read-only or gone, or a crash cut a file short.
_UNUSABLE = (OSError, EOFError, pickle.UnpicklingError)


class _OptionalCache(FunctionCache):
    """Numba's cache on disk, except that where it cannot be used the kernel is just compiled."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        numba: Any = super()
        # All that machine code needs. Numba's own method sets up the whole compiler before it looks
        # for the file: half a second, three quarters of the time to a first batch.
        rtsys.initialize(target_context)
        try:
            found = numba._load_overload(sig, target_context)
        except _UNUSABLE:
            found = None
        if found is None:
            _announce(f"they are kept in {self.cache_path}")
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        numba: Any = super()
        try:
            numba.save_overload(sig, data)
        except _UNUSABLE:
            # The index is written before the machine code: where only the index made it, it may
            # name code that is there from an older version of the source.
            with suppress(OSError):
                numba.flush()


class _NoCache(NullCache):
    """What numba has where no directory is fit for a cache, except that it says so."""

    def load_overload(self, _sig: Any, _target_context: Any) -> None:
        _announce("there is no directory to keep them in: set NUMBA_CACHE_DIR to one")


@cache
def _announce(where: str) -> None:
    """Say that the program now waits for the compiler; once, since that goes on for seconds."""
    logging.getLogger("cinicpack").warning("cinicpack is compiling its kernels; %s", where)


def jit(function: Kernel) -> Kernel:
    """Compile a function when it is first called with arguments of a type, or load it from disk.

    Numba alone lets a call fail where it can compile the function but not write it to disk. What is
    on disk is used until the function's own module changes: not this one, nor kernels it imports.
    Compiling is announced as a warning of the logger "cinicpack", which Python shows on stderr.
    """
    kernel: Any = njit(nogil=True, boundscheck=False, error_model="numpy")(function)
    # What numba does for cache=True; the error means that no directory is fit for a cache.
    try:
        kernel._cache = cast(Any, _OptionalCache)(function)
    except RuntimeError:
        kernel._cache = _NoCache()
    return cast(Kernel, kernel)
