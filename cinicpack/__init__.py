"""Convert CINIC-10 once, then train on it as fast as memory allows.

    cinicpack.pack("CINIC-10.tar.gz", "cinic10.pack")
    loader = cinicpack.Loader("cinic10.pack", "train", batch_size=128, augment=cinicpack.Augment())
    for images, labels in loader: ...

Nothing is imported before it is used: torch and numba come with `Loader`, not with the package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cinicpack import cinic10
from cinicpack.errors import (
    ArgumentError,
    BadImagesError,
    CinicPackError,
    DestinationError,
    FormatVersionError,
    LoaderError,
    PackError,
    SelectionError,
    SourceError,
    StateError,
)
from cinicpack.interrupts import holding_interrupts

if TYPE_CHECKING:
    from cinicpack import study
    from cinicpack.convert.arrays import pack_arrays
    from cinicpack.convert.dataset import pack_dataset
    from cinicpack.convert.packer import pack
    from cinicpack.datasets import CIFAR10, CIFAR100, CINIC10
    from cinicpack.load.augment import Augment
    from cinicpack.load.choice import Repeated, Weighted
    from cinicpack.load.dataset import PackedDataset
    from cinicpack.load.loader import Loader
    from cinicpack.load.mix import CutMix, MixUp
    from cinicpack.store.index_map import read_partition
    from cinicpack.store.pack import Pack, open_pack
    from cinicpack.store.split import Split

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CINIC10",
    "ArgumentError",
    "Augment",
    "BadImagesError",
    "CinicPackError",
    "CutMix",
    "DestinationError",
    "FormatVersionError",
    "Loader",
    "LoaderError",
    "MixUp",
    "Pack",
    "PackError",
    "PackedDataset",
    "Repeated",
    "SelectionError",
    "SourceError",
    "Split",
    "StateError",
    "Weighted",
    "__version__",
    "cinic10",
    "open_pack",
    "pack",
    "pack_arrays",
    "pack_dataset",
    "read_partition",
    "study",
]

__version__ = "0.1.0"

_HOMES = {
    "CIFAR10": "cinicpack.datasets",
    "CIFAR100": "cinicpack.datasets",
    "CINIC10": "cinicpack.datasets",
    "Augment": "cinicpack.load.augment",
    "CutMix": "cinicpack.load.mix",
    "Loader": "cinicpack.load.loader",
    "MixUp": "cinicpack.load.mix",
    "Pack": "cinicpack.store.pack",
    "PackedDataset": "cinicpack.load.dataset",
    "Repeated": "cinicpack.load.choice",
    "Split": "cinicpack.store.split",
    "Weighted": "cinicpack.load.choice",
    "open_pack": "cinicpack.store.pack",
    "pack": "cinicpack.convert.packer",
    "pack_arrays": "cinicpack.convert.arrays",
    "pack_dataset": "cinicpack.convert.dataset",
    "read_partition": "cinicpack.store.index_map",
}


def __getattr__(name: str) -> Any:
    if name == "study":
        return import_module("cinicpack.study")
    if name not in _HOMES:
        raise AttributeError(f"module 'cinicpack' has no attribute {name!r}")
    with holding_interrupts():
        value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
