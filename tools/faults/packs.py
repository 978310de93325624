"""Packs that were damaged: whoever opens one finds out, and a new one can take its place."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from cinicpack import Loader
from cinicpack.errors import PackError
from cinicpack.store.verify import verify_pack
from tools.faults.campaign import Campaign
from tools.faults.commands import call, run_line
from tools.faults.damage import NOWHERE, REPLACEMENTS, flip, list_cuts, list_files, pick_places
from tools.faults.matrix import Row
from tools.faults.trial import run_apart, take_snapshot

__all__ = ["list_tasks"]

_PACKS: Final = ("npy.pack", "shards.pack", "pack.h5")
_FLIPS, _CUTS = 2000, 6


def list_tasks(campaign: Campaign) -> dict[str, Callable[[], Row]]:
    """List what is to be done: each kind of damage to each form of a pack."""
    root, short = campaign.root, campaign.short
    tasks: dict[str, Callable[[], Row]] = {}
    for name in _PACKS[::2] if short else _PACKS:
        tasks[f"{name}: flips"] = partial(_flip, root, name, 60 if short else _FLIPS)
        kinds = [*REPLACEMENTS][::4] if short else [*REPLACEMENTS]
        for kind in kinds:
            tasks[f"{name}: {kind}"] = partial(_replace, root, name, kind, short)
        tasks[f"{name}: cuts"] = partial(_cut, root, name, short)
    return tasks


def _prepare(root: Path, name: str) -> Path:
    made = root / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    given, pack = root / "given" / name, made / name
    # Without permissions, since nobody may write to the files of a pack.
    if given.is_dir():
        shutil.copytree(given, pack, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(given, pack)
    return pack


def _flip(root: Path, name: str, count: int) -> Row:
    """Change one bit of each file at many places: verification finds every one."""
    row = Row("packs", name, "a bit changed")
    for file in [file for file in list_files(_prepare(root, name)) if file.is_file()]:
        pack = _prepare(root, name)
        places = pick_places(file.stat().st_size, count)
        ending = run_apart(partial(_verify_flips, pack, file, places), root)
        found = [json.loads(line) for line in ending.output.splitlines()]
        for place, is_found in zip(places, found, strict=False):
            problems = [] if is_found else [f"byte {place} of {file.name} was not noticed"]
            row.add("found by verify" if is_found else "not noticed", problems)
        if ending.status:
            row.add("ended", [f"byte {places[len(found)]} of {file.name}: {ending}"])
    return row


def _verify_flips(pack: Path, file: Path, places: list[int]) -> int:
    for place in places:
        flip(file, place)
        try:
            found = bool(verify_pack(pack, num_workers=0).problems)
        except PackError:
            found = True
        flip(file, place)
        print(json.dumps(found))
    return 0


def _cut(root: Path, name: str, short: bool) -> Row:
    """Cut each file off, and extend it."""
    row = Row("packs", name, "a file cut off or extended")
    sizes = {
        file: file.stat().st_size for file in list_files(_prepare(root, name)) if file.is_file()
    }
    for file, whole in sizes.items():
        for size in list_cuts(whole, 0 if short else _CUTS)[:: 3 if short else 1]:
            pack = _prepare(root, name)
            with open(file, "r+b") as stream:
                stream.truncate(size)
            _look(row, root, pack, f"{file.name} of {size} bytes")
    return row


def _replace(root: Path, name: str, kind: str, short: bool) -> Row:
    """Let something else take the place of each file and folder."""
    text = kind if kind == "removed" else f"replaced by {kind}"
    row = Row("packs", name, text)
    files = [*list_files(_prepare(root, name))]
    for file in files[:: 4 if short else 1]:
        pack = _prepare(root, name)
        REPLACEMENTS[kind](file)
        _look(row, root, pack, file.relative_to(pack.parent).as_posix())
    return row


def _look(row: Row, root: Path, pack: Path, what: str) -> None:
    """Look at a damaged pack in every way, and then write another in its place."""
    before = take_snapshot(pack.parent)
    path = f"made/{pack.name}"
    problems, harmless = [], False
    looks = {
        "verify": run_line(f"verify {path}"),
        "info": run_line(f"info {path}"),
        "a loader": call(partial(_load, path)),
    }
    for look, run in looks.items():
        ending = run_apart(run, root)
        problem = ending.find_problem() or (ending.status and ending.find_problem_of_error())
        if problem or ending.status not in (0, 1):
            problems.append(f"{what}: {look}: {problem or ending}")
        elif look == "verify" and ending.status == 0:
            harmless = what.startswith("pack.json") and _means_the_same(root, pack)
            if not harmless:
                problems.append(f"{what}: verify finds nothing")
    if take_snapshot(pack.parent) != before:
        problems.append(f"{what}: looking changed it")
    form = "hdf5" if pack.suffix == ".h5" else "npy"
    line = f"pack given/tree {path} --overwrite --format {form} --workers 0"
    ending = run_apart(run_line(line), root)
    after = take_snapshot(pack.parent)
    found = "harmless" if harmless else "found"
    if ending.status == 0:
        outcome = f"{found}, and overwritten"
        if verify_pack(pack).problems:
            problems.append(f"{what}: overwritten by what is no pack")
    else:
        outcome = f"{found}, and not overwritten"
        if problem := ending.find_problem() or ending.find_problem_of_error():
            problems.append(f"{what}: --overwrite: {problem}")
        if after != before:
            problems.append(f"{what}: a refused --overwrite changed it")
    # Of a link that leads nowhere, the pack is made there.
    if others := {name.split("/")[0] for name in after} - {pack.name, NOWHERE}:
        problems.append(f"{what}: --overwrite leaves {others}")
    row.add(outcome, problems)


def _means_the_same(root: Path, pack: Path) -> bool:
    """Tell whether a manifest of an npy pack differs in white space alone."""
    texts = [(folder / "pack.json").read_bytes() for folder in (pack, root / "given" / pack.name)]
    return bool(json.loads(texts[0]) == json.loads(texts[1]))


def _load(path: str) -> None:
    for _ in Loader(path, batch_size=2, num_workers=1, output="numpy"):
        pass
