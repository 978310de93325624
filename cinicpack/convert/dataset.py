"""Datasets as a source: items of images and labels, from torchvision, Hugging Face or elsewhere."""

import os
from collections.abc import Iterator, Mapping, Sequence, Sized
from functools import partial
from operator import index as as_int
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image

from cinicpack.convert.arrays import check_names, put_channels_last
from cinicpack.convert.files import Content, Read, Remarks, row_name
from cinicpack.convert.packer import make_pack
from cinicpack.convert.plan import Wanted
from cinicpack.errors import ArgumentError, SourceError
from cinicpack.store.pack import Pack

__all__ = ["Datasets", "MapStyle", "pack_dataset"]

# How Hugging Face's data sets call the columns of images and labels, those of CIFAR-100 too.
_IMAGES: Final = ("image", "img")
_LABELS: Final = ("label", "fine_label")


class MapStyle(Protocol):
    """What torch calls a map-style dataset: items by their numbers."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def pack_dataset(
    datasets: Mapping[str, MapStyle],
    destination: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    format: str = "npy",  # noqa: A002  the word that numpy and h5py users know
    shard_rows: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Pack:
    """Make a pack of map-style datasets, and open it.

    Row i of a split is item i, and is named by its number: ``00000000.png``. An item is
    ``(image, label)``, as torchvision's datasets have it, or a dictionary with "image" or "img" and
    with "label" or "fine_label", as Hugging Face's have it. An image is a PIL image, of which RGB
    is taken, or an array or tensor of uint8, (H, W, 3) or (3, H, W); a label is an integer. Items
    are asked for once, in order, and only a few are held in memory.

    Args:
        datasets: datasets by the names of splits; without a transform that makes floats.
        destination: the pack to make; it appears at once when all is done.
        classes: the names of all classes, in the order of their labels; None: what the datasets
            have as ``classes`` (torchvision), or their ``features`` as the names of the label
            (Hugging Face), which has to be the same in all.
        format: "npy", a directory of npy files, or "hdf5", one file.
        shard_rows: images in one npy file or dataset; None: all of a split.
        skip_bad: leave out the images that have another size than most.
        overwrite: replace a pack at ``destination``.
        progress: show a bar, if standard error is a terminal.

    Raises:
        ArgumentError: a dataset has no length or no items, or classes are not known or differ.
        SourceError: an item is something else, cannot be had, or its label is of no class.
        BadImagesError: images have different sizes; all that differ from most are listed.
        DestinationError: ``destination`` is there and is not to be overwritten, or cannot be made.

    >>> import cinicpack
    >>> half = cinicpack.PackedDataset("cinic10.pack", "test")
    >>> cinicpack.pack_dataset({"test": half}, "new.pack")
    Pack('new.pack', test 90, 32x32, 10 classes)
    """
    wanted = Wanted(shard_rows=shard_rows, skip_bad=skip_bad, progress=progress)
    opening = partial(Datasets, datasets, classes)
    return make_pack(opening, Path(destination), format, wanted, overwrite=overwrite)


class Datasets:
    """Map-style datasets by their splits, a `Source` that is a stream of pixels.

    Raises what `pack_dataset` does.
    """

    path = Path("datasets")
    keeps_order = True
    read: Read | None = None
    remarks = Remarks()

    def __init__(
        self, datasets: Mapping[str, MapStyle], classes: Sequence[str] | None = None
    ) -> None:
        names = ("unknown",) if classes is None else classes
        check_names(datasets, names)
        for split, dataset in datasets.items():
            if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
                raise ArgumentError(
                    f"{split}: expected a dataset with a length and items by their numbers, found "
                    f"{type(dataset).__name__}"
                )
            if not len(dataset):
                raise ArgumentError(f"{split}: expected items, found none; leave the split out")
        if classes is None:
            names = _find_classes(datasets)
        self.classes: tuple[str, ...] | None = check_names(datasets, names)
        self.fraction = 0.0
        self._datasets = datasets

    def is_small(self, images: int, nbytes: int) -> bool:  # noqa: ARG002  whatever there is of both
        """Tell that it is: items come from this process, and to hand them on would take longer."""
        return True

    def paths(self) -> list[str]:
        """List the images, which asks for all items."""
        return [path for path, _ in self.stream()]

    def stream(self) -> Iterator[tuple[str, Content]]:
        """Give the pixels of every item, split after split."""
        assert self.classes is not None
        total, given = sum(map(len, self._datasets.values())), 0
        for split, dataset in self._datasets.items():
            for row in range(len(dataset)):
                where = f"{split}[{row}]"
                image, label = _take_item(dataset, row, where)
                if not 0 <= label < len(self.classes):
                    raise SourceError(
                        f"{where}: expected a label from 0 to {len(self.classes) - 1}, since there "
                        f"are {len(self.classes)} classes, found {label}"
                    )
                given += 1
                self.fraction = given / total
                yield f"{split}/{self.classes[label]}/{row_name(row)}", _to_pixels(image, where)


def _find_classes(datasets: Mapping[str, MapStyle]) -> Sequence[str]:
    """Find the class names that the datasets declare; raises `ArgumentError` if they differ."""
    found = {split: _declared(dataset) for split, dataset in datasets.items()}
    first, *others = found.values()
    if first is None or any(other != first for other in others):
        raise ArgumentError(
            "expected datasets that have the names of the classes, all the same, as .classes or in "
            f".features, found {found}; pass classes="
        )
    return first


def _declared(dataset: MapStyle) -> list[str] | None:
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        labels = next((features[name] for name in _LABELS if name in features), None)
        names = getattr(labels, "names", None)
    else:
        names = getattr(dataset, "classes", None)
    return None if names is None else list(names)


def _take_item(dataset: MapStyle, row: int, where: str) -> tuple[Any, int]:
    """Get the image and the label of an item."""
    try:
        item = dataset[row]
    except Exception as error:
        # A dataset can be anybody's, and so can its exceptions.
        raise SourceError(f"{where}: expected an item, found {error!r}") from error
    if isinstance(item, Mapping):
        columns: list[Any] = [
            next((item[name] for name in names if name in item), None)
            for names in (_IMAGES, _LABELS)
        ]
    else:
        columns = list(item) if isinstance(item, tuple | list) else []
    if len(columns) != 2 or columns[0] is None:
        found = sorted(map(str, item)) if isinstance(item, Mapping) else type(item).__name__
        raise SourceError(
            f"{where}: expected (image, label), or a dictionary with 'image' or 'img' and with "
            f"'label' or 'fine_label', found {found}"
        )
    try:
        return columns[0], as_int(columns[1])
    except TypeError:
        raise SourceError(
            f"{where}: expected a label that is an integer, found {columns[1]!r}"
        ) from None


def _to_pixels(image: Any, where: str) -> Content:
    """Return an image as pixels (H, W, 3) of uint8."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    try:
        pixels = np.asarray(image)
        if pixels.ndim != 3:
            raise TypeError(f"{pixels.dtype} {pixels.shape}")
        return put_channels_last(pixels, where)
    except ArgumentError as error:
        raise SourceError(str(error)) from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise SourceError(
            f"{where}: expected a PIL image, or pixels uint8 (height, width, 3), found {error}"
        ) from None
