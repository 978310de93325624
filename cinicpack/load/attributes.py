"""The options of a loader as attributes: each can be read, and none can be changed."""

from typing import TYPE_CHECKING, Any, Final

from cinicpack.errors import ArgumentError
from cinicpack.load.augment import Augment
from cinicpack.load.choice import Order
from cinicpack.load.labels import Labels
from cinicpack.load.mix import Mix
from cinicpack.load.options import Normalize, Options
from cinicpack.store.pack import Pack
from cinicpack.store.split import Split

if TYPE_CHECKING:
    from cinicpack.load.dataset import PackedDataset

__all__ = ["OPTIONS", "Attributes"]

# `Loader.epoch` is none of them: it counts on from the option.
OPTIONS: Final = tuple(name for name in Options.__dataclass_fields__ if name != "epoch")


class Attributes:
    """What a `Loader` was made with."""

    pack: Pack
    split: Split
    batch_size: int
    shuffle: bool
    augment: Augment | None
    views: list[Augment | None] | None
    mix: list[Mix] | None
    normalize: Normalize
    dtype: str
    channels_last: bool
    source: str | None
    classes: list[str] | None
    unique: bool
    labels: Labels | None
    order: Order | None
    drop_last: bool
    seed: int
    num_workers: int
    device: Any
    augment_on: str
    resident: bool
    rank: int | None
    world_size: int | None
    return_index: bool
    output: str
    _dataset: "PackedDataset | None" = None

    @property
    def dataset(self) -> "PackedDataset":
        """The images that are loaded, all ranks' and each once, in the order of their rows.

        >>> import cinicpack
        >>> len(cinicpack.Loader("cinic10.pack", classes=["cat", "dog"]).dataset)
        18
        """
        if self._dataset is None:
            from cinicpack.load.dataset import PackedDataset

            chosen = self.split.select(self.source, self.classes, unique=self.unique)
            self._dataset = PackedDataset(self.pack, chosen)
        return self._dataset

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to change an option, since samples and threads were made for what it is."""
        if name == "epoch":
            raise ArgumentError("epoch of a Loader is not assigned: call set_epoch()")
        if name in OPTIONS and name in vars(self):
            raise ArgumentError(f"{name} of a Loader cannot be changed: make a new Loader")
        super().__setattr__(name, value)
