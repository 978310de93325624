"""The commands that study a pack: one thin function per command, as in `cinicpack.cli`."""

import argparse
import time
from collections.abc import Callable
from typing import Final

__all__ = ["COMMANDS", "Command", "Run", "add_json", "split_names"]

Run = Callable[[argparse.Namespace], int]
Command = Callable[[argparse.ArgumentParser], Run]


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes a command speak to programs."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def split_names(text: str) -> list[str]:
    """Split what a comma-separated option lists."""
    return [name for name in text.split(",") if name]


def unpack(parser: argparse.ArgumentParser) -> Run:
    """Write the images of a pack as PNG files again.

    All of them or a part, as DEST/SPLIT/CLASS/NAME.png with their original names and pixels, or
    as relative links into a tree that has the files.

    Example:
      cinicpack unpack cinic10.pack enlarged --merge-train-valid
      cinicpack unpack cinic10.pack cinic10-imagenet --source imagenet --link CINIC-10
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("destination", metavar="DEST", help="the tree to make")
    parser.add_argument("--split", metavar="SPLITS", help="these splits only: train,valid")
    parser.add_argument("--source", choices=("cifar10", "imagenet"), help="this part only")
    parser.add_argument("--classes", type=split_names, help="these classes only: cat,dog")
    parser.add_argument(
        "--merge-train-valid", action="store_true", help="write train and valid as one split, train"
    )
    parser.add_argument("--link", metavar="TREE", help="write links to the files of this tree")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: the cores)")

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.study.unpack import unpack

        start = time.perf_counter()
        counts = unpack(
            arguments.pack,
            arguments.destination,
            split=arguments.split and arguments.split.replace(",", "+"),
            source=arguments.source,
            classes=arguments.classes,
            merge_train_valid=arguments.merge_train_valid,
            link=arguments.link,
            num_workers=arguments.workers,
        )
        seconds = time.perf_counter() - start
        what = "images" if arguments.link is None else "links"
        each = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        print(
            f"{arguments.destination}: {sum(counts.values()):,} {what} in {seconds:.1f} s ({each})"
        )
        return 0

    return run


COMMANDS: Final[tuple[Command, ...]] = (unpack,)
