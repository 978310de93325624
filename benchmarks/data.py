"""The images that everything is measured on: the same for all, and made where none are given."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cinicpack
from benchmarks.report import say

__all__ = ["Places", "add_arguments", "make_data"]

_HERE = Path(__file__).parent


class Places(NamedTuple):
    """Where the images are, and where the results go.

    Attributes:
        tree: CINIC-10 as PNG files.
        archive: the same as .tar.gz.
        pack: the tree's pack.
        work: a folder for what is made of these.
        output: the folder of the results.
    """

    tree: Path
    archive: Path
    pack: Path
    work: Path
    output: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tree", type=Path, help="CINIC-10 as PNG files (else one is made)")
    parser.add_argument("--archive", type=Path, help="the same as .tar.gz (else it is made)")
    parser.add_argument("--pack", type=Path, help="the tree's pack (else it is made)")
    parser.add_argument("--work", type=Path, help="a folder for what is made of these")
    parser.add_argument("--output", type=Path, help="the folder of the results")
    parser.add_argument("--cores", type=int, default=2, help="cores to use (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="few images: does everything work?")


def make_data(options: argparse.Namespace) -> Places:
    """Make what is not given: a tree of real images like CINIC-10's, an archive, a pack."""
    place = _HERE / ".rivals" / ("data-quick" if options.quick else "data")
    if options.quick:
        options.tree = options.archive = options.pack = options.work = None
    places = Places(
        tree=(options.tree or place / "tree").resolve(),
        archive=(options.archive or place / "CINIC-10.tar.gz").resolve(),
        pack=(options.pack or place / "cinic10.pack").resolve(),
        work=(options.work or place).resolve(),
        output=options.output or (place if options.quick else _HERE / "results"),
    )
    for folder in (place, places.work, places.output):
        folder.mkdir(parents=True, exist_ok=True)
    if not places.tree.exists():
        say(f"making {places.tree}")
        size = ["--per-class", "90"] if options.quick else []
        tool = [sys.executable, "tools/make_tree.py", str(places.tree)]
        subprocess.run([*tool, "--tar", str(places.archive), *size], cwd=_HERE.parent, check=True)
    if not places.pack.exists():
        say(f"making {places.pack}")
        cinicpack.pack(places.tree, places.pack, progress=False)
    return places
