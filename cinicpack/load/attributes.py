"""The options of a loader as attributes: each can be read, and none can be changed."""

from typing import Any, Final

from cinicpack.errors import ArgumentError
from cinicpack.load.augment import Augment
from cinicpack.load.choice import Order
from cinicpack.load.labels import Labels
from cinicpack.load.options import Normalize, Options
from cinicpack.store.pack import Pack
from cinicpack.store.split import Split

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

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to change an option, since samples and threads were made for what it is."""
        if name == "epoch":
            raise ArgumentError("epoch of a Loader is not assigned: call set_epoch()")
        if name in OPTIONS and name in vars(self):
            raise ArgumentError(f"{name} of a Loader cannot be changed: make a new Loader")
        super().__setattr__(name, value)
