"""Mixing: what is drawn for the batches of an epoch, and what the kernel mixes them by."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.batches import BatchFormat
from cinicpack.load.kernels.mix import KINDS, MIX, PLAN, draw_mixes, run_mixed
from cinicpack.load.kernels.task import Tasks
from cinicpack.load.mix import CutMix, Mix
from cinicpack.load.order import Work
from cinicpack.load.samples import Samples
from cinicpack.load.unique import Unique

__all__ = ["Mixes", "Mixing"]


class Mixing:
    """How a loader mixes its batches.

    Args:
        mixes: of which one is drawn for each batch.
        samples: what batches are made of, whose labels are looked up.
        batch_format: dtype and layout of the batches.

    Attributes:
        table: (M, K) float32, labels by what the kernel writes for a sample, see `tabulate`.
        batch_format: as given.
    """

    def __init__(self, mixes: Sequence[Mix], samples: Samples, batch_format: BatchFormat) -> None:
        assert samples.looked_up is not None
        self.table = np.ascontiguousarray(samples.looked_up, np.float32)
        self._samples = samples
        self.batch_format = batch_format
        self._alphas = np.array([mix.alpha for mix in mixes], np.float64)
        self._cuts = np.array([isinstance(mix, CutMix) for mix in mixes])

    def draw(self, work: Work, size: int) -> NDArray[np.void]:
        """Draw how batches of up to ``size`` samples are mixed: (n,) of `PLAN`."""
        counts = np.clip(len(work.positions) - np.arange(work.batches) * size, 0, size)
        shape = np.array([self.batch_format.height, self.batch_format.width])
        plans = np.zeros(work.batches, PLAN)
        draw_mixes(
            np.uint64(self._samples.seed), work.epoch, work.place, work.step, counts, shape,
            self._alphas, self._cuts, plans,
        )  # fmt: skip
        return plans


class Mixes(Unique):
    """What the kernel mixes the batch at each place by.

    Args:
        mixing: how batches are mixed.
        tasks: that make the batches.
        places: how many tasks there are.
        size: samples in a batch.
        work: what the batches are made of.

    Attributes:
        labels: (places, size, K) float32, where the kernel writes the labels of a batch.
    """

    def __init__(self, mixing: Mixing, tasks: Tasks, places: int, size: int, work: Work) -> None:
        table, form = mixing.table, mixing.batch_format
        self.labels = np.empty((places, size, table.shape[1]), np.float32)
        # The kernel reads the table, the plans and the records.
        plans, records = mixing.draw(work, size), np.zeros(places, MIX)
        self._read = mixing, plans, records
        records["out"] = self.labels.ctypes.data + np.arange(places) * self.labels.strides[0]
        for name, value in {
            "step": size * 8,
            "kind": KINDS.index(form.dtype),
            "channels_last": form.channels_last,
            "height": form.height,
            "width": form.width,
            "table": table.ctypes.data,
            "classes": table.shape[1],
            "plans": plans.ctypes.data,
            "first": work.positions.ctypes.data,
        }.items():
            records[name] = value
        tasks.mix(run_mixed, records)
