"""Commands that look at what is in a pack: figures, lists and pictures."""

import argparse
import time
from typing import TYPE_CHECKING

from cinicpack.cli.options import (
    Run,
    add_classes,
    add_json,
    add_seed,
    add_selection,
    add_source,
    add_split,
    parse_share,
    whole_number,
)
from cinicpack.errors import ArgumentError, SelectionError
from cinicpack.paths import naming_file
from cinicpack.terminal import show, show_json, tell
from cinicpack.text import counted

if TYPE_CHECKING:
    from cinicpack.store.split import Split

__all__ = ["audit", "contributors", "histogram", "sheet", "shift", "stats"]


def stats(parser: argparse.ArgumentParser) -> Run:
    """Show count, mean and standard deviation per channel, of CINIC-10 beside the published values.

    Exact for pixels in [0, 1], and quick: nothing but the manifest is read.

    Example:
      cinicpack stats cinic10.pack
      cinicpack stats cinic10.pack --split train+valid --source imagenet --by class
    """
    parser.add_argument("pack", metavar="PACK")
    add_selection(parser)
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
            show_json(describe_statistics(table, pack))
        else:
            show(format_statistics(table, pack))
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
        from cinicpack.study.output import check_file, write_text
        from cinicpack.study.synsets import read_synsets

        if arguments.output is not None:
            check_file(arguments.output, ".csv")
        pack = open_pack(arguments.pack)
        synsets = None if arguments.synsets is None else read_synsets(arguments.synsets)
        counts = count_synsets(pack, synsets)
        if not counts:
            raise SelectionError(
                f"{arguments.pack}: expected images of ImageNet, which their file names tell, "
                "found none"
            )
        text = format_counts(counts) if arguments.counts else format_contributors(pack, synsets)
        summary = counted(sum(sum(count.images.values()) for count in counts), "contributor")
        if synsets is not None:
            summary += f"; {format_unlisted(counts)}"
        if arguments.output is None:
            show(text, end="")
            tell(summary)
        else:
            write_text(arguments.output, text)
            show(f"{arguments.output}: {summary}")
        return 0

    return run


def sheet(parser: argparse.ArgumentParser) -> Run:
    """Draw a contact sheet: of one class, of all classes, or of one image augmented.

    One class gives the authors' sheet, 20 x 10 random images with lines of one pixel; several or
    all give a few rows of each. A line above says what is shown. FILE ends in .png or .svg.

    Example:
      cinicpack sheet cinic10.pack -o cat.png --class cat --source imagenet
      cinicpack sheet cinic10.pack -o classes.png --seed 1
      cinicpack sheet cinic10.pack -o augmented.png --class cat --augment 17
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the picture")
    add_selection(parser)
    add_classes(parser, "--class", "--classes")
    add_seed(parser, "what images are drawn by")
    parser.add_argument(
        "--augment",
        type=whole_number(0),
        metavar="ROW",
        help="augment image ROW of what is selected",
    )

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.store.pack import open_pack
        from cinicpack.study.output import check_file
        from cinicpack.study.picture import add_title, write_picture

        check_file(arguments.output, ".png", ".svg")
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
        picture = add_title(_name_images(arguments, split), picture)
        write_picture(arguments.output, picture)
        show(f"{arguments.output}: {picture.shape[1]} x {picture.shape[0]} pixels")
        return 0

    return run


def _name_images(arguments: argparse.Namespace, split: "Split") -> str:
    """Say which images a sheet shows, as its title."""
    parts = [
        f"{split.pack.path.name}, {split.name}",
        ", ".join(arguments.classes or ()),
        f"source {arguments.source}" if arguments.source else "all sources",
        f"image {arguments.augment:,}" if arguments.augment is not None else "random images",
        f"seed {arguments.seed}",
    ]
    return ", ".join(filter(None, parts))


def histogram(parser: argparse.ArgumentParser) -> Run:
    """Draw how pixel intensities of the ImageNet part and of the CIFAR-10 part are distributed.

    All channels together as in the authors' figure, and each of them; dashed lines are means. FILE
    ends in .png or .svg. Needs matplotlib: pip install matplotlib.

    Example:
      cinicpack histogram cinic10.pack -o histogram.svg
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the picture")
    add_split(parser)

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.store.pack import open_pack
        from cinicpack.study.histogram import (
            count_intensities,
            draw_histograms,
            import_matplotlib,
        )
        from cinicpack.study.output import check_file

        check_file(arguments.output, ".png", ".svg")
        import_matplotlib()
        pack = open_pack(arguments.pack)
        start = time.perf_counter()
        histograms = count_intensities(pack, arguments.split)
        seconds = time.perf_counter() - start
        title = f"{pack.path.name}, {arguments.split or '+'.join(pack.splits)}"
        draw_histograms(arguments.output, histograms, title=title)
        pixels = sum(int(counts[0].sum()) for counts in histograms.values())
        show(f"{arguments.output}: {pixels:,} pixels counted in {seconds:.1f} s")
        return 0

    return run


