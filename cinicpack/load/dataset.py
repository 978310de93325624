"""A dataset as torchvision has them: a pack, indexed and with transforms, for DataLoader."""

import pickle
from collections.abc import Callable, Iterable
from functools import cached_property
from operator import index as as_int
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from cinicpack.errors import SelectionError
from cinicpack.store.pack import Pack, PathLike, open_pack
from cinicpack.store.split import Split

__all__ = ["PackedDataset"]


class PackedDataset(Dataset[tuple[Any, Any]]):
    """The images of a split with their labels, as torchvision's ``CIFAR10`` and ``ImageFolder``.

    DataLoader may start its workers by any method: a pickled dataset holds the path of the pack,
    not its data, and each worker opens the pack when it first needs it. DataLoader fetches the
    samples of a batch at once.

    Args:
        pack: a path, or an open `Pack`.
        split: name of a split, several joined by ``+``, or a `Split`.
        transform: makes the first member of a sample from a PIL image (RGB); None: the image.
        target_transform: makes the second member of a sample from a label; None: the label.

    Raises `SelectionError` for a split that the pack does not have, and what `open_pack` raises.

    Attributes:
        classes: class names in label order.
        class_to_idx: label of every class name.

    >>> import cinicpack
    >>> dataset = cinicpack.PackedDataset("cinic10.pack", "train")
    >>> dataset[0]  # doctest: +ELLIPSIS
    (<PIL.Image.Image image mode=RGB size=32x32 at ...>, 0)
    """

    _pickled_split: bytes

    def __init__(
        self,
        pack: PathLike | Pack,
        split: str | Split = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        pack = pack if isinstance(pack, Pack) else open_pack(pack)
        self.split = split if isinstance(split, Split) else pack[split]
        if self.split.pack.fingerprint != pack.fingerprint:
            raise SelectionError(
                f"expected a split of {pack!r}, found {split!r}, which is of another"
            )
        self.transform = transform
        self.target_transform = target_transform
        self.classes = list(pack.classes)
        self.class_to_idx = dict(pack.class_to_idx)

    @cached_property
    def split(self) -> Split:
        """The split that the samples are of."""
        # `__init__` sets the attribute, so that only an unpickled dataset gets here.
        split: Split = pickle.loads(self._pickled_split)
        return split

    @property
    def data(self) -> NDArray[np.uint8]:
        """The images, (N, H, W, 3) uint8, read-only; a view where they lie in one run."""
        return self._data

    @cached_property
    def targets(self) -> list[int]:
        """The labels: samples have the ones in this list, which may be changed or replaced."""
        labels: list[int] = self.split.labels.tolist()
        return labels

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: SupportsIndex) -> tuple[Any, Any]:
        """Return one image and its label, transformed; raises IndexError out of range."""
        row = as_int(index)
        pixels = np.ascontiguousarray(self.split.images[row])
        return self._transform(Image.fromarray(pixels), self.targets[row])

    def __getitems__(self, indices: Iterable[SupportsIndex]) -> list[tuple[Any, Any]]:
        """Return several samples, fetched at once; DataLoader calls this."""
        rows = list(map(as_int, indices))
        images = _make_pictures(self.split.images[rows])
        targets = [self.targets[row] for row in rows]
        return list(map(self._transform, images, targets))

    def __repr__(self) -> str:
        lines = [
            f"Dataset {type(self).__name__}",
            f"    Number of datapoints: {len(self)}",
            f"    Root location: {self.split.pack.path}",
            f"    Split: {self.split.name}",
        ]
        for name, transform in (
            ("Transform: ", self.transform),
            ("Target transform: ", self.target_transform),
        ):
            if transform is not None:
                head, *rest = repr(transform).splitlines()
                lines += [f"    {name}{head}", *(" " * (4 + len(name)) + line for line in rest)]
        return "\n".join(lines)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_data", None)
        if split := state.pop("split", None):
            state["_pickled_split"] = pickle.dumps(split)
            targets = state.get("targets")
            if isinstance(targets, list) and targets == split.labels.tolist():
                del state["targets"]
        return state

    def _transform(self, image: Any, target: Any) -> tuple[Any, Any]:
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    @cached_property
    def _data(self) -> NDArray[np.uint8]:
        data = np.asarray(self.split.images)
        data.flags.writeable = False
        return data


def _make_pictures(pixels: NDArray[np.uint8]) -> list[Image.Image]:
    """Make PIL images of pixels (n, H, W, 3)."""
    # Cutting all images from one takes 3 µs each, `Image.fromarray` for each 5.5.
    count, height, width, _ = pixels.shape
    tall = Image.fromarray(pixels.reshape(count * height, width, 3))
    return [tall.crop((0, top, width, top + height)) for top in range(0, count * height, height)]
