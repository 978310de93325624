"""Write a tree like CINIC-10's, of any size: its names, with images that are drawn.

    python tools/make_tree.py /data/tree --tar /data/CINIC-10.tar.gz    # all 270,000 images
    python tools/make_tree.py /data/small --per-class 90

The first takes about three minutes on two cores.
"""

import argparse
import gzip
import io
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import repeat
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cinicpack import cinic10, synthetic

# All members have one time, 17 August 2018: an archive must not depend on when it is made.
_MTIME = 1_534_464_000


def write_directory(
    options: argparse.Namespace, place: tuple[str, str], files: Sequence[str]
) -> int:
    """Write the images of one split and class, and give the number of bytes."""
    label = cinic10.CLASSES.index(place[1])
    key = (options.seed, cinic10.SPLITS.index(place[0]), label)
    origins = [cinic10.parse_name(file).origin for file in files]
    images = synthetic.synthesize_images(
        len(files), key, size=options.size, labels=label, origins=origins
    )
    synthetic.fade_some(images, files, np.random.default_rng(key))
    return synthetic.write_images(options.dest.joinpath(*place), files, images)


@contextmanager
def open_archive(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a new .tar.gz for writing, compressed as ``tar -z`` does."""
    with (
        path.open("xb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=_MTIME) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        yield archive


def append_directory(
    archive: tarfile.TarFile, root: Path, directory: str, files: Sequence[str]
) -> None:
    """Append a directory of the tree and its files, in the order given."""
    folder = tarfile.TarInfo(directory)
    folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, _MTIME
    archive.addfile(folder)
    for file in files:
        member = tarfile.TarInfo(f"{directory}/{file}")
        content = (root / member.name).read_bytes()
        member.size, member.mtime = len(content), _MTIME
        archive.addfile(member, io.BytesIO(content))


def write_all(options: argparse.Namespace, archive: tarfile.TarFile | None) -> int:
    """Write every directory, append it to the archive, and give the number of bytes."""
    tree = synthetic.name_images(options.per_class, seed=options.seed)
    rng = np.random.default_rng(options.seed)
    total = 0
    with (
        tqdm(total=len(tree) * options.per_class, unit="image", unit_scale=True) as progress,
        ProcessPoolExecutor(options.workers) as pool,
    ):
        sizes = pool.map(write_directory, repeat(options), tree, tree.values())
        for (place, files), size in zip(tree.items(), sizes, strict=True):
            if archive is not None:
                # Shuffle the files, because tar takes files in the order of their directory, which
                # is not sorted.
                shuffled = rng.permutation(files).tolist()
                append_directory(archive, options.dest, "/".join(place), shuffled)
            total += size
            progress.update(len(files))
    return total


def parse_options() -> argparse.Namespace:
    """Read the command line, and refuse what cannot be done before anything is written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dest", type=Path, metavar="DEST", help="where to write SPLIT/CLASS/NAME.png; new or empty")
    add("--per-class", type=int, default=cinic10.PER_CLASS, metavar="N",
        help="images per split and class (default: %(default)s)")  # fmt: skip
    add("--size", type=int, default=32, metavar="N",
        help="height and width of an image (default: %(default)s)")  # fmt: skip
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the random numbers that names and images are drawn by",
    )
    add("--tar", type=Path, metavar="ARCHIVE", help="write the tree also to this new .tar.gz")
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="number of processes")
    options = parser.parse_args()

    for name in ("per_class", "size", "workers"):
        if (value := getattr(options, name)) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected 1 or more, found {value}")
    if options.seed < 0:
        parser.error(f"--seed: expected 0 or more, found {options.seed}")
    if options.dest.exists() and any(options.dest.iterdir()):
        parser.error(f"{options.dest}: expected a new or empty directory, found files in it")
    if options.tar is not None and options.tar.exists():
        parser.error(f"{options.tar}: expected a new archive, found one; remove it first")
    return options


def main() -> None:
    """Write the tree that the command line asks for."""
    options = parse_options()
    with ExitStack() as stack:
        archive = stack.enter_context(open_archive(options.tar)) if options.tar else None
        total = write_all(options, archive)
    images = options.per_class * len(cinic10.SPLITS) * len(cinic10.CLASSES)
    print(
        f"{images:,} images of {total / images:,.0f} bytes on average in {options.dest}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
