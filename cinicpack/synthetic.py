"""A CINIC-10-shaped tree of PNG files made from nothing."""

import io
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from cinicpack import cinic10
from cinicpack.cinic10 import Origin, Provenance
from cinicpack.errors import ArgumentError

__all__ = [
    "SYNSETS",
    "DrawImages",
    "fade_some",
    "name_images",
    "synthesize_images",
    "write_images",
    "write_tree",
]

# Called with split, class and file names; gives a uint8 image (size, size, 3) for every name.
DrawImages = Callable[[str, str, Sequence[str]], Iterable[NDArray[np.uint8]]]

_Fields = NDArray[np.float32]

# A few of the WordNet synsets that CINIC-10's authors list for each class.
SYNSETS: Final = {
    "airplane": (2691156, 2690373, 2842573, 3335030),
    "automobile": (2958343, 3119396, 2930766, 4166281),
    "bird": (1503061, 1514859, 1819115, 2055803),
    "cat": (2121808, 2123045, 2123394, 2130308),
    "deer": (2430045, 2431122, 2433546, 2433925),
    "dog": (2083672, 2085620, 2108089, 2113335),
    "frog": (1639765, 1641577, 1648620, 1654637),
    "horse": (2374451, 2379908, 2385098, 2386310),
    "ship": (2858304, 3329663, 3344393, 3859170),
    "truck": (3256166, 3345487, 3930630, 4490091),
}

# The images of a synset are numbered from 1 to this, or further where more are needed.
_NUMBERS_PER_SYNSET = 20_000

# 32 of the 2,000 real images on the authors' contact sheets have no colour.
_GREY_SHARE = 0.02

# Images synthesised at once: 1.6 MB of float32 at 32x32, which stay in the cache; a quarter faster
# than 1,024 images.
_BLOCK = 128

# Rows are red, green and blue; columns, what one unit of brightness and of two kinds of colour adds
# to each. Colours are faint: on the contact sheets the channels correlate by 0.79 to 0.92.
_COLOURS = np.array([[1, 0.2, -0.1], [1, 0, 0.15], [1, -0.25, -0.1]], np.float32)

# How fast the amplitude of clouds falls with the frequency, and the camera's noise: chosen so that
# PNG files have about the 2,400 bytes of CINIC-10's.
_FALLOFF, _GRAIN = 1.5, 0.02

_MEAN = np.array(cinic10.MEAN, np.float32)[:, None] * 255
_STD = np.array(cinic10.STD, np.float32)[:, None] * 255


