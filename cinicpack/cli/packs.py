"""Commands that make a pack, and tell what it is and how fast it loads."""

import argparse
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cinicpack.cli.options import Run, add_json, add_workers, parse_names, whole_number
from cinicpack.terminal import show, show_json, tell
from cinicpack.text import counted

__all__ = ["bench", "demo", "download", "info", "pack", "verify"]


def pack(parser: argparse.ArgumentParser) -> Run:
    """Convert a tree or an archive of images into a pack.

    SOURCE is a directory, a .tar (also .gz, .bz2, .xz, .zst) or a .zip with SPLIT/CLASS/NAME or
    CLASS/NAME in it, where NAME ends as ImageFolder knows it: .png .jpg .jpeg .ppm .pgm .bmp .tif
    .tiff .webp. Nothing is extracted, and no image is turned as Exif would have it. What would
    move a label is an error, and so are images of several sizes, unless they are resized.

    Or SOURCE is parquet as Hugging Face's hub has it: a folder, a file, or several.

    Or SOURCE is an archive or folder of the own files of CIFAR-10, CIFAR-100, ImageNet32x32,
    ImageNet64x64, CIFAR-10.1 or CIFAR-10-C, or of others in their form. Row i is then image i, and
    images are numbered: cifar10-train-0.png.

    Example:
      cinicpack pack CINIC-10.tar.gz cinic10.pack
      cinicpack pack data/train-*.parquet data/test-*.parquet cinic10.pack
      cinicpack pack photographs photographs.pack --resize 64 --filter bicubic --fit crop
    """
    parser.add_argument("source", metavar="SOURCE", nargs="+")
    parser.add_argument("destination", metavar="DESTINATION", help="the pack to make")
    _add_pack_options(parser)

    def run(arguments: argparse.Namespace) -> int:
        import cinicpack

        start = time.perf_counter()
        with _noting() as notes:
            made = cinicpack.pack(
                arguments.source,
                arguments.destination,
                format=arguments.format,
                splits=arguments.splits,
                shard_rows=arguments.shard_rows,
                num_workers=arguments.workers,
                skip_bad=arguments.skip_bad,
                allow_missing=arguments.allow_missing,
                overwrite=arguments.overwrite,
                expect=arguments.expect,
                resize=arguments.resize,
                filter=arguments.filter,
                fit=arguments.fit,
                labels=arguments.labels,
                columns=arguments.columns,
            )
        seconds = time.perf_counter() - start
        count = sum(info.rows for info in made.manifest.splits.values())
        show(
            f"packed {counted(count, 'image')} in {seconds:.1f} s ({count / seconds:,.0f} images/s)"
        )
        show(f"{made.path}: fingerprint {made.fingerprint}")
        for note in notes:
            show(note)
        return 0

    return run


@contextmanager
def _noting() -> Iterator[list[str]]:
    """Collect what packing logs of the images."""
    notes: list[str] = []
    logger, handler = logging.getLogger("cinicpack.convert"), logging.Handler()
    handler.emit = lambda record: notes.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _add_pack_options(parser: argparse.ArgumentParser) -> None:
    from cinicpack.store.container import CONTAINERS

    parser.add_argument(
        "--format",
        choices=tuple(CONTAINERS),
        default="npy",
        help="a directory of npy files (default), or one HDF5 file",
    )
    parser.add_argument(
        "--splits",
        "--split",
        type=parse_names,
        metavar="SPLITS",
        help="the splits to take: train,valid",
    )
    add_workers(parser, "processes")
    parser.add_argument(
        "--shard-rows", type=whole_number(1), metavar="N", help="images in one file at most"
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out images that are broken or of another size",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="accept classes without images, which keep their labels",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a pack with nothing else in it"
    )
    parser.add_argument("--expect", choices=("cinic10",), help="fail unless it is CINIC-10")
    parser.add_argument(
        "--labels", choices=("fine", "coarse"), help="CIFAR-100's 100 classes (default) or its 20"
    )
    parser.add_argument(
        "--columns",
        type=parse_names,
        metavar="IMAGE,LABEL",
        help="of parquet: the columns of images and of labels",
    )
    _add_resize_options(parser)


def _add_resize_options(parser: argparse.ArgumentParser) -> None:
    from cinicpack.store.format import FILTERS, FITS

    parser.add_argument(
        "--resize", type=_parse_size, metavar="N", help="give images one size: 32, or 32x48 (HxW)"
    )
    parser.add_argument(
        "--filter", choices=FILTERS, default=FILTERS[0], help="how, with box as CINIC-10 (default)"
    )
    parser.add_argument(
        "--fit",
        choices=FITS,
        default=FITS[0],
        help="squash both sides, as CINIC-10 (default), or crop the middle of the longer one",
    )


