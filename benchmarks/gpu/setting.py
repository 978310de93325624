"""What every measurement on a GPU is given, and how a loader's rate is counted."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

import cinicpack
from benchmarks.race import Case
from cinicpack.store.split import Split

__all__ = ["PIXELS", "Row", "Setting", "Sizes"]

# Bytes of an image of 32x32.
PIXELS = 3 * 32 * 32


class Sizes(NamedTuple):
    """How large everything is.

    Attributes:
        per_class: images per class.
        batch: images in a batch.
        large: images in a batch of the rows in which Python's time a batch should not matter.
        width: channels of the network's first layer.
        epochs: epochs that a loader is timed over.
        repeats: launches of a kernel that are timed together; on an H100 they take some 50 ms,
            beside which the wait for the device to end is nothing.
    """

    per_class: int
    batch: int
    large: int
    width: int
    epochs: int
    repeats: int


class Row(NamedTuple):
    """A case, the bytes that count for one image, and the threads that worked for it."""

    case: Case
    image_bytes: int
    threads: int


class Setting(NamedTuple):
    """What every measurement is given.

    Attributes:
        split: the images.
        device: where they are to go.
        sizes: how large everything is.
        threads: number of a loader's threads.
    """

    split: Split
    device: torch.device
    sizes: Sizes
    threads: int

    def load(self, **options: Any) -> cinicpack.Loader:
        """Make a loader of augmented batches on the device."""
        options = {
            "batch_size": self.sizes.batch,
            "num_workers": self.threads,
            "device": self.device,
            "augment": cinicpack.Augment(),
            **options,
        }
        return cinicpack.Loader(self.split.pack, self.split, **options)

    def time_loader(
        self,
        name: str,
        loader: cinicpack.Loader,
        image_bytes: int,
        base: str | None = None,
        wanted: float | None = None,
    ) -> Row:
        """Make a row of a loader, compared with the row named ``base``.

        The clock starts with nothing made ahead, runs over ``sizes.epochs`` epochs, and stops when
        the device has the last batch. What the loader has made ahead by then is not counted, and is
        dropped before the next run.
        """
        case = Case(
            name,
            partial(self.count, loader),
            base,
            wanted,
            rest=lambda: iter(loader).close(),
        )
        return Row(case, image_bytes, loader.num_workers)

    def count(self, batches: Any) -> int:
        """Take all batches of some epochs, and wait until the device has made them."""
        images = 0
        for _ in range(self.sizes.epochs):
            for _, labels in batches:
                images += len(labels)
        self.synchronize()
        return images

    def time_copies(self, name: str, copy: Callable[[], int], image_bytes: int) -> Row:
        """Make a row without a loader, so without threads."""
        return Row(Case(name, copy), image_bytes, 0)

    def synchronize(self) -> None:
        """Wait for all that the device has been told to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def make_bytes(self, count: int, *, on_device: bool = False) -> torch.Tensor:
        """Make random bytes, on the device or in memory that it can copy from."""
        generator = torch.Generator().manual_seed(0)
        made = torch.randint(256, (count,), dtype=torch.uint8, generator=generator)
        if on_device:
            return made.to(self.device)
        return made.pin_memory() if self.device.type == "cuda" else made
