"""Commands: everything that makes something, each with what is there before."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

import cinicpack
from cinicpack.cli import main
from cinicpack.errors import CinicPackError
from cinicpack.fetch.download import download
from cinicpack.fetch.kinds import PARQUET
from cinicpack.fetch.mirrors import Mirror, RemoteFile
from tests.fetch.server import CONTENT, HURRY, Server

__all__ = ["HUB", "Command", "call", "list_commands", "run_line"]

#: The files that a server has beside the archive.
HUB: Final = {name: b"PAR1" + CONTENT[:size] for name, size in (("a", 90_000), ("b", 70_000))}

_Run = Callable[[], int]
_Fill = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Command:
    """What makes something in ``made`` out of what is in ``given``, both in the working directory.

    Attributes:
        text: what a table calls it.
        run: does it in this process, and returns the exit status.
        fill: puts into ``made`` (second argument) what is there before, from ``given``.
        kept: names that may be left there, for a later run to go on from.
        short: whether the short campaign has it.
        slow: whether it starts processes.
    """

    text: str
    run: _Run
    fill: _Fill = lambda *_: None
    kept: tuple[str, ...] = ()
    short: bool = False
    slow: bool = False


def run_line(line: str) -> _Run:
    """Return what runs a command of cinicpack; no argument has a space."""
    return lambda: main(line.split())


def call(function: Callable[[], object]) -> _Run:
    """Let a function end as a command does."""

    def run() -> int:
        try:
            function()
        except (CinicPackError, OSError) as error:
            lines = [f"cinicpack: error: {error}", *getattr(error, "__notes__", [])]
            print(*lines, sep="\n", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("cinicpack: interrupted", file=sys.stderr)
            return 130
        return 0

    return run


def _copy(name: str, to: str) -> _Fill:
    def fill(given: Path, made: Path) -> None:
        source = given / name
        if source.is_dir():
            shutil.copytree(source, made / to)
        else:
            shutil.copy2(source, made / to)

    return fill


def _pack_arrays() -> None:
    images = np.arange(4 * 192, dtype=np.uint8).reshape(4, 8, 8, 3)
    arrays = {"train": (images, np.array([0, 1, 0, 1]))}
    cinicpack.pack_arrays(arrays, "made/a.pack", classes=("ant", "bee"), progress=False)


def list_commands(server: Server) -> tuple[Command, ...]:
    """List them, those that download from a server included."""
    archive = Mirror("official", "first.org", (server.remote(),), len(CONTENT))
    files = tuple(RemoteFile(name, (server.at(f"linked/{name}"),), PARQUET) for name in HUB)
    total = sum(map(len, HUB.values()))
    hub = Mirror("hub", "second.org", files, total, folder="CINIC-10-parquet")

    def fetch(mirror: Mirror, path: str) -> _Run:
        return call(lambda: download(path, mirrors=[mirror], patience=HURRY, progress=False))

    def begin(_: Path, made: Path) -> None:
        (made / "c.tar.gz.part").write_bytes(CONTENT[:100_000])

    compose = "--cifar10 given/cifar-bin --imagenet given/imagenet --synsets given/synsets.txt"
    pack = "pack --workers 0"
    return (
        Command("pack a tree", run_line(f"{pack} given/tree made/a.pack"), short=True),
        Command(
            "pack a tree, with a worker process",
            run_line("pack given/tree made/a.pack --workers 1"),
            slow=True,
        ),
        Command("pack a tree to HDF5", run_line(f"{pack} given/tree made/a.h5 --format hdf5")),
        Command("pack in shards", run_line(f"{pack} given/tree made/a.pack --shard-rows 1")),
        Command("pack a tar.gz", run_line(f"{pack} given/tree.tar.gz made/a.pack")),
        Command("pack a zip", run_line(f"{pack} given/tree.zip made/a.pack")),
        Command("pack parquet", run_line(f"{pack} given/hub made/a.pack")),
        Command(
            "pack CIFAR-10's archive", run_line(f"{pack} given/cifar-10-python.tar.gz made/a.pack")
        ),
        Command("pack arrays", call(_pack_arrays)),
        Command(
            "pack --overwrite a pack",
            run_line(f"{pack} given/tree.tar made/a.pack --overwrite"),
            _copy("shards.pack", "a.pack"),
        ),
        Command(
            "pack --overwrite HDF5 by HDF5",
            run_line(f"{pack} given/cifar-bin made/a.h5 --format hdf5 --overwrite"),
            _copy("pack.h5", "a.h5"),
            short=True,
        ),
        Command(
            "pack --overwrite HDF5 by npy",
            run_line(f"{pack} given/tree made/a.pack --overwrite"),
            _copy("pack.h5", "a.pack"),
        ),
        Command("unpack", run_line("unpack given/npy.pack made/tree --workers 2"), short=True),
        Command("unpack --link", run_line("unpack given/pack.h5 made/tree --link given/tree")),
        Command("cifar10 (binary)", run_line("cifar10 given/ten.pack made/cifar --allow-missing")),
        Command(
            "cifar10 (python)",
            run_line("cifar10 given/ten.pack made/cifar --allow-missing --layout py"),
        ),
        Command(
            "cifar10 (npy)",
            run_line("cifar10 given/ten.pack made/cifar --allow-missing --layout npy"),
        ),
        Command("compile a tree", run_line(f"compile {compose} --per-class 3 made/tree")),
        Command("compile a pack", run_line(f"compile {compose} --per-class 3 made/a.pack")),
        Command(
            "audit", run_line("audit given/ten.pack -o made/found.csv --sheet made/copies.png")
        ),
        Command("contributors", run_line("contributors given/ten.pack -o made/list.csv")),
        Command("sheet", run_line("sheet given/ten.pack -o made/sheet.png --class cat")),
        Command("download", fetch(archive, "made/c.tar.gz"), kept=("c.tar.gz.part",)),
        Command(
            "download, resumed",
            fetch(archive, "made/c.tar.gz"),
            begin,
            kept=("c.tar.gz.part",),
            short=True,
        ),
        Command("download a folder", fetch(hub, "made"), kept=("CINIC-10-parquet.part",)),
    )
