"""Loaders under load: dropped, copied, pickled, forked, and of packs that change under them."""

import copy
import os
import pickle
import random
import shutil
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from cinicpack import Loader, PackError, open_pack
from tests.load.forks import run_in_fork
from tests.load.stress import Stress
from tools.faults.campaign import Campaign
from tools.faults.commands import run_line
from tools.faults.matrix import Row
from tools.faults.trial import Ending, run_apart

__all__ = ["list_tasks"]

_PACK: Final = "given/ten.pack"
_OPTIONS: Final[dict[str, Any]] = {"batch_size": 7, "output": "numpy", "return_index": True}
_WAYS: Final[dict[str, Callable[[Loader], Loader]]] = {
    "copied": copy.copy,
    "copied deeply": copy.deepcopy,
    "pickled": lambda loader: pickle.loads(pickle.dumps(loader)),
}


def list_tasks(campaign: Campaign) -> dict[str, Callable[[], Row]]:
    """List what is to be done with loaders."""
    root, short = campaign.root, campaign.short
    tasks: dict[str, Callable[[], Row]] = {
        "loaders: used in every way": partial(_stress, root, 200 if short else 10_000)
    }
    count = 10 if short else 300
    for text in (*_WAYS, "forked"):
        tasks[f"loaders: {text}"] = partial(_copy, root, text, count)
    for text in _CHANGES:
        for when in ("between epochs", "amid an epoch"):
            tasks[f"loaders: {text} {when}"] = partial(
                _change, root, text, when, 2 if short else 25
            )
    return tasks


def _stress(root: Path, epochs: int) -> Row:
    row = Row("loaders", "by four threads at once", "epochs begun, dropped, closed")

    def run() -> int:
        Stress(open_pack(_PACK), 0).run(epochs)
        return 0

    ending = run_apart(run, root)
    row.outcomes["every batch right" if ending.status == 0 else "ended"] += epochs
    if ending.status:
        row.wrong, row.texts = 1, [str(ending)]
    return row


def _copy(root: Path, text: str, count: int) -> Row:
    """Copy loaders at some place, while others load; copy and original go on from there."""
    row = Row("loaders", "while two threads load", text)
    ending = run_apart(partial(_go_on, text, count), root)
    right = ending.output.count("right\n")
    row.outcomes["both go on from there"] += right
    if ending.status or right < count:
        row.add("ended", [str(ending)])
    return row


def _go_on(text: str, count: int) -> int:
    torch.set_num_threads(1)
    pack, done = open_pack(_PACK), threading.Event()

    def load() -> None:
        while not done.is_set():
            for _ in Loader(pack, **_OPTIONS):
                pass

    others = [threading.Thread(target=load) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for number in range(count):
            loader = Loader(pack, "valid", epoch=number, num_workers=number % 3, **_OPTIONS)
            expected = [*Loader(pack, "valid", epoch=number, **_OPTIONS)]
            iterator = iter(loader)
            place = random.Random(number).randrange(1, len(expected))
            for _ in range(place):
                next(iterator)
            if text == "forked":
                loaded = partial(_expect, expected, partial(Loader, pack, "valid", epoch=number))
                assert run_in_fork(loaded) == 0
            else:
                _compare(_WAYS[text](loader), expected[place:])
            _compare(iterator, expected[place:])
            print("right")
    finally:
        done.set()
        for other in others:
            other.join()
    return 0


def _expect(expected: list[Any], make: Callable[..., Loader]) -> None:
    _compare(make(**_OPTIONS), expected)


def _compare(batches: Any, expected: list[Any]) -> None:
    for found, batch in zip(batches, expected, strict=True):
        for mine, other in zip(found, batch, strict=True):
            assert np.array_equal(mine, other)


def _cut(file: Path) -> None:
    file.chmod(0o600)
    os.truncate(file, 100)


def _overwrite(file: Path) -> None:
    file.chmod(0o600)
    file.write_bytes(bytes(file.stat().st_size))


def _replace_pack(file: Path) -> None:
    line = f"pack given/tree {file.parents[1]} --overwrite --workers 0"
    assert run_line(line)() == 0


#: What happens to a file of a pack that is loaded, and whether the loader goes on.
_CHANGES: Final[dict[str, tuple[Callable[[Path], None], bool]]] = {
    "file cut off in place": (_cut, False),
    "file written to in place": (_overwrite, False),
    "pack removed": (lambda file: shutil.rmtree(file.parents[1]), True),
    "pack replaced by --overwrite": (_replace_pack, True),
}


def _change(root: Path, text: str, when: str, count: int) -> Row:
    row = Row("loaders", f"pack that is loaded, {when}", text)
    for _ in range(count):
        shutil.rmtree(root / "made", ignore_errors=True)
        (root / "made").mkdir()
        shutil.copytree(root / _PACK, root / "made" / "a.pack")
        ending = run_apart(partial(_load_changed, text, when == "amid an epoch"), root)
        row.add(*_judge(ending, goes_on=_CHANGES[text][1], amid=when == "amid an epoch"))
    return row


def _load_changed(text: str, amid: bool) -> int:
    torch.set_num_threads(1)
    loader = Loader("made/a.pack", num_workers=1, **_OPTIONS)
    iterator = iter(loader)
    next(iterator)
    if not amid:
        list(iterator)
    _CHANGES[text][0](Path("made/a.pack/train/images-00000.npy"))
    list(iterator)
    try:
        list(loader)
    except PackError as error:
        print(f"error {error}")
    else:
        print("on")
    return 0


def _judge(ending: Ending, *, goes_on: bool, amid: bool) -> tuple[str, list[str]]:
    if ending.status == -signal.SIGBUS:
        return "ended by SIGBUS", [] if amid and not goes_on else ["no error was raised"]
    if ending.status:
        return "ended", [str(ending)]
    if ending.output.endswith("on\n"):
        return "goes on", [] if goes_on else ["the next epoch begins without a word"]
    return "PackError at the next epoch", [ending.output] if goes_on else []
