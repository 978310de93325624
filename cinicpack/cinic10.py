"""What CINIC-10 is: its splits, classes, counts, statistics, archive and file names.

Source of every figure: L. N. Darlow, E. J. Crowley, A. Antoniou, A. J. Storkey, "CINIC-10 is not
ImageNet or CIFAR-10", 2018 (arXiv:1810.03505), and the authors' repository BayesWatch/cinic-10.
"""

import re
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = [
    "ARCHIVE_BYTES",
    "ARCHIVE_MD5",
    "ARCHIVE_SHA256",
    "ARCHIVE_URL",
    "CIFAR10_PER_CLASS",
    "CLASSES",
    "IMAGENET_PER_CLASS",
    "IMAGE_SHAPE",
    "MEAN",
    "PER_CLASS",
    "SPLITS",
    "STD",
    "Origin",
    "Provenance",
    "format_name",
    "is_cinic10",
    "parse_name",
    "parse_names",
]

SPLITS: Final = ("train", "valid", "test")
CLASSES: Final = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
IMAGE_SHAPE: Final = (32, 32, 3)

# Images per class in every split: 2,000 of CIFAR-10 and 7,000 of ImageNet.
CIFAR10_PER_CLASS: Final = 2_000
IMAGENET_PER_CLASS: Final = 7_000
PER_CLASS: Final = CIFAR10_PER_CLASS + IMAGENET_PER_CLASS

# Published channel statistics of CINIC-10 (red, green, blue), over pixels in [0, 1]. They hold for
# no other data set: `is_cinic10` tells whether images are CINIC-10's.
MEAN: Final = (0.47889522, 0.47227842, 0.43047404)
STD: Final = (0.24205776, 0.23828046, 0.25874835)

ARCHIVE_URL: Final = "https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz"
ARCHIVE_BYTES: Final = 687_544_992
ARCHIVE_MD5: Final = "6ee4d0c996905fe93221de577967a372"
# The authors publish the MD5 alone; this is the one that programs which use the archive have.
ARCHIVE_SHA256: Final = "31b095acf6d75e25a9e028bae82a07a0f94ff6b00671be2802d34ac4efa81a9e"


class Origin(IntEnum):
    """Where an image comes from; the numbers are those stored in a pack."""

    UNKNOWN = 0
    CIFAR10_TRAIN = 1
    CIFAR10_TEST = 2
    IMAGENET = 3


class Provenance(NamedTuple):
    """What a file name says of its image.

    Attributes:
        origin: the data set that the image was taken from.
        synset: WordNet synset number of an ImageNet image (``n02691156`` is 2691156), else 0.
        number: row in that CIFAR-10 set, or image number of the ImageNet JPEG, else 0.
    """

    origin: Origin
    synset: int
    number: int


_NAME = re.compile(r"(?:n([0-9]{8})_|cifar-?10-(train|test)-)([0-9]{1,9})\.png")
# The second alternative matches any other name, whose groups are then all empty.
_NAMES = re.compile(rf"{_NAME.pattern}/|[^/]*/")
_ORIGINS = {
    "": int(Origin.IMAGENET),
    "train": int(Origin.CIFAR10_TRAIN),
    "test": int(Origin.CIFAR10_TEST),
}


def parse_name(name: str) -> Provenance:
    """Read the provenance of an image from its file name.

    ``cifar10-ORIGIN-INDEX.png`` (also with the prefix ``cifar-10-``, as the authors' text has it)
    and ``nSSSSSSSS_NUMBER.png`` are CINIC-10's names; any other gives ``Origin.UNKNOWN``.

    >>> parse_name("cifar10-train-49.png")
    Provenance(origin=<Origin.CIFAR10_TRAIN: 1>, synset=0, number=49)
    >>> parse_name("n02691156_10153.png").synset
    2691156
    """
    match = _NAME.fullmatch(name)
    [(origin, synset, number)] = _read_groups([match.groups("")] if match else [("", "", "")])
    return Provenance(Origin(origin), synset, number)


def parse_names(names: Sequence[str]) -> list[tuple[int, int, int]]:
    """Read the provenance of many images from their file names, at 0.8 us each.

    Args:
        names: file names, without a slash.

    Returns:
        ``(origin, synset, number)`` of each, as `parse_name` gives them.

    >>> parse_names(["cifar10-train-49.png", "a.png"])
    [(1, 0, 49), (0, 0, 0)]
    """
    return _read_groups(_NAMES.findall("/".join([*names, ""])))


def _read_groups(matches: Iterable[Sequence[str]]) -> list[tuple[int, int, int]]:
    return [
        (_ORIGINS[part], int(synset or 0), int(number)) if number else (0, 0, 0)
        for synset, part, number in matches
    ]


def is_cinic10(classes: Iterable[str], origins: Iterable[int]) -> bool:
    """Tell from names whether images are those of CINIC-10, all or some.

    The classes must be CINIC-10's ten, all file names must be of CINIC-10's kinds, and at least one
    must be an ImageNet name. So CIFAR-10, which has the same ten classes, is not CINIC-10, whatever
    its files are called.

    Args:
        classes: class names, in the order of their labels.
        origins: the ``Origin`` of every image, or those that occur.

    >>> is_cinic10(CLASSES, [Origin.CIFAR10_TRAIN, Origin.IMAGENET])
    True
    >>> is_cinic10(CLASSES, [Origin.CIFAR10_TRAIN])
    False
    """
    found = set(origins)
    return tuple(classes) == CLASSES and Origin.IMAGENET in found and Origin.UNKNOWN not in found


def format_name(provenance: Provenance) -> str:
    """Write the file name that CINIC-10 gives to an image of known provenance.

    Raises ``ValueError`` for ``Origin.UNKNOWN``.

    >>> format_name(Provenance(Origin.CIFAR10_TEST, 0, 7))
    'cifar10-test-7.png'
    """
    origin, synset, number = provenance
    if origin is Origin.IMAGENET:
        return f"n{synset:08d}_{number}.png"
    if origin is Origin.UNKNOWN:
        raise ValueError("expected a known origin, found Origin.UNKNOWN, which has no name")
    part = "train" if origin is Origin.CIFAR10_TRAIN else "test"
    return f"cifar10-{part}-{number}.png"
