"""The commands that study a pack: one thin function per command, as in `cinicpack.cli`."""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Final

from cinicpack.errors import ArgumentError

__all__ = [
    "COMMANDS",
    "Command",
    "Run",
    "add_json",
    "add_workers",
    "parse_names",
    "whole_number",
]

Run = Callable[[argparse.Namespace], int]
Command = Callable[[argparse.ArgumentParser], Run]


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes a command speak to programs."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_workers(parser: argparse.ArgumentParser, kind: str = "threads") -> None:
    """Add the option that says how many threads or processes work."""
    parser.add_argument(
        "--workers", type=whole_number(0), metavar="N", help=f"{kind} (default: the cores)"
    )


def parse_names(text: str) -> list[str]:
    """Parse what a comma-separated option lists."""
    return [name for name in text.split(",") if name]


def whole_number(low: int, stop: int | None = None) -> Callable[[str], int]:
    """Make what parses an option that is a whole number in [low, stop)."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < low or (stop is not None and number >= stop):
            span = f"of at least {low}" + ("" if stop is None else f" and below {stop}")
            raise argparse.ArgumentTypeError(f"expected a whole number {span}, found {text!r}")
        return number

    return parse


def _parse_share(text: str) -> float:
    """Parse an option that is between 0 and 1."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, found {text!r}")
    return share


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
    _add_selection(parser)
    _add_classes(parser, "--classes", "--class")
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
        what = "images" if arguments.link is None else "links"
        each = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        print(
            f"{arguments.destination}: {sum(counts.values()):,} {what} in {seconds:.1f} s ({each})"
        )
        return 0

    return run


def stats(parser: argparse.ArgumentParser) -> Run:
    """Show count, mean and standard deviation per channel, of CINIC-10 beside the published values.

    Exact for pixels in [0, 1], and quick: nothing but the manifest is read.

    Example:
      cinicpack stats cinic10.pack
      cinicpack stats cinic10.pack --split train+valid --source imagenet --by class
    """
    parser.add_argument("pack", metavar="PACK")
    _add_selection(parser)
    parser.add_argument("--by", choices=("class", "source", "split"), help="a line for each")
    add_json(parser)

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.store.pack import open_pack
        from cinicpack.study.statistics import (
            compute_statistics,
            describe_statistics,
            format_statistics,
        )

        pack = open_pack(arguments.pack)
        table = compute_statistics(pack, arguments.split, source=arguments.source, by=arguments.by)
        if arguments.json:
            print(json.dumps(describe_statistics(table, pack), indent=2))
        else:
            print(format_statistics(table, pack))
        return 0

    return run


def contributors(parser: argparse.ArgumentParser) -> Run:
    """List the ImageNet images of a pack, like the authors' imagenet-contributors.csv.

    The list goes to standard output, or to FILE. With the authors' list of synsets, which is
    synsets-to-cifar-10-classes.txt, it also tells the words and the place of each synset, and
    contributors that are not listed under their class are reported.

    Example:
      cinicpack contributors cinic10.pack -o contributors.csv
      cinicpack contributors cinic10.pack --counts --synsets synsets-to-cifar-10-classes.txt
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("-o", "--output", metavar="FILE", help="write this .csv file")
    parser.add_argument("--synsets", metavar="FILE", help="the authors' list of synsets")
    parser.add_argument("--counts", action="store_true", help="list synsets, not single images")

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.store.pack import open_pack
        from cinicpack.study.contributors import (
            count_synsets,
            format_contributors,
            format_counts,
            format_unlisted,
        )
        from cinicpack.study.output import require_suffix, write_text
        from cinicpack.study.synsets import read_synsets

        if arguments.output is not None:
            require_suffix(arguments.output, ".csv")
        pack = open_pack(arguments.pack)
        synsets = None if arguments.synsets is None else read_synsets(arguments.synsets)
        counts = count_synsets(pack, synsets)
        text = format_counts(counts) if arguments.counts else format_contributors(pack, synsets)
        summary = f"{sum(sum(count.images.values()) for count in counts):,} contributors"
        if synsets is not None:
            summary += f"; {format_unlisted(counts)}"
        if arguments.output is None:
            print(text, end="")
            print(summary, file=sys.stderr)
        else:
            write_text(arguments.output, text)
            print(f"{arguments.output}: {summary}")
        return 0

    return run


def sheet(parser: argparse.ArgumentParser) -> Run:
    """Draw a contact sheet: of one class, of all classes, or of one image augmented.

    One class gives the authors' sheet, 20 x 10 random images with lines of one pixel; several or
    all give a few rows of each. FILE ends in .png or .svg.

    Example:
      cinicpack sheet cinic10.pack -o cat.png --class cat --source imagenet
      cinicpack sheet cinic10.pack -o classes.png --seed 1
      cinicpack sheet cinic10.pack -o augmented.png --class cat --augment 17
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the picture")
    _add_selection(parser)
    _add_classes(parser, "--class", "--classes")
    _add_seed(parser, "what images are drawn by")
    parser.add_argument(
        "--augment",
        type=whole_number(0),
        metavar="ROW",
        help="augment image ROW of what is selected",
    )

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.store.pack import open_pack
        from cinicpack.study.output import require_suffix
        from cinicpack.study.picture import write_picture

        require_suffix(arguments.output, ".png", ".svg")
        pack = open_pack(arguments.pack)
        split = pack[arguments.split or "+".join(pack.splits)]
        split = split.select(source=arguments.source, classes=arguments.classes)
        if arguments.augment is not None:
            from cinicpack.study.augmentation import draw_augmentation

            picture = draw_augmentation(split, arguments.augment, seed=arguments.seed)
        else:
            from cinicpack.study.sheet import draw_classes, draw_sheet

            draw = draw_sheet if len(arguments.classes or ()) == 1 else draw_classes
            picture = draw(split, seed=arguments.seed)
        write_picture(arguments.output, picture)
        print(f"{arguments.output}: {picture.shape[1]} x {picture.shape[0]} pixels")
        return 0

    return run


