"""The pack format, version 1 of npy packs and version 2 of HDF5 packs.

A pack holds the images of one data set as uint8 arrays beside a manifest. It is a directory of npy
files or one HDF5 file; both hold the same arrays under the same names and the same manifest.

Arrays
------
For every split S of N images of H x W pixels:

    S/images-00000   uint8 (n, 3, H, W)   red, green and blue planes; further shards count up
    S/labels         uint8 (N,)           index into ``classes``; little-endian uint16 above 256
    S/sources        9-byte records (N,)  origin u1, synset <u4, number <u4 (`cinic10.Provenance`)
    S/names          bytes (N,)           file names, UTF-8, padded with NUL to the longest

Row i of a split is image i of ``torchvision.datasets.ImageFolder(S)``: classes in the order of
their names, within a class files in the order of theirs. Where a source declares its classes, they
are in its order, and a split may lack some; rows are then by class in that order, as of parquet, or
in the order of the source, as of CIFAR's own files, arrays and datasets. All arrays are in C order.

A class of a pack made with ``allow_missing=True`` may have no images, in a split or in all. It has
its label all the same, as in ``ImageFolder(S, allow_empty=True)`` with an empty folder for it.

Splits are named as visible folders, in UTF-8, without ``+`` or a backslash, and not "pack.json".
Classes and files are named as folders and files can be, splits and classes in at most 255 bytes; a
byte that is not UTF-8 is in JSON the surrogate that Python's surrogateescape makes of it. No two
images of a split have the same class and the same file name. Sources are what file names say.

In a directory, array S/x is the file ``S/x.npy`` (npy format 1.0, with exactly the header that
`store.npy` writes) and the manifest is ``pack.json``. In HDF5, it is the contiguous, unfiltered
dataset ``S/x``, and the manifest is the uint8 dataset ``pack.json``.

An HDF5 pack is read without HDF5, which can be led to loop for ever by one wrong byte. Its last 72
bytes are the footer:

    16 bytes   "cinicpack footer"
    3 x <u8    size of the file; where the manifest begins; how long it is
    32 bytes   SHA-256 of all bytes before these 32 that are in no array

The end of HDF5's own address space, which its superblock has, is behind the footer, so programs
that open the file to write and then write nothing leave it whole. Version 1 of HDF5 packs had no
footer. It is not read any more: such packs are made again.

Manifest
--------
A JSON object:

    format          "cinicpack"
    version         1, in HDF5 2
    image_shape     [H, W, 3]
    classes         class names, in the order of their labels
    normalization   mean and std (per channel, pixels in [0, 1]) and their origin: "published"
                    (CINIC-10's constants, if the images are of CINIC-10: `cinic10.is_cinic10`) or
                    the name of the split they were computed on, train or the first. Older packs of
                    other images in CINIC-10's ten classes, as of CIFAR-10, have the constants too
    splits          by name: shards (rows of each), name_bytes (longest name), fingerprint, and
                    groups: [label, origin, count, sum r, g, b, sum of squares r, g, b] for every
                    class and origin that occurs, exact integers over pixels in 0..255
    fingerprint     of the whole pack
    piece_bytes     arrays are hashed in pieces of so many bytes, so that checking uses all cores
    arrays          by name: SHA-256 of every piece of its data (for npy: what follows the header)
    skipped         [path, reason] of every image that was left out on request
    resize          only where images were given one size: size [H, W], filter (box, bilinear,
                    bicubic, lanczos) and fit (squash, crop); see `store.manifest.Resize`
    offsets         HDF5 only: by name, the byte of the file at which the array begins
    digest          SHA-256 of the canonical JSON (sorted keys, no spaces, ASCII) of all the rest

Sizes, types and file names follow from the manifest and are stored nowhere else: they cannot
disagree. A manifest begins with its format, by which a damaged pack, or one of another version, is
known to be a pack (`Container.find_others`). It has at most 64 MiB.

Fingerprints
------------
The digest of an image is the SHA-256 of: class name, file name (each with its length in bytes
before it, <u4), H, W and 3 (<u4 each), then its pixels in H, W, channel order. The fingerprint of
a split is the SHA-256 of the sorted digests of its images; that of a pack is the SHA-256 of, for
every split in the order of the names: the name (with its length), the split's fingerprint (32
bytes). Fingerprints depend on the images alone: not on container, shards, order or kind of source.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

__all__ = [
    "CHANNELS",
    "FILTERS",
    "FITS",
    "HDF5_VERSION",
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "NAME_BYTES",
    "PIECE_BYTES",
    "PROVENANCE_DTYPE",
    "VERSION",
    "ArraySpec",
    "is_folder_name",
    "is_split_name",
    "plan_arrays",
]

VERSION: Final = 1
HDF5_VERSION: Final = 2
MANIFEST_NAME: Final = "pack.json"
PIECE_BYTES: Final = 16 << 20
# A longer manifest is none: that of CINIC-10 has 30 KB, and half a million bad images fit in.
MAX_MANIFEST_BYTES: Final = 64 << 20
PROVENANCE_DTYPE: Final = np.dtype([("origin", "u1"), ("synset", "<u4"), ("number", "<u4")])
CHANNELS: Final = 3
#: Ways to give images one size.
FILTERS: Final = ("box", "bilinear", "bicubic", "lanczos")
FITS: Final = ("squash", "crop")
#: What a file system gives a name at most.
NAME_BYTES: Final = 255


class ArraySpec(NamedTuple):
    """Name, dtype and shape of one array of a pack."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def is_split_name(name: str) -> bool:
    """Tell whether a split can have this name: a visible folder's, in UTF-8, without ``+``."""
    return (
        is_folder_name(name)
        and not name.startswith(".")
        and not set(name) & set("+\\")
        and name != MANIFEST_NAME
        and name == name.encode(errors="replace").decode()
    )


def is_folder_name(name: str) -> bool:
    """Tell whether this is one component of a path, of 255 bytes at most, and leads nowhere else.

    A byte that is not UTF-8 is a surrogate in it, as Python has it.
    """
    try:
        encoded = name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return (
        name not in ("", ".", "..")
        and not set(name) & set("/\0")
        and len(encoded) <= NAME_BYTES
        and encoded.decode(errors="surrogateescape") == name
    )


def plan_arrays(
    image_shape: tuple[int, int, int],
    num_classes: int,
    splits: Mapping[str, tuple[Sequence[int], int]],
) -> Iterator[ArraySpec]:
    """Iterate over the arrays of a pack, in the order in which they are written.

    ``splits`` has for each the rows of its shards and the bytes of its longest name.
    """
    height, width, channels = image_shape
    label_dtype = np.dtype("u1" if num_classes <= 256 else "<u2")
    for split, (shards, name_bytes) in splits.items():
        for number, rows in enumerate(shards):
            shape = (rows, channels, height, width)
            yield ArraySpec(f"{split}/images-{number:05d}", np.dtype("u1"), shape)
        yield ArraySpec(f"{split}/labels", label_dtype, (sum(shards),))
        yield ArraySpec(f"{split}/sources", PROVENANCE_DTYPE, (sum(shards),))
        yield ArraySpec(f"{split}/names", np.dtype(("S", name_bytes)), (sum(shards),))
