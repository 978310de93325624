"""Repeats: loaders that are made anew with the same options, and so give epoch 0 again."""

import hashlib
import os
import threading
import warnings
from collections import OrderedDict
from typing import Any, Final

import numpy as np

from cinicpack.load.options import Options

__all__ = ["Repeats", "find_repeat", "repeats"]

_EXCUSED: Final = -1


class Repeats:
    """Counts loaders that gave epoch 0 and no other, by a hash of their options.

    Args:
        limit: number of hashes that are remembered, the latest ones; 4,096 take 0.6 MB. It is that
            large since in federated learning each client may have a loader of its own.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self.forget()

    def forget(self) -> None:
        """Start anew, as in a new process."""
        self._counts: OrderedDict[bytes, int] = OrderedDict()
        self._is_told = False
        self._lock = threading.Lock()

    def is_next_due(self, key: bytes) -> bool:
        """Tell whether two loaders have given epoch 0 before this one; True once, for one key."""
        with self._lock:
            due = not self._is_told and self._counts.get(key, 0) >= 2
            self._is_told |= due
        return due

    def count(self, key: bytes) -> None:
        """Count one more loader that gives epoch 0."""
        with self._lock:
            count = self._counts.get(key, 0)
            self._keep(key, count + 1 if count != _EXCUSED else count)

    def excuse(self, key: bytes) -> None:
        """Count no more loaders with these options, since one of them had another epoch."""
        with self._lock:
            self._keep(key, _EXCUSED)

    def warn(self, key: bytes, loader: object) -> None:
        """Warn whoever makes ``loader``, in whose ``__init__`` this is called, if that is due."""
        if self.is_next_due(key):
            warnings.warn(
                f"{loader!r} is the third loader with these options in this process, and those "
                "before gave nothing but epoch 0, always in the same order with the same "
                "augmentation, as this one will: make one loader for all rounds, or pass "
                "epoch= (epoch=0 if that is meant), or seed=None for a fresh seed",
                stacklevel=3,
            )

    def _keep(self, key: bytes, count: int) -> None:
        self._counts[key] = count
        self._counts.move_to_end(key)
        if len(self._counts) > self._limit:
            self._counts.popitem(last=False)


repeats: Final = Repeats()


def find_repeat(options: Options, identity: dict[str, Any]) -> bytes | None:
    """Hash all that makes the batches of two loaders equal; None: epoch 0 is like any other."""
    varies = options.shuffle or not isinstance(options.order, np.ndarray | None)
    if not varies and all(x is None for x in (options.augment, options.views, options.mix)):
        return None
    known = ("pack", "split", "epoch", "labels", "order")
    others = [str(value) for name, value in vars(options).items() if name not in known]
    return hashlib.sha256(repr((identity, others)).encode()).digest()


if hasattr(os, "register_at_fork"):
    # A forked process gets a new lock, since the old one may be held by a thread that exists only
    # in the first process.
    os.register_at_fork(after_in_child=repeats.forget)
