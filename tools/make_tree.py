"""Write a tree like CINIC-10's, of any size, from the authors' contact sheets or from nothing.

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
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cinicpack import cinic10, synthetic

_SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"

# A contact sheet: tiles of 32x32 pixels with a white line before each row and column.
_ROWS, _COLUMNS, _TILE = 10, 20, 32

# Tiles are shifted by up to this many pixels; what comes in at the edge is their reflection.
_REACH = 4
_SHIFTS = 2 * _REACH + 1

# An image's number in the tree is written into the lowest bits of as many pixels.
_STAMP_BITS = 24

# One time for all members, 17 August 2018: an archive must not depend on when it is made.
_MTIME = 1_534_464_000


def read_tiles(sheet: Path) -> NDArray[np.uint8]:
    """Cut a contact sheet into its 200 tiles, (200, 32, 32, 3), row by row."""
    with Image.open(sheet) as image:
        pixels = np.asarray(image.convert("RGB"))
    pitch = _TILE + 1
    expected = (1 + _ROWS * pitch, 1 + _COLUMNS * pitch, 3)
    if pixels.shape != expected:
        raise SystemExit(f"{sheet}: expected a contact sheet {expected}, found {pixels.shape}")
    cells = pixels[1:, 1:].reshape(_ROWS, pitch, _COLUMNS, pitch, 3)
    return cells[:, :_TILE, :, :_TILE].swapaxes(1, 2).reshape(-1, _TILE, _TILE, 3)


def vary_tiles(tiles: NDArray[np.uint8], count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Make ``count`` images of tiles by shift, mirror and brightness.

    No tile is shifted and mirrored in the same way twice before all 162 ways are used.
    """
    turn, tile = np.divmod(np.arange(count), len(tiles))
    ways = rng.permuted(np.tile(np.arange(2 * _SHIFTS**2), (len(tiles), 1)), axis=1)
    way = ways[tile, turn % ways.shape[1]]
    mirror, down, right = np.unravel_index(way, (2, _SHIFTS, _SHIFTS))
    padded = np.pad(tiles, ((0, 0), (_REACH, _REACH), (_REACH, _REACH), (0, 0)), mode="reflect")
    pixels = np.arange(_TILE)
    rows = pixels + down[:, None]
    columns = np.where(mirror[:, None], pixels[::-1], pixels) + right[:, None]
    images: NDArray[np.uint8] = padded[tile[:, None, None], rows[:, :, None], columns[:, None, :]]
    brightness = rng.uniform(0.8, 1.2, (count, 1, 1, 1)).astype(np.float32)
    scaled: NDArray[np.float32] = np.rint((images * brightness).clip(0, 255))
    return scaled.astype(np.uint8)


def resize_images(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize (n, height, width, 3) to (n, size, size, 3)."""
    shape = (size, size)
    if images.shape[1:3] == shape:
        return images
    bicubic = Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(image).resize(shape, bicubic)) for image in images])


def stamp_numbers(images: NDArray[np.uint8], first: int) -> None:
    """Make all images of a tree differ, in place, by writing their numbers into lowest bits.

    A shifted white ground is the same white ground: only this makes it certain.
    """
    numbers = np.arange(first, first + len(images))
    bits = (numbers[:, None] >> np.arange(_STAMP_BITS) & 1).astype(np.uint8)
    pixels = images.reshape(len(images), -1, 3)[:, :_STAMP_BITS]
    pixels[...] = pixels & 0xFE | bits[..., None]


def write_directory(
    options: argparse.Namespace, place: tuple[str, str], files: Sequence[str]
) -> int:
    """Write the images of one split and class, and give the number of bytes."""
    split, label = cinic10.SPLITS.index(place[0]), cinic10.CLASSES.index(place[1])
    key = (options.seed, split, label)
    rng = np.random.default_rng(key)
    if options.samples is None:
        origins = [cinic10.parse_name(file).origin for file in files]
        images = synthetic.synthesize_images(
            len(files), key, size=options.size, labels=label, origins=origins
        )
    else:
        # Every tile serves one split only: what is tested on must not have been trained on.
        tiles = read_tiles(options.samples / f"cinic-{place[1]}.png")[split :: len(cinic10.SPLITS)]
        images = resize_images(vary_tiles(tiles, len(files), rng), options.size)
    synthetic.fade_some(images, files, rng)
    stamp_numbers(images, (split * len(cinic10.CLASSES) + label) * len(files))
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
                # tar takes files in their directory's own order, which is not the sorted one.
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
    add("--size", type=int, default=_TILE, metavar="N",
        help="height and width of an image (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="what everything is drawn by")
    add("--tar", type=Path, metavar="ARCHIVE", help="write the tree also to this new .tar.gz")
    add("--workers", type=int, default=os.cpu_count(), metavar="N", help="number of processes")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--samples", type=Path, metavar="DIR",
        help="where the contact sheets cinic-CLASS.png are (default: ../shared/samples beside the "
        "repository; if there is none, images are synthetic)")  # fmt: skip
    source.add_argument("--synthetic", action="store_true", help="make images from nothing")
    options = parser.parse_args()

    if options.samples is None and _SAMPLES.is_dir() and not options.synthetic:
        options.samples = _SAMPLES
    for name in cinic10.CLASSES if options.samples else ():
        sheet = options.samples / f"cinic-{name}.png"
        if not sheet.is_file():
            parser.error(f"{sheet}: expected a contact sheet, found none; try --synthetic")
    most = 2**_STAMP_BITS // (len(cinic10.SPLITS) * len(cinic10.CLASSES))
    if not 1 <= options.per_class <= most:
        parser.error(f"--per-class: expected 1 to {most:,}, found {options.per_class:,}")
    if options.size**2 < _STAMP_BITS or options.size < 1:
        parser.error(f"--size: expected at least 5, found {options.size}")
    if options.seed < 0:
        parser.error(f"--seed: expected 0 or more, found {options.seed}")
    if options.workers < 1:
        parser.error(f"--workers: expected 1 or more, found {options.workers}")
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
        f"{images:,} images of {total / images:,.0f} bytes on average "
        f"from {options.samples or 'nothing'} in {options.dest}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
