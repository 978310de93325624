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

__all__ = ["Mixing"]


class Mixing:
    """How a loader mixes its batches.

    Args:
        mixes: of which one is drawn for each batch.
        samples: what batches are made of, whose labels are looked up.
        batch_format: dtype and layout of the batches.
    """

    def __init__(self, mixes: Sequence[Mix], samples: Samples, batch_format: BatchFormat) -> None:
        assert samples.looked_up is not None
        self._table = np.ascontiguousarray(samples.looked_up, np.float32)
        self._samples = samples
        self._format = batch_format
        self._alphas = np.array([mix.alpha for mix in mixes], np.float64)
        self._cuts = np.array([isinstance(mix, CutMix) for mix in mixes])

    def draw(self, work: Work, size: int) -> NDArray[np.void]:
        """Draw how batches of up to ``size`` samples are mixed: (n,) of `PLAN`."""
        counts = np.clip(len(work.positions) - np.arange(work.batches) * size, 0, size)
        shape = np.array([self._format.height, self._format.width])
        plans = np.zeros(work.batches, PLAN)
        draw_mixes(
            np.uint64(self._samples.seed), work.epoch, work.place, work.step, counts, shape,
            self._alphas, self._cuts, plans,
        )  # fmt: skip
        return plans

    def prepare(self, tasks: Tasks, places: int, work: Work, size: int) -> NDArray[np.float32]:
        """Let tasks mix the batches that they make of ``work``.

        Returns where each place has the labels of its batch then: (places, size, K).
        """
        plans, form, classes = self.draw(work, size), self._format, self._table.shape[1]
        labels = np.empty((places, size, classes), np.float32)
        records = np.zeros(places, MIX)
        records["out"] = labels.ctypes.data + np.arange(places) * labels.strides[0]
        for name, value in {
            "plans": plans.ctypes.data,
            "first": work.positions.ctypes.data,
            "step": size * work.positions.itemsize,
            "kind": KINDS.index(form.dtype),
            "channels_last": form.channels_last,
            "height": form.height,
            "width": form.width,
            "table": self._table.ctypes.data,
            "classes": classes,
        }.items():
            records[name] = value
        tasks.mix(run_mixed, records, (plans, self._table, labels))
        return labels
