"""Stress: loaders used in every way at once, whose every batch is compared with what it has to be.

    python -m tests.load.stress [EPOCHS] [SEED]

Several threads make loaders with random options, run epochs of them, whole or in part, hold some of
the batches and drop others, and close iterators and loaders, their own and those of other threads,
at random moments. A piece of work that is lost or done too late shows as a batch with the pixels of
an older one; one that is done twice, as a batch that changes while it is held; a wake-up that is
lost, as a thread that does not come back.
"""

import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu.images import make_noise
from cinicpack import (
    Augment,
    CutMix,
    Loader,
    LoaderError,
    MixUp,
    Pack,
    open_pack,
    pack_arrays,
)  # fmt: skip
from cinicpack.cinic10 import CLASSES
from tests.load.pieces import engine_for, run_at_once

__all__ = ["Stress"]

_EPOCHS: Final = 4
_KINDS: Final[list[dict[str, Any]]] = [
    {"dtype": "uint8"},
    {"dtype": "float32"},
    {"dtype": "float16", "channels_last": True},
    {"dtype": "uint8", "augment_on": "device", "output": "torch"},
    # What is mixed with what depends on the size of batches.
    {"dtype": "uint8", "mix": [MixUp(), CutMix()], "batch_size": 16},
]


class Stress:
    """What threads do at once with loaders of one pack.

    Args:
        pack: its train split is loaded.
        seed: of all that is random, but for the order in which threads come.
    """

    def __init__(self, pack: Pack, seed: int) -> None:
        self._pack = pack
        self._seed = seed
        self._expected = [self._load_all(kind) for kind in _KINDS]
        # What other threads may close.
        self._shared: list[Any] = [None] * 4
        self.batches = 0

    def run(self, epochs: int, threads: int = 4) -> None:
        """Begin at least so many epochs in all."""
        for result in run_at_once(lambda number: self._work(number, epochs // threads), threads):
            if isinstance(result, BaseException):
                raise result
            self.batches += result

    def _load_all(self, kind: dict[str, Any]) -> list[Any]:
        """Return all samples of each epoch, in order, made by the consumer alone."""
        count = len(self._pack["train"])
        loader = self._make({"batch_size": count} | kind, num_workers=0)
        return [
            [np.concatenate(column) for column in zip(*loader, strict=True)] for _ in range(_EPOCHS)
        ]

    def _make(self, kind: dict[str, Any], **options: Any) -> Loader:
        fixed: dict[str, Any] = {"augment": Augment(), "return_index": True, "output": "numpy"}
        return Loader(self._pack, epoch=0, **fixed | kind | options)

    def _work(self, number: int, epochs: int) -> int:
        dice, held, batches = random.Random(f"{self._seed} {number}"), [], 0
        while epochs > 0:
            kind = dice.randrange(len(_KINDS))
            size, workers = dice.choice([1, 2, 5, 16, 30, 45, 90, 100]), dice.randrange(5)
            size = _KINDS[kind].get("batch_size", size)
            loader = self._make(_KINDS[kind], batch_size=size, num_workers=workers)
            iterator: Any = loader
            for _ in range(dice.randrange(1, 6)):
                epochs -= 1
                epoch = dice.randrange(_EPOCHS)
                expected = self._expected[kind][epoch]
                loader.set_epoch(epoch)
                try:
                    iterator = iter(loader)
                    self._shared[number] = dice.choice([None, iterator, loader])
                    last = dice.choice([0, 1, 3, 1000, 1000, 1000])
                    for place, batch in enumerate(iterator):
                        rows = slice(place * size, (place + 1) * size)
                        part = [column[rows] for column in expected]
                        compare(batch, part)
                        batches += 1
                        if dice.random() < 0.2:
                            held.append((batch, part))
                        while len(held) > dice.randrange(1, 12):
                            compare(*held.pop(dice.randrange(len(held))))
                        # No name of this function is to keep what was dropped.
                        del batch
                        if place == last:
                            break
                    else:
                        assert loader.epoch == epoch + 1
                except LoaderError as error:
                    # By another thread, at any time.
                    if "after close" in str(error):
                        break
                    if "was closed" not in str(error):
                        raise
                if dice.random() < 0.1 and (other := self._shared[dice.randrange(4)]) is not None:
                    other.close()
            # Some are dropped, in any order, and some closed.
            if dice.random() < 0.5:
                dice.choice([loader, iterator]).close()
            if dice.random() < 0.5:
                del iterator, loader
            else:
                del loader, iterator
        for pair in held:
            compare(*pair)
        return batches


def compare(batch: Any, expected: list[Any]) -> None:
    """Fail if a batch is not what it has to be."""
    for found, column in zip(batch, expected, strict=True):
        assert np.array_equal(found, column)


def main(epochs: int = 10_000, seed: int = 0) -> None:
    sys.setswitchinterval(1e-4)
    with tempfile.TemporaryDirectory() as folder, engine_for(5):
        noise = {"train": make_noise(9)}
        path = pack_arrays(noise, Path(folder) / "noise.pack", classes=CLASSES).path
        stress, start = Stress(open_pack(path), seed), time.perf_counter()
        stress.run(epochs)
    seconds = time.perf_counter() - start
    print(f"{epochs} epochs, {stress.batches} batches, {threading.active_count()} threads left, "
          f"{seconds:.1f} s")  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
