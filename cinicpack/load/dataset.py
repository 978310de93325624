"""A pack as torchvision's datasets are: indexed, with transforms, for torch's own DataLoader."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from cinicpack.store.reader import Pack, PathLike, Split, open_pack

__all__ = ["PackedDataset"]


class PackedDataset(Dataset[tuple[Any, Any]]):
    """The images of a split with their labels, as torchvision's ``CIFAR10`` and ``ImageFolder``.

    It works with any start method of DataLoader's workers: a pickle holds the path of the pack, not
    its data. DataLoader fetches whole batches from it, so one ``collate_fn`` that takes a list is
    all that is left to do per sample.

    Args:
        pack: a path, or an open `Pack`.
        split: name of a split, several joined by ``+``, or a `Split`.
        transform: takes a PIL image (RGB), gives what a sample's first member is to be.
        target_transform: takes a label, gives what its second member is to be.

    Attributes:
        classes: class names in label order.
        class_to_idx: label of every class name.

    >>> import cinicpack
    >>> dataset = cinicpack.PackedDataset("cinic10.pack", "train")  # doctest: +SKIP
    >>> dataset[0]  # doctest: +SKIP
    (<PIL.Image.Image image mode=RGB size=32x32 at ...>, 0)
    """

    def __init__(
        self,
        pack: PathLike | Pack,
        split: str | Split = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        pack = pack if isinstance(pack, Pack) else open_pack(pack)
        self.split = split if isinstance(split, Split) else pack[split]
        self.transform = transform
        self.target_transform = target_transform
        self.classes = list(pack.classes)
        self.class_to_idx = dict(pack.class_to_idx)

    @property
    def data(self) -> NDArray[np.uint8]:
        """The images, (N, H, W, 3) uint8; a read-only view where they lie in one run."""
        return np.asarray(self.split.images)

    @cached_property
    def targets(self) -> list[int]:
        """The labels."""
        labels: list[int] = self.split.labels.tolist()
        return labels

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return one image and its label, transformed; raises IndexError out of range."""
        return self._transformed(self.split.images[index], int(self.split.labels[index]))

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        """Return several samples, fetched at once; DataLoader calls this."""
        rows = np.asarray(indices)
        images, labels = self.split.images[rows], self.split.labels[rows].tolist()
        return [
            self._transformed(image, label) for image, label in zip(images, labels, strict=True)
        ]

    def __repr__(self) -> str:
        lines = [
            f"Dataset {type(self).__name__}",
            f"    Number of datapoints: {len(self)}",
            f"    Root location: {self.split.pack.path}",
            f"    Split: {self.split.name}",
        ]
        for name, transform in (
            ("Transform", self.transform),
            ("Target transform", self.target_transform),
        ):
            if transform is not None:
                head, *rest = repr(transform).splitlines()
                lines += [f"    {name}: {head}", *(f"    {line}" for line in rest)]
        return "\n".join(lines)

    def _transformed(self, pixels: NDArray[np.uint8], label: int) -> tuple[Any, Any]:
        image: Any = Image.fromarray(np.ascontiguousarray(pixels))
        if self.transform is not None:
            image = self.transform(image)
        target = label if self.target_transform is None else self.target_transform(label)
        return image, target