def audit(parser: argparse.ArgumentParser) -> Run:
    """Look for duplicates, empty images, CIFAR-10 train images in the test split, and imbalance.

    Duplicates have exactly the same pixels. Near-constant images hardly vary in any channel. What
    is found is not an error: the exit status is 0.

    With --against, look for the images that another pack has too instead, by split and class.

    Example:
      cinicpack audit cinic10.pack -o findings.csv --sheet duplicates.png
      cinicpack audit cinic10.pack --against cifar10.pack -o common.csv
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("-o", "--output", metavar="FILE", help="write all findings to this .csv")
    parser.add_argument("--sheet", metavar="FILE", help="draw the duplicates as .png or .svg")
    parser.add_argument("--against", metavar="PACK", help="find the images that this pack has too")
    add_json(parser)

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.store.pack import open_pack
        from cinicpack.study.audit import audit_pack, describe_audit, format_audit, format_findings
        from cinicpack.study.output import check_file, write_text
        from cinicpack.study.picture import add_title, write_picture
        from cinicpack.study.sheet import draw_duplicates

        if arguments.output is not None:
            check_file(arguments.output, ".csv")
        if arguments.sheet is not None:
            check_file(arguments.sheet, ".png", ".svg")
        if arguments.against is not None:
            return _compare(arguments)
        start = time.perf_counter()
        found = audit_pack(open_pack(arguments.pack))
        seconds = time.perf_counter() - start
        summary = describe_audit(found)
        show_json(summary) if arguments.json else show(format_audit(summary))
        if arguments.output is not None:
            write_text(arguments.output, format_findings(found))
        if arguments.sheet is not None and found.duplicates:
            title = f"{found.pack.path.name}: pictures that are there more than once"
            write_picture(arguments.sheet, add_title(title, draw_duplicates(found)))
        elif arguments.sheet is not None:
            tell(f"{arguments.sheet}: not drawn, there are no duplicates")
        if not arguments.json:
            show(f"audited in {seconds:.1f} s")
        return 0

    return run


def _compare(arguments: argparse.Namespace) -> int:
    from cinicpack.store.pack import open_pack
    from cinicpack.study.output import write_text
    from cinicpack.study.overlap import (
        compare_packs,
        describe_overlap,
        format_common,
        format_overlap,
    )

    if arguments.sheet is not None:
        raise ArgumentError(
            "expected --against or --sheet, which draws the duplicates within one pack, found both"
        )
    start = time.perf_counter()
    found = compare_packs(open_pack(arguments.pack), open_pack(arguments.against))
    seconds = time.perf_counter() - start
    summary = describe_overlap(found)
    show_json(summary) if arguments.json else show(format_overlap(summary))
    if arguments.output is not None:
        write_text(arguments.output, format_common(found))
    if not arguments.json:
        show(f"compared in {seconds:.1f} s")
    return 0


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
    add_split(parser, "test", "what was predicted (default: test)")
    add_source(parser)
    parser.add_argument(
        "--confidence",
        type=parse_share,
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
            with naming_file(arguments.predictions):
                predictions = np.load(arguments.predictions, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ArgumentError(
                f"{arguments.predictions}: expected an npy file ({error})"
            ) from None
        found = measure_accuracies(predictions, split, confidence=arguments.confidence)
        if arguments.json:
            show_json([entry._asdict() for entry in found])
        else:
            show(format_accuracies(found))
        return 0

    return run
