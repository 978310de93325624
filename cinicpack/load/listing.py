"""Listings: what a device knows of the samples of an epoch, in the order in which they come."""

from typing import NamedTuple

import numpy as np
import torch

from cinicpack.load.draws import COUNT
from cinicpack.load.on_torch import choose_draw
from cinicpack.load.order import Work
from cinicpack.load.samples import Samples
from cinicpack.load.transfers import Transfers
from cinicpack.load.unique import Unique

__all__ = ["Listing", "Listings"]


class Listing(NamedTuple):
    """Labels, rows and draws of n samples, on a device.

    Attributes:
        positions: (n,) int64, which of the loader's samples they are.
        labels: (n,) int64; where labels are looked up, their places in that table.
        rows: (n,) int64.
        draws: (n, COUNT) int32 for every view; none if the host augments.
    """

    positions: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    draws: list[torch.Tensor]


class Listings(Unique):
    """Makes the listing of each epoch, at once and on the device.

    Drawing and looking up on the host would take ten times as long as a GPU takes to augment.

    Args:
        samples: of the loader.
        transfers: to the device.
        draws: whether the device augments the samples.
    """

    def __init__(self, samples: Samples, transfers: Transfers, *, draws: bool) -> None:
        self._samples = samples
        self._transfers = transfers
        device, tables = transfers.device, samples.tables
        self._labels = torch.from_numpy(tables.labels).to(device)
        self._rows = torch.from_numpy(tables.rows).to(device)
        self._plans: list[torch.Tensor] = []
        self._draw = None
        if draws:
            plans = [transform.draws for transform in samples.transforms]
            self._plans = [torch.from_numpy(plan).to(device) for plan in plans]
            self._draw = choose_draw(device)

    def make(self, work: Work) -> Listing:
        """Queue the listing of an epoch on the device's stream."""
        count = len(work.positions)
        # In front of the samples is what they are drawn from; an even number keeps the occurrences
        # at a multiple of 16 bytes.
        places = count + count % 2
        columns = [work.positions, *([] if work.occurrences is None else [work.occurrences])]
        memory = self._transfers.allocate(8 * (2 + len(columns) * places))
        numbers = memory.view(np.int64)
        numbers[:2] = np.array([self._samples.seed, work.epoch], np.uint64).view(np.int64)
        lines = numbers[2:].reshape(len(columns), places)
        for line, column in zip(lines, columns, strict=True):
            line[:count] = column
        sent = self._transfers.send(memory, memory.nbytes).view(torch.int64)
        positions, *others = sent[2:].view(len(columns), places)[:, :count]
        occurrences = others[0] if others else None
        rows = self._rows.index_select(0, positions)
        draws = [
            self._draw(rows, occurrences, sent, plan, view)
            if self._draw
            else self._draw_here(work, view)
            for view, plan in enumerate(self._plans)
        ]
        return Listing(positions, self._labels.index_select(0, positions), rows, draws)

    def _draw_here(self, work: Work, view: int) -> torch.Tensor:
        """Draw on the host, where Triton cannot be used."""
        drawn = np.empty((len(work.positions), COUNT), np.int32)
        rows = self._samples.rows[work.positions]
        self._samples.draw(rows, work.epoch, drawn, work.occurrences, view)
        return torch.from_numpy(drawn).to(self._transfers.device)
