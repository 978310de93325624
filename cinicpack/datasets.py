"""CINIC-10, CIFAR-10 and CIFAR-100 as torchvision's users have data sets: from nothing in one line.

Each is made ready once: downloaded if that is asked for, checked, and packed. From then on it is
opened in a millisecond.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cinicpack.cinic10 import SPLITS
from cinicpack.errors import ArgumentError, SelectionError
from cinicpack.fetch import ready
from cinicpack.fetch.ready import DataSet, make_ready
from cinicpack.load.dataset import PackedDataset
from cinicpack.load.loader import Loader

__all__ = ["CIFAR10", "CIFAR100", "CINIC10"]


class _ReadyDataset(PackedDataset):
    """A split of a data set that is made ready in a folder."""

    def loader(self, **options: Any) -> Loader:
        """Return a `Loader` of these images, with its options; it takes no transform.

        Raises `ArgumentError` if the dataset has a transform or other targets, of which a loader
        knows nothing, and what `Loader` raises.

        >>> import cinicpack
        >>> dataset = cinicpack.CINIC10(".", "train+valid")
        >>> loader = dataset.loader(batch_size=32, augment=cinicpack.Augment())
        >>> images, labels = next(iter(loader))
        >>> images.shape
        torch.Size([32, 3, 32, 32])
        """
        for name in ("transform", "target_transform"):
            if getattr(self, name) is not None:
                raise ArgumentError(
                    f"expected a dataset without {name}, which a loader would pass over, found "
                    f"{getattr(self, name)!r}; pass augment= to loader() instead"
                )
        if self.targets != self.split.labels.tolist():
            raise ArgumentError(
                "expected the targets of the pack, which a loader gives, found others; use "
                "torch's DataLoader with this dataset"
            )
        return Loader(self.split.pack, self.split, **options)


class CINIC10(_ReadyDataset):
    """CINIC-10, as torchvision's data sets: indexed, with transforms, for DataLoader or `Loader`.

    The images are in ``ROOT/cinic10.pack``. If that is not there it is made, from
    ``ROOT/CINIC-10.tar.gz``, ``ROOT/CINIC-10`` or ``ROOT/CINIC-10-parquet``, or from what is
    downloaded: the official archive (688 MB) or the hub's parquet files (771 MB), checked. Any
    number of processes may start at the same time: one makes it, the others wait.

    Args:
        root: the folder.
        split: "train", "valid" or "test", or several joined by ``+``.
        transform: makes the first member of a sample from a PIL image (RGB); None: the image.
        target_transform: makes the second member of a sample from a label; None: the label.
        download: download it if there is nothing to make it from.

    Raises:
        SourceError: there is nothing to make it from, or it cannot be downloaded.
        SelectionError: there is no such split.
        DestinationError: ``root`` cannot be written.

    >>> import cinicpack
    >>> dataset = cinicpack.CINIC10(".", split="test")
    >>> dataset[0]  # doctest: +ELLIPSIS
    (<PIL.Image.Image image mode=RGB size=32x32 at ...>, 0)
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        download: bool = False,
    ) -> None:
        # Before anything is downloaded for it.
        if not {*split.split("+")} <= {*SPLITS}:
            expected = ", ".join(SPLITS)
            raise SelectionError(f"expected splits out of {expected}, found {split!r}")
        pack = make_ready(Path(root).expanduser(), ready.CINIC10, download=download)
        super().__init__(pack, split, transform, target_transform)


class _Cifar(_ReadyDataset):
    """CIFAR-10 or CIFAR-100, with torchvision's arguments."""

    _kind: DataSet

    def __init__(
        self,
        root: str | os.PathLike[str],
        train: bool = True,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        download: bool = False,
    ) -> None:
        pack = make_ready(Path(root).expanduser(), self._kind, download=download)
        super().__init__(pack, "train" if train else "test", transform, target_transform)


class CIFAR10(_Cifar):
    """CIFAR-10, in place of torchvision's class of that name.

    The images are in ``ROOT/cifar10.pack``, which is made once, from CIFAR-10's archives or folders
    in ROOT, as torchvision leaves them there, or from a download (170 MB), as `CINIC10` is.

    Args:
        root: the folder.
        train: take the 50,000 images of the training set, else the 10,000 of the test set.
        transform: makes the first member of a sample from a PIL image (RGB); None: the image.
        target_transform: makes the second member of a sample from a label; None: the label.
        download: download it if there is nothing to make it from.

    Raises `SourceError` and `DestinationError` as `CINIC10` does.

    >>> import cinicpack
    >>> cinicpack.CIFAR10("nothing")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    cinicpack.errors.SourceError: nothing: expected cifar10.pack, cifar-10-python.tar.gz, ...
    """

    _kind = ready.CIFAR10


class CIFAR100(_Cifar):
    """CIFAR-100 with its 100 fine labels, in place of torchvision's class of that name.

    As `CIFAR10`, with ``ROOT/cifar100.pack`` and CIFAR-100's files.

    >>> import cinicpack
    >>> cinicpack.CIFAR100("nothing")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    cinicpack.errors.SourceError: nothing: expected cifar100.pack, cifar-100-python.tar.gz, ...
    """

    _kind = ready.CIFAR100
