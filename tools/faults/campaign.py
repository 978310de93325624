"""The campaign: what processes that have ``calls.c`` loaded do, each in a folder of its own."""

import os
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

from tests.fetch.server import Server
from tools.faults.calls import Calls
from tools.faults.inputs import make_inputs
from tools.faults.matrix import Row

__all__ = ["HALVES", "Campaign", "begin", "list_tasks", "run_task"]

#: What is done in the same processes: torch, which the second half needs, makes forks slow.
HALVES: Final = (("crashes", "sources"), ("packs", "loaders"))

# What this process can do, by name.
_TASKS: Final[dict[str, Callable[[], Row]]] = {}


class Campaign(NamedTuple):
    """What all tasks of a process share.

    Attributes:
        root: a folder with the inputs in ``given``, for ``made`` beside them.
        calls: what is to happen at which call of the C library.
        server: a server that runs elsewhere.
        short: whether some faults of each kind are enough.
    """

    root: Path
    calls: Calls
    server: Server
    short: bool


def begin(half: tuple[str, ...], folder: Path, library: Path, url: str, short: bool) -> None:
    """Prepare this process for the tasks of one half."""
    root = folder / f"{os.getpid()}"
    root.mkdir()
    with warnings.catch_warnings(action="ignore"):
        make_inputs(root / "given")
    campaign = Campaign(root, Calls(root.with_suffix(".calls"), library), Server(url=url), short)
    for name in half:
        _TASKS.update(import_module(f"tools.faults.{name}").list_tasks(campaign))


def list_tasks() -> list[str]:
    """List the names of the tasks."""
    return [*_TASKS]


def run_task(name: str) -> Row:
    """Do a task, and return its row."""
    return _TASKS[name]()