def name_images(
    per_class: int,
    splits: Sequence[str] = cinic10.SPLITS,
    classes: Sequence[str] = cinic10.CLASSES,
    seed: int = 0,
) -> dict[tuple[str, str], list[str]]:
    """Give every image of a tree a file name like those of CINIC-10.

    Two images in nine are CIFAR-10's, rounded. Half of those in a split named ``test`` come from
    CIFAR-10's test set and all others from its train set, so that 9,000 per class use every row of
    both sets once; fewer use rows 0 to n - 1 of each, without gaps. Which row is of which class is
    drawn, and not CIFAR-10's. No name occurs twice.

    Args:
        per_class: images per split and class.
        splits: names of the splits.
        classes: classes of CINIC-10.
        seed: what the names are drawn by.

    Returns:
        For each ``(split, class)`` its ``per_class`` names, those of CIFAR-10 first.

    Raises:
        ArgumentError: if ``per_class`` is below 1 or a class is not one of CINIC-10's.

    >>> name_images(3, ["test"], ["cat"])["test", "cat"][:2]
    ['cifar10-test-0.png', 'n02130308_8050.png']
    """
    if per_class < 1:
        raise ArgumentError(f"per_class: expected at least 1 image, found {per_class}")
    for name in classes:
        if name not in SYNSETS:
            raise ArgumentError(
                f"classes: expected classes of CINIC-10, found {name!r}; "
                f"choose from {', '.join(cinic10.CLASSES)}"
            )
    rng = np.random.default_rng(seed)
    cifar = round(per_class * cinic10.CIFAR10_PER_CLASS / cinic10.PER_CLASS)
    imagenet = per_class - cifar
    tests = {split: (cifar + 1) // 2 if split == "test" else 0 for split in splits}

    test_total = len(classes) * sum(tests.values())
    train_total = len(classes) * len(splits) * cifar - test_total
    test_rows = iter(rng.permutation(test_total).tolist())
    train_rows = iter(rng.permutation(train_total).tolist())
    jpegs = {name: iter(_draw_jpegs(name, len(splits) * imagenet, rng)) for name in classes}

    tree = {}
    for split, name in product(splits, classes):
        rows = islice(test_rows, tests[split])
        images = [Provenance(Origin.CIFAR10_TEST, 0, row) for row in rows]
        rows = islice(train_rows, cifar - tests[split])
        images += [Provenance(Origin.CIFAR10_TRAIN, 0, row) for row in rows]
        images += islice(jpegs[name], imagenet)
        tree[split, name] = [cinic10.format_name(image) for image in images]
    return tree


def _draw_jpegs(name: str, count: int, rng: np.random.Generator) -> list[Provenance]:
    """Draw ``count`` different ImageNet images of one class."""
    synsets = SYNSETS[name]
    numbers = max(_NUMBERS_PER_SYNSET, count)
    codes = rng.choice(len(synsets) * numbers, size=count, replace=False).tolist()
    return [
        Provenance(Origin.IMAGENET, synsets[code // numbers], code % numbers + 1) for code in codes
    ]


def synthesize_images(
    count: int,
    seed: int | Sequence[int],
    *,
    size: int = 32,
    labels: ArrayLike | None = None,
    origins: ArrayLike | None = None,
) -> NDArray[np.uint8]:
    """Make coloured clouds with the spectrum and the channel statistics of photographs.

    A label gives its images a pattern of their own, the same for every seed, somewhat shifted and
    perhaps mirrored: something to learn. ImageNet's images have less of it than CIFAR-10's.

    Args:
        count: number of images.
        seed: what they are drawn by.
        size: height and width.
        labels: one class number per image, or one for all.
        origins: one ``Origin`` per image, or one for all.

    Returns:
        uint8 of shape (count, size, size, 3).

    Raises:
        ArgumentError: if ``count`` is negative or ``size`` below 1.

    >>> synthesize_images(2, seed=0, size=8).shape
    (2, 8, 8, 3)
    """
    if count < 0:
        raise ArgumentError(f"count: expected 0 or more images, found {count}")
    if size < 1:
        raise ArgumentError(f"size: expected at least 1 pixel, found {size}")
    rng = np.random.default_rng(seed)
    strength = np.full(count, 0.7, np.float32)
    if origins is not None:
        strength[np.broadcast_to(origins, count) == Origin.IMAGENET] = 0.5
    each = None if labels is None else np.broadcast_to(labels, count)

    images = np.empty((count, size, size, 3), np.uint8)
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        clouds = _draw_clouds((block.stop - start, 3), size, _FALLOFF, rng)
        if each is not None:
            patterns = _place_patterns(each[block], size, rng)
            share = strength[block, None, None, None]
            clouds = share * patterns + np.sqrt(1 - share * share) * clouds
        images[block] = _develop(clouds, rng)
    return images


def _draw_clouds(
    shape: tuple[int, ...], size: int, falloff: float, rng: np.random.Generator
) -> _Fields:
    """Draw fields of mean 0 and variance 1 whose amplitude falls as 1 / frequency**falloff."""
    noise = rng.standard_normal((*shape, size, size), np.float32)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) * size
    frequency[0, 0] = np.inf
    gain = (frequency**-falloff).astype(np.float32)
    fields = np.fft.irfft2(np.fft.rfft2(noise) * gain, s=(size, size))
    spread = fields.std((-2, -1), keepdims=True)
    spread[spread == 0] = 1  # an image of a single pixel has no spread to divide by
    clouds: _Fields = (fields / spread).astype(np.float32, copy=False)
    return clouds


def _place_patterns(labels: NDArray[np.generic], size: int, rng: np.random.Generator) -> _Fields:
    """Give every image its label's pattern, cyclically shifted and in half of them mirrored."""
    kinds, kind = np.unique(labels, return_inverse=True)
    patterns = np.stack(
        [_draw_clouds((3,), size, 2.0, np.random.default_rng(int(label))) for label in kinds]
    )
    reach = size // 8
    down, right = rng.integers(-reach, reach, size=(2, len(labels)), endpoint=True)
    mirror = np.where(rng.random(len(labels)) < 0.5, -1, 1)
    pixels = np.arange(size)
    rows = (pixels + down[:, None]) % size
    columns = (pixels * mirror[:, None] + right[:, None]) % size
    placed: _Fields = patterns[
        kind[:, None, None, None],
        np.arange(3)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
    return placed


def _develop(clouds: _Fields, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn brightness and colour fields (n, 3, size, size) into RGB pixels (n, size, size, 3)."""
    count, _, size, _ = clouds.shape
    contrast = np.exp(0.25 * rng.standard_normal((count, 1, 1), np.float32) - 0.25)
    exposure = 0.55 * rng.standard_normal((count, 1, 1), np.float32)
    tint = 0.1 * rng.standard_normal((count, 3, 1), np.float32)
    colours = _COLOURS @ clouds.reshape(count, 3, -1) * contrast + exposure + tint
    colours += _GRAIN * rng.standard_normal(colours.shape, np.float32)
    pixels = _MEAN + _STD * colours
    pixels = np.rint(pixels.clip(0, 255, out=pixels), out=pixels).astype(np.uint8)
    return np.ascontiguousarray(pixels.reshape(count, 3, size, size).transpose(0, 2, 3, 1))


def fade_some(images: NDArray[np.uint8], names: Sequence[str], rng: np.random.Generator) -> None:
    """Take the colour from one in fifty of ImageNet's images, in place.

    Args:
        images: (n, height, width, 3).
        names: their file names.
        rng: what draws them.
    """
    for image, name, draw in zip(images, names, rng.random(len(names)), strict=True):
        if draw < _GREY_SHARE and cinic10.parse_name(name).origin is Origin.IMAGENET:
            image[...] = np.asarray(Image.fromarray(image).convert("L"))[..., None]


def write_images(directory: Path, names: Sequence[str], images: Iterable[NDArray[np.uint8]]) -> int:
    """Save each image (height, width, 3) as a PNG file in a directory, which is made if needed.

    An image named as ImageNet's whose channels are equal is saved as greyscale, as in CINIC-10.

    Returns:
        The number of bytes written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    total = 0
    for name, image in zip(names, images, strict=True):
        imagenet = cinic10.parse_name(name).origin is Origin.IMAGENET
        grey = imagenet and bool((image == image[..., :1]).all())
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if grey else image).save(file, "PNG")
        total += (directory / name).write_bytes(file.getbuffer())
    return total


def write_tree(
    root: str | Path,
    per_class: int,
    *,
    splits: Sequence[str] = cinic10.SPLITS,
    classes: Sequence[str] = cinic10.CLASSES,
    seed: int = 0,
    size: int = 32,
    images: DrawImages | None = None,
) -> int:
    """Write a tree ``ROOT/SPLIT/CLASS/NAME.png`` shaped like CINIC-10.

    The same arguments give the same files under the same NumPy and Pillow.

    Args:
        root: where to; made if needed.
        per_class: images per split and class.
        splits: names of the splits.
        classes: classes of CINIC-10.
        seed: what names and images are drawn by.
        size: height and width of synthesised images.
        images: where images come from; synthesised by default.

    Returns:
        The number of bytes of all files.

    Raises:
        ArgumentError: as ``name_images`` and ``synthesize_images`` do.
    """

    def synthesize(split: str, name: str, names: Sequence[str]) -> NDArray[np.uint8]:
        label = cinic10.CLASSES.index(name)
        key = (seed, list(splits).index(split), label)
        origins = [cinic10.parse_name(file).origin for file in names]
        made = synthesize_images(len(names), key, size=size, labels=label, origins=origins)
        fade_some(made, names, np.random.default_rng(key))
        return made

    source = synthesize if images is None else images
    tree = name_images(per_class, splits, classes, seed)
    return sum(
        write_images(Path(root, split, name), names, source(split, name, names))
        for (split, name), names in tree.items()
    )