def histogram(parser: argparse.ArgumentParser) -> Run:
    """Draw how pixel intensities of the ImageNet part and of the CIFAR-10 part are distributed.

    All channels together as in the authors' figure, and each of them; the means are dashed. FILE
    ends in .png or .svg. Needs matplotlib: pip install matplotlib.

    Example:
      cinicpack histogram cinic10.pack -o histogram.svg
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the picture")
    _add_split(parser)

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.store.pack import open_pack
        from cinicpack.study.histogram import count_intensities, draw_histograms
        from cinicpack.study.output import require_suffix

        require_suffix(arguments.output, ".png", ".svg")
        pack = open_pack(arguments.pack)
        start = time.perf_counter()
        histograms = count_intensities(pack, arguments.split)
        seconds = time.perf_counter() - start
        draw_histograms(arguments.output, histograms)
        pixels = sum(int(counts[0].sum()) for counts in histograms.values())
        print(f"{arguments.output}: {pixels:,} pixels counted in {seconds:.1f} s")
        return 0

    return run


def audit(parser: argparse.ArgumentParser) -> Run:
    """Look for duplicates, empty images, CIFAR-10 train images in the test split, and imbalance.

    Duplicates have exactly the same pixels. Near-constant images hardly vary in any channel. What
    is found is not an error: the exit status is 0.

    Example:
      cinicpack audit cinic10.pack -o findings.csv --sheet duplicates.png
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("-o", "--output", metavar="FILE", help="write all findings to this .csv")
    parser.add_argument("--sheet", metavar="FILE", help="draw the duplicates as .png or .svg")
    add_json(parser)

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.store.pack import open_pack
        from cinicpack.study.audit import audit_pack, describe_audit, format_audit, format_findings
        from cinicpack.study.output import require_suffix, write_text
        from cinicpack.study.picture import write_picture
        from cinicpack.study.sheet import draw_duplicates

        if arguments.output is not None:
            require_suffix(arguments.output, ".csv")
        if arguments.sheet is not None:
            require_suffix(arguments.sheet, ".png", ".svg")
        start = time.perf_counter()
        found = audit_pack(open_pack(arguments.pack))
        seconds = time.perf_counter() - start
        summary = describe_audit(found)
        print(json.dumps(summary, indent=2) if arguments.json else format_audit(summary))
        if arguments.output is not None:
            write_text(arguments.output, format_findings(found))
        if arguments.sheet is not None and found.duplicates:
            write_picture(arguments.sheet, draw_duplicates(found))
        elif arguments.sheet is not None:
            print(f"{arguments.sheet}: not drawn, there are no duplicates", file=sys.stderr)
        if not arguments.json:
            print(f"audited in {seconds:.1f} s")
        return 0

    return run


