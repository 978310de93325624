"""Sources that were damaged: a pack is made that is true, or none and one error says why."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from cinicpack.store.verify import verify_pack
from tools.faults.campaign import Campaign
from tools.faults.commands import run_line
from tools.faults.damage import REPLACEMENTS, flip, list_cuts, pick_places
from tools.faults.matrix import Row
from tools.faults.trial import Snapshot, run_apart, take_snapshot

__all__ = ["list_tasks"]

_FLIPS, _CUTS = 150, 40
_LINE: Final = "pack made/{} made/a.pack --workers 0"


class Source(NamedTuple):
    """A source, and what of it is damaged.

    Attributes:
        name: of the folder or file among the inputs.
        file: a pattern of what is damaged in it, of which the first is; "": all of it.
    """

    name: str
    file: str = ""


_SOURCES: Final = {
    "tree: an image": Source("tree", "train/airplane/*"),
    "tree: a class": Source("tree", "train/airplane"),
    "tree": Source("tree"),
    "tar": Source("tree.tar"),
    "tar.gz": Source("tree.tar.gz"),
    "zip": Source("tree.zip"),
    "parquet: a file": Source("hub", "train*"),
    "CIFAR-10, binary: a file": Source("cifar-bin", "data_batch_1*"),
    "CIFAR-10, python: a file": Source("cifar-py", "data_batch_1"),
    "CIFAR-10's archive": Source("cifar-10-python.tar.gz"),
}
_SHORT: Final = ("tree: an image", "tar.gz")


def list_tasks(campaign: Campaign) -> dict[str, Callable[[], Row]]:
    """List what is to be done: each kind of damage to each source."""
    root, short = campaign.root, campaign.short
    tasks: dict[str, Callable[[], Row]] = {}
    for text in _SHORT if short else _SOURCES:
        one = _Damaged(root, text)
        if one.is_file:
            tasks[f"{text}: flips"] = partial(one.flip, 8 if short else _FLIPS)
            tasks[f"{text}: cuts"] = partial(one.cut, 4 if short else _CUTS)
        tasks[f"{text}: replaced"] = partial(one.replace, 4 if short else 1)
    return tasks


class _Damaged:
    """One source, that is damaged and packed again and again."""

    def __init__(self, root: Path, text: str) -> None:
        self._root, self._text, self._source = root, text, _SOURCES[text]
        self._made = root / "made"
        self._given = root / "given" / self._source.name
        inner = sorted(self._given.glob(self._source.file)) if self._source.file else [self._given]
        self._path = inner[0].relative_to(self._given)
        self.is_file = inner[0].is_file()
        self._expected: Snapshot | None = None

    def flip(self, count: int) -> Row:
        row = Row("sources", self._text, "a bit changed")
        for place in pick_places(self._prepare().stat().st_size, count):
            file = self._prepare()
            flip(file, place)
            self._pack(row, f"byte {place}")
        return row

    def cut(self, count: int) -> Row:
        row = Row("sources", self._text, "cut off or extended")
        for size in list_cuts(self._prepare().stat().st_size, count):
            with open(self._prepare(), "r+b") as stream:
                stream.truncate(size)
            self._pack(row, f"{size} bytes")
        return row

    def replace(self, step: int) -> Row:
        row = Row("sources", self._text, "replaced by what is none")
        for kind in [*REPLACEMENTS][::step]:
            REPLACEMENTS[kind](self._prepare())
            self._pack(row, kind)
        return row

    def _prepare(self) -> Path:
        """Copy the source anew; return the path of what is to be damaged."""
        shutil.rmtree(self._made, ignore_errors=True)
        self._made.mkdir()
        to = self._made / self._source.name
        if self._given.is_dir():
            shutil.copytree(self._given, to)
        else:
            shutil.copy2(self._given, to)
        if self._expected is None:
            self._expected = {}
            ending = run_apart(run_line(_LINE.format(self._source.name)), self._root)
            if ending.status:
                raise RuntimeError(f"{self._text}: ended with {ending}")
            self._expected = take_snapshot(self._made / "a.pack")
            return self._prepare()
        return to / self._path

    def _pack(self, row: Row, what: str) -> None:
        ending = run_apart(run_line(_LINE.format(self._source.name)), self._root)
        pack, problems = self._made / "a.pack", []
        litter = {path.name for path in self._made.iterdir()} - {self._source.name, "a.pack"}
        if litter:
            problems.append(f"leaves {litter}")
        if problem := ending.find_problem():
            problems.append(problem)
        if ending.status == 0:
            same = take_snapshot(pack) == self._expected
            outcome = "packed as if whole" if same else "packed as it is"
            problems += verify_pack(pack).problems
        else:
            outcome = "refused"
            if problem := ending.find_problem_of_error():
                problems.append(problem)
            if pack.exists():
                problems.append("status 1, and there is a pack")
        row.add(outcome, [f"{what}: {text}" for text in problems])