def _parse_size(text: str) -> int | tuple[int, int]:
    """Parse a size, HxW or one number."""
    sides = [int(side) if side.isdecimal() else 0 for side in text.split("x")]
    if len(sides) > 2 or not all(sides):
        raise argparse.ArgumentTypeError(f"expected N or HxW of at least 1, found {text!r}")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def info(parser: argparse.ArgumentParser) -> Run:
    """Show what is in a pack.

    Example:
      cinicpack info cinic10.pack
    """
    parser.add_argument("pack", metavar="PACK")
    add_json(parser)

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.store.pack import open_pack
        from cinicpack.store.summary import describe_pack, format_summary

        summary = describe_pack(open_pack(arguments.pack))
        show_json(summary) if arguments.json else show(format_summary(summary))
        return 0

    return run


def verify(parser: argparse.ArgumentParser) -> Run:
    """Hash a pack again, and check all that it says of its images.

    Every problem is named; the exit status is then 1.

    Example:
      cinicpack verify cinic10.pack
    """
    parser.add_argument("pack", metavar="PACK")
    add_workers(parser)

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.store.verify import verify_pack

        start = time.perf_counter()
        nbytes, problems = verify_pack(arguments.pack, num_workers=arguments.workers)
        seconds = time.perf_counter() - start
        for problem in problems:
            tell(f"cinicpack: error: {problem}")
        verdict = "all as recorded"
        if problems:
            verdict = counted(len(problems), "problem")
        rate = nbytes / seconds / 1e9
        show(f"{arguments.pack}: {nbytes:,} bytes in {seconds:.2f} s ({rate:.1f} GB/s), {verdict}")
        return 1 if problems else 0

    return run


def bench(parser: argparse.ArgumentParser) -> Run:
    """Measure how fast a pack loads on this machine, and what holds it back.

    With --tree the tree's files are read too, as ImageFolder does. Takes less than 30 s.

    Example:
      cinicpack bench cinic10.pack --tree CINIC-10
    """
    parser.add_argument("pack", metavar="PACK")
    parser.add_argument("--tree", metavar="TREE", help="the tree of images it was made from")
    parser.add_argument(
        "--batch-size",
        type=whole_number(1),
        default=128,
        metavar="N",
        help="images in a batch (default: 128)",
    )
    add_json(parser)

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.bench import format_bench, run_bench
        from cinicpack.store.pack import open_pack

        result = run_bench(
            open_pack(arguments.pack), arguments.tree, batch_size=arguments.batch_size
        )
        if arguments.json:
            show_json(result._asdict(), indent=None)
        else:
            show(format_bench(result))
        return 0

    return run


def demo(parser: argparse.ArgumentParser) -> Run:
    """Show everything on a small data set that is made for it; needs nothing, takes a minute.

    With --keep the pack stays, of 9,000 synthetic images, to try things on.

    Example:
      cinicpack demo
      cinicpack demo --keep cinic10.pack
    """
    parser.add_argument("--keep", type=Path, metavar="DEST", help="leave the pack here")

    def run(arguments: argparse.Namespace) -> int:
        from cinicpack.demo import run_demo

        run_demo(keep=arguments.keep)
        return 0

    return run


def download(parser: argparse.ArgumentParser) -> Run:
    """Fetch CINIC-10: the official archive, 688 MB, or the hub's parquet files, 771 MB.

    The second is asked for if the first cannot be had. An interrupted download is kept in
    DEST.part, and resumes when the command is run again. Sizes and digests are checked. The data
    are under CC BY 4.0.

    Example:
      cinicpack download --pack
      cinicpack download --mirror hub
    """
    parser.add_argument(
        "destination",
        metavar="DEST",
        nargs="?",
        default=".",
        help="the file to write, or a folder for CINIC-10.tar.gz or CINIC-10-parquet (default: "
        "this folder)",
    )
    parser.add_argument("--mirror", choices=("official", "hub"), help="ask only this one")
    parser.add_argument("--url", help="get the same archive from another place")
    parser.add_argument(
        "--pack", action="store_true", help="then make CINIC-10.pack beside it, without unpacking"
    )

    def run(arguments: argparse.Namespace) -> int:
        import cinicpack
        from cinicpack.fetch.download import download
        from cinicpack.store.publish import check_free

        to_pack = _name_pack(Path(arguments.destination))
        if arguments.pack:
            check_free(to_pack)
        start = time.perf_counter()
        made_at = download(
            arguments.destination,
            mirror=arguments.mirror,
            url=arguments.url,
            to_pack=arguments.pack,
        )
        seconds = time.perf_counter() - start
        files = [made_at] if made_at.is_file() else sorted(made_at.iterdir())
        nbytes = sum(file.stat().st_size for file in files)
        show(f"{made_at}: {nbytes:,} bytes, as published, in {seconds:.1f} s")
        if arguments.pack:
            made = cinicpack.pack(made_at, to_pack)
            show(f"{made.path}: fingerprint {made.fingerprint}")
        return 0

    return run


def _name_pack(destination: Path) -> Path:
    """Return where the pack of a download belongs: beside it, with its name."""
    if destination.is_dir():
        return destination / "CINIC-10.pack"
    stem = destination.name.removesuffix(".tgz").removesuffix(".gz").removesuffix(".tar")
    return destination.with_name(f"{stem}.pack")
