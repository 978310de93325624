"""A demonstration from nothing: a CINIC-10-shaped tree is made, packed, checked and raced."""

import contextlib
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from cinicpack.bench import format_bench, run_bench
from cinicpack.cinic10 import CLASSES, SPLITS
from cinicpack.convert.packer import check_options, pack
from cinicpack.convert.plan import Wanted
from cinicpack.errors import PackError
from cinicpack.store.publish import check_free
from cinicpack.store.verify import verify_pack
from cinicpack.synthetic import write_tree
from cinicpack.terminal import show

__all__ = ["run_demo"]


def run_demo(
    per_class: int = 300,
    *,
    keep: Path | None = None,
    round_seconds: float = 0.25,
    file_seconds: float = 5.0,
) -> None:
    """Make a small tree, pack it, check it, and race reading its files against loading the pack.

    Everything happens in a temporary folder, which is gone at the end, but the pack that is to be
    kept. Prints what it does, and a table of images per second.

    Args:
        per_class: images of each class in each split.
        keep: where to leave the pack; None: nowhere.
        round_seconds: for how long the pack is loaded in each turn.
        file_seconds: for how long files are read.

    Raises `DestinationError` and `ArgumentError` as `pack` does, for what is to be kept.
    """
    if keep is not None:
        check_options(keep, "npy", Wanted())
        check_free(keep)
    with tempfile.TemporaryDirectory(prefix="cinicpack-demo-") as folder:
        tree, destination = Path(folder, "tree"), keep or Path(folder, "demo.pack")
        count = per_class * len(CLASSES) * len(SPLITS)
        with _step(f"making {count:,} synthetic PNG files, named as in CINIC-10"):
            write_tree(tree, per_class)
        with _step(f"cinicpack pack tree {destination.name}"), warnings.catch_warnings():
            # Hide the warning that the tree is smaller than CINIC-10.
            warnings.simplefilter("ignore")
            made = pack(tree, destination, progress=False)
        with _step(f"cinicpack verify {destination.name}"):
            problems = verify_pack(destination).problems
            if problems:
                raise PackError("; ".join(problems))
        with _step(f"racing ({file_seconds:g} s of reading files, then the pack)"):
            bench = run_bench(made, tree, round_seconds=round_seconds, file_seconds=file_seconds)
    show(f"\n{format_bench(bench)}\n")
    show("Next: cinicpack pack CINIC-10.tar.gz cinic10.pack, and in Python")
    show('    cinicpack.Loader("cinic10.pack", "train", augment=cinicpack.Augment())')
    if keep is not None:
        show(f'To try things on: cinicpack.Loader("{keep}", "train")')


@contextlib.contextmanager
def _step(text: str) -> Iterator[None]:
    show(f"{text} ...", end=" ", at_once=True)
    start = time.perf_counter()
    yield
    show(f"{time.perf_counter() - start:.1f} s", at_once=True)
