"""The images that everything is measured on: the same for all, and made where none are given."""

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cinicpack
from benchmarks.report import say
from cinicpack import cinic10
from cinicpack.convert.source import open_source
from cinicpack.errors import CinicPackError

__all__ = ["Places", "add_arguments", "make_archive", "make_data", "making"]

_HERE = Path(__file__).parent
_GZIP = b"\x1f\x8b"
_WHOLE = len(cinic10.SPLITS) * len(cinic10.CLASSES) * cinic10.PER_CLASS


class Places(NamedTuple):
    """Where the images are, and where the results go.

    Attributes:
        tree: CINIC-10 as PNG files.
        archive: the same as .tar.gz, there after `make_archive`.
        pack: the tree's pack.
        work: the folder of what is made of this tree and of no other.
        output: the folder of the results.
    """

    tree: Path
    archive: Path
    pack: Path
    work: Path
    output: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tree", type=_find_tree, help="CINIC-10 as PNG files (else a tree is made)")
    add("--archive", type=_find_archive, help="the same as .tar.gz (else it is made)")
    add("--work", type=Path, default=_HERE / ".rivals",
        help="where each tree has a folder of what is made of it (benchmarks/.rivals)")  # fmt: skip
    add("--output", type=Path,
        help="the folder of the results, made if needed (benchmarks/results; if there are not as "
        "many images as in CINIC-10, the tree's folder in that of --work)")  # fmt: skip
    add("--cores", type=int, default=2, help="cores to use (%(default)s)")
    add("--quick", action="store_true",
        help="short rounds; few images, where none are given: does everything work?")  # fmt: skip


def _find_tree(text: str) -> Path:
    path = Path(text)
    if missing := [split for split in cinic10.SPLITS if not (path / split).is_dir()]:
        found = f"no {', '.join(missing)}" if path.is_dir() else "no folder"
        raise argparse.ArgumentTypeError(
            f"{path}: expected a folder with {', '.join(cinic10.SPLITS)} in it, found {found}; "
            "name another, or leave --tree out to have one made"
        )
    return path.resolve()


def _find_archive(text: str) -> Path:
    path = Path(text)
    found = "no file"
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_GZIP)) == _GZIP:
                return path.resolve()
        found = "another file"
    raise argparse.ArgumentTypeError(
        f"{path}: expected a .tar.gz, found {found}; name another, or leave --archive out to have "
        "one made"
    )


def make_data(options: argparse.Namespace) -> Places:
    """Make what is not given: a tree of real images like CINIC-10's, and its pack."""
    try:
        places = _find_places(options)
        for folder in (places.work, places.output):
            folder.mkdir(parents=True, exist_ok=True)
        if not places.tree.exists():
            with making(places.tree) as unfinished:
                size = ["--per-class", "90"] if options.quick else []
                tool = [sys.executable, "tools/make_tree.py", str(unfinished)]
                _run([*tool, *size])
        if not places.pack.exists():
            say(f"making {places.pack}")
            cinicpack.pack(places.tree, places.pack, progress=False)
    except (CinicPackError, OSError) as error:
        raise SystemExit(str(error)) from error
    return places


def _find_places(options: argparse.Namespace) -> Places:
    """Check what is given, and choose the places of what is not."""
    if options.tree is None:
        if options.archive is not None:
            raise SystemExit(
                f"--archive {options.archive}: expected --tree with it, found none; "
                "give the tree that the archive was made of too"
            )
        name, whole = ("data-quick", False) if options.quick else ("data", True)
    else:
        paths = sorted(open_source(options.tree).paths())
        if options.archive is not None:
            _compare(options.archive, options.tree, paths)
        name, whole = _name_work(options.tree, paths), len(paths) == _WHOLE and not options.quick
    work = (options.work / name).resolve()
    return Places(
        tree=options.tree or work / "tree",
        archive=options.archive or work / "CINIC-10.tar.gz",
        pack=work / "cinic10.pack",
        work=work,
        # Without being asked, the results of a few images do not replace those of all.
        output=options.output or (_HERE / "results" if whole else work),
    )


def _name_work(tree: Path, paths: Sequence[str]) -> str:
    """Name the folder of what is made of a tree: another tree at the same path has another."""
    digest = hashlib.sha256()
    for path in paths:
        status = os.stat(tree / path)
        digest.update(os.fsencode(path) + b"\0%d %d\0" % (status.st_size, status.st_mtime_ns))
    return f"data-{tree.name}-{digest.hexdigest()[:12]}"


def _compare(archive: Path, tree: Path, paths: Sequence[str]) -> None:
    """Raise unless an archive has the files of a tree, which it is measured beside."""
    # SPLIT/CLASS/NAME, whatever folder they are in.
    found = {"/".join(path.split("/")[-3:]) for path in open_source(archive).paths()}
    if differing := found.symmetric_difference(paths):
        raise SystemExit(
            f"{archive}: expected the {len(paths):,} images of {tree}, found {len(found):,}, and "
            f"{min(differing)} in only one of the two; give the tree's own archive, or leave "
            "--archive out to have it made"
        )


def make_archive(places: Places) -> None:
    """Make the tree's archive, if there is none yet."""
    if not places.archive.exists():
        with making(places.archive) as unfinished:
            # Links as the files that they lead to, since archives with links are not packed.
            command = ["tar", "--dereference", "-czf", str(unfinished), "-C", str(places.tree)]
            _run([*command, *sorted(os.listdir(places.tree))])


def _run(command: list[str]) -> None:
    if status := subprocess.run(command, cwd=_HERE.parent, check=False).returncode:
        raise SystemExit(f"{' '.join(command[:3])} ...: ended with status {status}; see above")


@contextlib.contextmanager
def making(path: Path) -> Iterator[Path]:
    """Give the name under which ``path`` is to be made; once whole it is renamed to ``path``.

    So what was made by half, when a run was ended, is never taken for whole.
    """
    say(f"making {path}")
    unfinished = path.with_name(f".{path.name}.unfinished")
    _remove(unfinished)
    try:
        yield unfinished
        unfinished.rename(path)
    except BaseException:
        _remove(unfinished)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
