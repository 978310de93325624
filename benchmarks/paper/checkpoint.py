"""Files that are always whole, whenever the process is killed; checkpoints above all."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks.report import say

__all__ = ["hold", "load_checkpoint", "save_checkpoint", "write_file"]


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a state. All ranks have the same weights, so the file of one rank holds everything."""
    _replace(path, lambda file: torch.save(state, file))


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Read the state at ``path``, with its tensors on ``device``; None: there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def write_file(path: Path, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    _replace(path, lambda file: file.write(data))


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Be the only process that trains the run at ``path``; wait for another that does."""
    with path.with_name(f".{path.name}.lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{path}: waits for another process, which trains this run")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside ``path``, and put it there when it is on the disk."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
