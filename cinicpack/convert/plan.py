"""A plan: which images become which rows, names, shards and arrays, worked out once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.convert.layout import arrange
from cinicpack.convert.paths import Paths
from cinicpack.convert.source import Source
from cinicpack.errors import SelectionError, SourceError
from cinicpack.store.format import ArraySpec, plan_arrays
from cinicpack.store.manifest import Resize

__all__ = ["Plan", "Rows", "Wanted", "cut_shards", "make_plan"]


class Wanted(NamedTuple):
    """What the caller of `packer.pack` asks for; see there."""

    splits: str | Sequence[str] | None = None
    shard_rows: int | None = None
    num_workers: int | None = None
    skip_bad: bool = False
    allow_missing: bool = False
    expect: str | None = None
    progress: bool = True
    resize: Resize | None = None


class Rows(NamedTuple):
    """Which images are the rows of a split, in order, and their labels."""

    order: NDArray[np.int64]
    labels: NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True)
class Plan:
    """Which images are the rows of a pack.

    Attributes:
        source: what messages name.
        paths: of all images that are converted, in the order in which they are.
        classes: names; a label is a place among them.
        splits: for every split the places of its images in ``paths``, and their labels.
        shard_rows: images in one shard; None: all of a split.
        resize: to which size images are brought, and how; None: they stay as they are.
        skipped: path and reason of images that are left out since they are bad.
    """

    source: str
    paths: Paths
    classes: tuple[str, ...]
    splits: dict[str, Rows]
    shard_rows: int | None
    resize: Resize | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The places in ``paths`` of all rows, one split after the other."""
        return np.concatenate([rows.order for rows in self.splits.values()])

    @cached_property
    def name_bytes(self) -> dict[str, int]:
        """The bytes of the longest file name of every split."""
        return {name: self.paths.measure_names(rows.order) for name, rows in self.splits.items()}

    @cached_property
    def shards(self) -> dict[str, tuple[int, ...]]:
        """The numbers of rows in the shards of every split."""
        return {
            split: cut_shards(len(rows.order), self.shard_rows)
            for split, rows in self.splits.items()
        }

    def specs(self, image_shape: tuple[int, int, int]) -> list[ArraySpec]:
        """List the arrays of the pack, for images of this height, width and channels."""
        splits = {name: (self.shards[name], self.name_bytes[name]) for name in self.splits}
        return list(plan_arrays(image_shape, len(self.classes), splits))

    def in_order(self) -> "Plan":
        """Return this plan with the paths of its rows only, in their order."""
        splits, start = {}, 0
        for name, rows in self.splits.items():
            splits[name] = Rows(np.arange(start, start + len(rows.order)), rows.labels)
            start += len(rows.order)
        return replace(self, paths=self.paths.in_order(self.rows), splits=splits)


def make_plan(source: Source, paths: Paths, wanted: Wanted, work: Path) -> Plan:
    """Find out what the images at ``paths`` of a source become.

    The folder ``work``, in which the pack is made, may be one of the source's, but is no class of
    it. Raises what `arrange` does, and names the source.
    """
    remarks = source.remarks
    mine = os.path.relpath(work, os.path.realpath(source.path))
    folders = {name for name in remarks.folders if not f"{name}/".startswith(f"{mine}/")}
    try:
        layout = arrange(
            paths,
            wanted.splits,
            classes=source.classes,
            keeps_order=source.keeps_order,
            folders=folders,
            allow_missing=wanted.allow_missing,
        )
    except (SourceError, SelectionError) as error:
        raise type(error)(f"{source.path}: {error}") from None
    splits = {name: Rows(rows, layout.labels[name]) for name, rows in layout.rows.items()}
    return Plan(str(source.path), paths, layout.classes, splits, wanted.shard_rows, wanted.resize)


def cut_shards(rows: int, shard_rows: int | None) -> tuple[int, ...]:
    """Cut the rows of a split into shards; None: one shard."""
    step = shard_rows or rows
    return tuple(min(step, rows - start) for start in range(0, rows, step))
