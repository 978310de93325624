"""Repeats: loaders made anew with the same options, each of which gives epoch 0 again."""

import os
import threading
from collections import OrderedDict
from typing import Final

__all__ = ["Repeats", "repeats"]

_EXCUSED: Final = -1


class Repeats:
    """Counts loaders that gave epoch 0 and nothing else, by what their options hash to.

    It refers to no loader.

    Args:
        limit: how many hashes are remembered, the latest ones. 4,096 take 0.6 MB: the clients of a
            federation may each have a loader of their own.
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
        """Say, once for all keys, that two loaders have given epoch 0 before this one."""
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
        """Count no loaders with these options any more: one of them had another epoch."""
        with self._lock:
            self._keep(key, _EXCUSED)

    def _keep(self, key: bytes, count: int) -> None:
        self._counts[key] = count
        self._counts.move_to_end(key)
        if len(self._counts) > self._limit:
            self._counts.popitem(last=False)


repeats: Final = Repeats()

if hasattr(os, "register_at_fork"):
    # A thread that is not in the new process may have held the lock.
    os.register_at_fork(after_in_child=repeats.forget)
