"""Limits of the system, for this process and for a while."""

import contextlib
import resource
from collections.abc import Iterator

__all__ = ["file_size_limit"]


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file get larger, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