def _add_split(
    parser: argparse.ArgumentParser,
    default: str | None = None,
    text: str = "these splits only: train,valid",
) -> None:
    parser.add_argument(
        "--split",
        "--splits",
        type=lambda names: "+".join(parse_names(names)),
        default=default,
        metavar="SPLITS",
        help=text,
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", choices=("cifar10", "imagenet"), help="this part only")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    _add_split(parser)
    _add_source(parser)


def _add_classes(parser: argparse.ArgumentParser, name: str, other: str) -> None:
    parser.add_argument(
        name,
        other,
        dest="classes",
        type=parse_names,
        metavar="CLASSES",
        help="these classes only: cat,dog",
    )


def _add_seed(parser: argparse.ArgumentParser, text: str) -> None:
    # As far as a loader's goes.
    parser.add_argument("--seed", type=whole_number(0, 2**64), default=0, metavar="N", help=text)


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
            print(json.dumps(describe_recovery(recovery), indent=2))
        else:
            print(format_recovery(recovery))
            print(f"written to {arguments.destination} in {seconds:.1f} s")
        return 0 if recovery.reference is None or recovery.reference.identical else 1

    return run


def shift(parser: argparse.ArgumentParser) -> Run:
    """Show a model's accuracy by source and class.

    PREDICTIONS is an .npy file with a label for every image of the split, in its order, or with
    its scores for every class. CIFAR-10's training images in CINIC-10's test split, which a model
    trained on CIFAR-10 has seen, are also counted apart from its test images.

    Example:
      cinicpack shift cinic10.pack predictions.npy
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("predictions", metavar="PREDICTIONS")
    _add_split(parser, "test", "what was predicted (default: test)")
    _add_source(parser)
    parser.add_argument(
        "--confidence",
        type=_parse_share,
        default=0.95,
        metavar="SHARE",
        help="of the intervals (default: 0.95)",
    )
    add_json(parser)

    def run(arguments: argparse.Namespace) -> int:
        import numpy as np

        from cinicpack.store.pack import open_pack
        from cinicpack.study.shift import format_accuracies, measure_accuracies

        split = open_pack(arguments.pack)[arguments.split].select(source=arguments.source)
        try:
            predictions = np.load(arguments.predictions, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ArgumentError(
                f"{arguments.predictions}: expected an npy file ({error})"
            ) from None
        found = measure_accuracies(predictions, split, confidence=arguments.confidence)
        if arguments.json:
            print(json.dumps([entry._asdict() for entry in found], indent=2))
        else:
            print(format_accuracies(found))
        return 0

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
    parser.add_argument(
        "--per-class",
        type=whole_number(0),
        default=21_000,
        metavar="N",
        help="ImageNet's (default: 21000)",
    )
    _add_seed(parser, "what is drawn by")
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
            print(json.dumps(made._asdict(), indent=2))
            return 0
        for where, reason in made.left_out:
            print(f"left out {where}: {reason}")
        if made.absent:
            print(f"{len(made.absent):,} synsets are not there: {', '.join(made.absent)}")
        for split, count in made.cifar10.items():
            print(f"{split:<6}{count:>9,} of CIFAR-10 {made.imagenet[split]:>9,} of ImageNet")
        print(f"made {arguments.destination} in {seconds:.1f} s")
        return 0

    return run


def download(parser: argparse.ArgumentParser) -> Run:
    """Fetch the official archive of CINIC-10, 688 MB.

    What breaks off is kept in DEST.part, and goes on from there when the command is run again.
    Size and MD5 are checked. The data are under CC BY 4.0.

    Example:
      cinicpack download --pack
    """
    parser.add_argument(
        "destination",
        metavar="DEST",
        nargs="?",
        default=".",
        help="the file to write, or a folder for CINIC-10.tar.gz (default: this folder)",
    )
    parser.add_argument("--url", help="get the same file from another place")
    parser.add_argument(
        "--pack", action="store_true", help="then make CINIC-10.pack beside it, without unpacking"
    )

    def run(arguments: argparse.Namespace) -> int:
        import cinicpack
        from cinicpack.study.download import download

        start = time.perf_counter()
        archive = download(
            arguments.destination, url=arguments.url or cinicpack.cinic10.ARCHIVE_URL
        )
        seconds = time.perf_counter() - start
        print(f"{archive}: {archive.stat().st_size:,} bytes, MD5 as published, in {seconds:.1f} s")
        if arguments.pack:
            name = archive.name.removesuffix(".gz").removesuffix(".tar")
            made = cinicpack.pack(archive, archive.with_name(f"{name}.pack"))
            print(f"{made.path}: fingerprint {made.fingerprint}")
        return 0

    return run


COMMANDS: Final[tuple[Command, ...]] = (
    unpack,
    cifar10,
    shift,
    compile_,
    download,
    stats,
    contributors,
    sheet,
    histogram,
    audit,
)
