"""The decorator of every kernel: compiled without the GIL, kept on disk where that is possible."""

import logging
import os
import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from inspect import signature
from types import ModuleType
from typing import Any, Final, TypeVar, cast, overload

import numba
from numba import njit

from cinicpack.errors import CinicPackError
from cinicpack.interrupts import holding_interrupts

# Private parts of numba, which another version may not have: see `_has_known_numba`.
try:
    from numba.core.caching import FunctionCache, NullCache
    from numba.core.registry import cpu_target
    from numba.core.runtime.nrt import rtsys
except ImportError:
    FunctionCache = NullCache = cpu_target = rtsys = object  # type: ignore[assignment, misc]

__all__ = ["jit"]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_OPTIONS: Final[dict[str, Any]] = {"boundscheck": False, "error_model": "numpy"}
# What numba lets through where the disk is full, read-only or gone, or a crash cut a file short.
_UNUSABLE: Final = (OSError, EOFError, pickle.UnpicklingError)


class _OptionalCache(FunctionCache):
    """Numba's cache on disk, except that where it cannot be used the kernel is just compiled.

    Args:
        function: what is compiled.
        inlines: the modules whose code is compiled into it; when one of their files changes, so
            does the key of the kernel.
    """

    def __init__(self, function: Callable[..., Any], inlines: Sequence[ModuleType]) -> None:
        parent: Any = super()
        parent.__init__(function)
        stats = [os.stat(str(module.__file__)) for module in inlines]
        self._stamps = tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        parent: Any = super()
        # All that machine code needs. Numba's own method sets up the whole compiler before it looks
        # for the file, which takes 0.2 s of a start.
        with holding_interrupts():
            rtsys.initialize(target_context)
        try:
            found = parent._load_overload(sig, target_context)
        except _UNUSABLE:
            found = None
        if found is None:
            _announce(self.cache_path)
            _import_compiler()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        parent: Any = super()
        try:
            parent.save_overload(sig, data)
        except _UNUSABLE:
            # The index is written before the machine code: where only the index made it, it may
            # name code that is there from an older version of the source.
            with suppress(OSError):
                parent.flush()

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        parent: Any = super()
        return (*parent._index_key(sig, codegen), self._stamps)


class _NoCache(NullCache):
    """What numba has where no directory is fit for a cache, except that it says so."""

    def load_overload(self, _sig: Any, _target_context: Any) -> None:
        _announce(None)
        _import_compiler()


def _import_compiler() -> None:
    """Import all that numba imports late: it comes to no harm if only the compiling is ended."""
    with holding_interrupts():
        cpu_target.typing_context.refresh()
        cpu_target.target_context.refresh()


_is_announced = False


def _announce(kept: str | None) -> None:
    """Say once that the program waits for the compiler now, and where the first is ``kept``."""
    global _is_announced
    if not _is_announced:
        _is_announced = True
        logging.getLogger("cinicpack").warning(
            "cinicpack is compiling its kernels, which takes up to half a minute, %s",
            f"once; the first is kept in {kept}"
            if kept
            else "each time: there is no directory to keep them in; set NUMBA_CACHE_DIR to one",
        )


@cache
def _has_known_numba() -> bool:
    """Say whether this numba has the private parts that the caches above use; if not, also warn."""
    wanted = (
        (FunctionCache, "_load_overload", ["self", "sig", "target_context"]),
        (FunctionCache, "_index_key", ["self", "sig", "codegen"]),
        (FunctionCache, "save_overload", ["self", "sig", "data"]),
        (NullCache, "load_overload", ["self", "sig", "target_context"]),
        (rtsys, "initialize", ["ctx"]),
    )
    known = hasattr(njit(_announce), "_cache") and all(
        hasattr(owner, name) and list(signature(getattr(owner, name)).parameters) == parameters
        for owner, name, parameters in wanted
    )
    if not known:
        logging.getLogger("cinicpack").warning(
            "cinicpack does not know numba %s from inside: kernels are loaded by numba's own cache,"
            " which takes longer",
            numba.__version__,
        )
    return known


@overload
def jit(function: Kernel) -> Kernel: ...
@overload
def jit(*, inlines: Sequence[ModuleType], nogil: bool = True) -> Callable[[Kernel], Kernel]: ...
def jit(function: Any = None, *, inlines: Sequence[ModuleType] = (), nogil: bool = True) -> Any:
    """Compile a function when it is first called with arguments of a type, or load it from disk.

    Numba alone lets a call fail where it can compile the function but not write it to disk. What is
    on disk is used until the function's own module changes, or one of ``inlines``: the modules of
    what it calls and of the constants it names. Compiling is announced as a warning of the logger
    "cinicpack", which Python shows on stderr. With a numba that is not known from inside, kernels
    are kept as ``njit(cache=True)`` keeps them, without regard to ``inlines``.

    Raises `CinicPackError` where ``NUMBA_DISABLE_JIT`` keeps numba from compiling.

    Without ``nogil`` the function keeps Python's lock, which suits a call of less than a
    microsecond: where other threads run Python, to get the lock back can take 5 ms.

    >>> @jit
    ... def double(x: int) -> int:
    ...     return 2 * x
    """
    if function is None:
        return lambda function: _compile(function, inlines, nogil)
    return _compile(function, inlines, nogil)


def _compile(function: Kernel, inlines: Sequence[ModuleType], nogil: bool) -> Kernel:
    config: Any = numba.config
    if config.DISABLE_JIT:
        raise CinicPackError(
            "expected numba to compile, since the kernels of cinicpack are nothing for Python; "
            "found NUMBA_DISABLE_JIT set: unset it, and start Python anew"
        )
    kernel: Any = njit(nogil=nogil, **_OPTIONS)(function)
    # RuntimeError: numba finds no directory that is fit for a cache.
    if not _has_known_numba():
        with suppress(RuntimeError):
            kernel = njit(cache=True, nogil=nogil, **_OPTIONS)(function)
        return cast(Kernel, kernel)
    try:
        kernel._cache = cast(Any, _OptionalCache)(function, inlines)
    except (RuntimeError, OSError):
        kernel._cache = _NoCache()
    return cast(Kernel, kernel)
