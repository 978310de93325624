"""Commands that make trees and files from a pack, or CINIC-10 itself."""

import argparse
import time
from typing import Final

from cinicpack.cli.options import (
    Run,
    add_classes,
    add_json,
    add_seed,
    add_selection,
    add_workers,
    whole_number,
)
from cinicpack.terminal import show, show_json
from cinicpack.text import counted, some, table

__all__ = ["cifar10", "compile_", "unpack"]

# How many of the synsets that are not there are named.
_SHOWN: Final = 10


def unpack(parser: argparse.ArgumentParser) -> Run:
    """Write the images of a pack as PNG files again.

    All of them or a part, as DEST/SPLIT/CLASS/NAME.png with their original names and pixels
    (a.jpg becomes a.jpg.png), or as relative links into a tree that has the files.

    Example:
      cinicpack unpack cinic10.pack enlarged --merge-train-valid
      cinicpack unpack cinic10.pack cinic10-imagenet --source imagenet --link CINIC-10
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("destination", metavar="DEST", help="the tree to make")
    add_selection(parser)
    add_classes(parser, "--classes", "--class")
    parser.add_argument(
        "--merge-train-valid", action="store_true", help="write train and valid as one split, train"
    )
    parser.add_argument("--link", metavar="TREE", help="write links to the files of this tree")
    add_workers(parser)

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.study.unpack import unpack

        start = time.perf_counter()
        counts = unpack(
            arguments.pack,
            arguments.destination,
            split=arguments.split,
            source=arguments.source,
            classes=arguments.classes,
            merge_train_valid=arguments.merge_train_valid,
            link=arguments.link,
            num_workers=arguments.workers,
        )
        seconds = time.perf_counter() - start
        what = counted(sum(counts.values()), "image" if arguments.link is None else "link")
        each = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        show(f"{arguments.destination}: {what} in {seconds:.1f} s ({each})")
        return 0

    return run


def cifar10(parser: argparse.ArgumentParser) -> Run:
    """Write the CIFAR-10 that is in CINIC-10 as files, in its original order.

    bin: the files of cifar-10-binary.tar.gz, byte for byte. py: those of cifar-10-python.tar.gz,
    for torchvision and Keras, but with CINIC-10's file names in them. npy: four arrays.

    torchvision checks MD5s that the py files cannot have; in ROOT/cifar-10-batches-py it loads
    them with CIFAR10(ROOT) after these two lines:
      CIFAR10.train_list = [[name, None] for name, _ in CIFAR10.train_list]
      CIFAR10.test_list = [[name, None] for name, _ in CIFAR10.test_list]

    A pack without all of CIFAR-10, as one of a demo tree, needs --allow-missing. The exit status
    is 1 if images differ from a reference.

    Example:
      cinicpack cifar10 cinic10.pack cifar-10-batches-bin
      cinicpack cifar10 cinic10.pack data/cifar-10-batches-py --layout py
      cinicpack cifar10 cinic10.pack again --reference cifar-10-python.tar.gz
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("destination", metavar="DEST", help="the folder to make")
    parser.add_argument("--layout", choices=("bin", "py", "npy"), default="bin")
    parser.add_argument(
        "--reference",
        metavar="PATH",
        help="compare every image with CIFAR-10's own archive, or a folder with its files",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="write what is there, if images are missing"
    )
    add_json(parser)

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.study.recovery import describe_recovery, format_recovery, recover_cifar10

        start = time.perf_counter()
        recovery = recover_cifar10(
            arguments.pack,
            arguments.destination,
            layout=arguments.layout,
            reference=arguments.reference,
            allow_missing=arguments.allow_missing,
        )
        seconds = time.perf_counter() - start
        if arguments.json:
            show_json(describe_recovery(recovery))
        else:
            show(format_recovery(recovery))
            show(f"written to {arguments.destination} in {seconds:.1f} s")
        return 0 if recovery.reference is None or recovery.reference.identical else 1

    return run


def compile_(parser: argparse.ArgumentParser) -> Run:
    """Make a CINIC-10 from CIFAR-10 and ImageNet.

    As its authors did: a third of CIFAR-10's images of each class to each split, all of its test
    images to test, and ImageNet's drawn from the synsets of each class and reduced to 32x32. DEST
    is a tree or, if it ends in .pack, .h5 or .hdf5, a pack. Tars and JPEGs that cannot be read
    are listed and left out.

    Example:
      cinicpack compile --cifar10 cifar.tar.gz --imagenet fall11 --synsets list.txt cinic10.pack
    """
    parser.add_argument("destination", metavar="DEST", help="the tree or pack to make")
    _add_inputs(parser)
    parser.add_argument(
        "--per-class",
        type=whole_number(0),
        default=21_000,
        metavar="N",
        help="ImageNet's (default: 21000)",
    )
    add_seed(parser, "what is drawn by")
    add_workers(parser)
    add_json(parser)

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.study.composition import compose_dataset

        start = time.perf_counter()
        made = compose_dataset(
            arguments.cifar10,
            arguments.imagenet,
            arguments.destination,
            synsets=arguments.synsets,
            contributors=arguments.contributors,
            per_class=arguments.per_class,
            seed=arguments.seed,
            num_workers=arguments.workers,
        )
        seconds = time.perf_counter() - start
        if arguments.json:
            show_json(made._asdict())
            return 0
        for where, reason in made.left_out:
            show(f"left out {where}: {reason}")
        if made.absent:
            show(
                f"{counted(len(made.absent), 'synset is', 'synsets are')} not there: "
                f"{some(made.absent, _SHOWN)}"
            )
        counts = [
            (split, f"{count:,} of CIFAR-10", f"{made.imagenet[split]:,} of ImageNet")
            for split, count in made.cifar10.items()
        ]
        show("\n".join(table(counts, widths=(6, 19, 20))))
        show(f"made {arguments.destination} in {seconds:.1f} s")
        return 0

    return run


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cifar10", metavar="PATH", required=True, help="its archive, or a folder with its files"
    )
    parser.add_argument(
        "--imagenet",
        metavar="PATH",
        required=True,
        help="a folder with nSSSSSSSS.tar or nSSSSSSSS/ of JPEGs",
    )
    parser.add_argument("--synsets", metavar="FILE", help="the authors' list, to draw from")
    parser.add_argument(
        "--contributors", metavar="CSV", help="the authors' list of images, to take instead"
    )
