"""A benchmark: how fast a pack loads on this machine, and what holds it back."""

import itertools
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from cinicpack.convert.layout import arrange
from cinicpack.convert.source import open_source
from cinicpack.cores import usable_cores
from cinicpack.errors import SourceError
from cinicpack.limit import find_limit, measure_rate, name_cache
from cinicpack.load.augment import Augment
from cinicpack.load.loader import Loader
from cinicpack.store.pack import Pack
from cinicpack.text import counted, table

__all__ = ["Bench", "FileDataset", "format_bench", "run_bench"]

_PADDING = 4


class Bench(NamedTuple):
    """What `run_bench` measured, in images per second (medians of interleaved rounds).

    Attributes:
        split: whose images were loaded.
        images: how many they are.
        batch_size: images in a batch.
        threads: of the loader, of the limit, and processes that read files.
        loader: the `Loader`: crop, flip, normalise, float32.
        limit: the loader's kernel alone, round buffers that stay in a cache: see `cinicpack.limit`.
        buffers: number and size of these buffers, and which cache holds them.
        files: ImageFolder's way, a file at a time; None if there was no tree.
    """

    split: str
    images: int
    batch_size: int
    threads: int
    loader: float
    limit: float
    buffers: str
    files: float | None


def run_bench(
    pack: Pack,
    tree: str | os.PathLike[str] | None = None,
    *,
    batch_size: int = 128,
    rounds: int = 11,
    round_seconds: float = 0.25,
    file_seconds: float = 5.0,
) -> Bench:
    """Measure loader and limit in alternate rounds, then the reading of files, in under 30 s.

    The split is "train", or the first that there is. Files are read with torch's DataLoader and one
    process per core, after its processes have started.

    Args:
        pack: what is loaded.
        tree: what it was made from; None: no files are read.
        batch_size: images in a batch.
        rounds: how often loader and limit take turns.
        round_seconds: of each turn. Turns are short, since the speed of a virtual machine changes
            within seconds.
        file_seconds: for how long files are read.
    """
    name = "train" if "train" in pack else pack.splits[0]
    split = pack[name]
    threads = usable_cores()
    dataset = None if tree is None else FileDataset(Path(tree), name, pack)
    loader = Loader(pack, split, batch_size=batch_size, augment=Augment(), num_workers=threads)
    # The first run compiles the kernels and brings the images into memory.
    _count(loader)
    limit = find_limit(loader, threads)
    rates: dict[str, list[float]] = {"loader": [], "limit": []}
    runs = {"loader": lambda: _count(loader), "limit": limit.run}
    for _ in range(rounds):
        for kind, run in runs.items():
            rates[kind].append(measure_rate(run, round_seconds))
    files = None
    if dataset is not None:
        files = _measure_files(dataset, batch_size, threads, file_seconds)
    return Bench(
        split=name,
        images=len(split),
        batch_size=batch_size,
        threads=threads,
        loader=statistics.median(rates["loader"]),
        limit=statistics.median(rates["limit"]),
        buffers=f"{limit}, in {name_cache(limit.nbytes, threads)}",
        files=files,
    )


def format_bench(bench: Bench) -> str:
    """Lay out a measurement as a small table, and name the bottleneck in one sentence."""
    rows = [("cinicpack Loader", bench.loader), ("limit: its kernel alone", bench.limit)]
    if bench.files is not None:
        rows.insert(0, ("files, ImageFolder's way", bench.files))
    base = rows[0][1]
    cells = [(name, f"{rate:,.0f}", f"{rate / base:,.1f}x") for name, rate in rows]
    lines = [
        f"{counted(bench.images, 'image')} of {bench.split}, batches of {bench.batch_size}, "
        f"random crop, flip, normalise to float32; {bench.threads} threads",
        "",
        *table([("", "images/s", "ratio"), *cells], widths=(30, 10, 7)),
        "",
        _name_bottleneck(bench),
    ]
    return "\n".join(lines)


class FileDataset(Dataset[tuple[torch.Tensor, int]]):
    """Images of a tree read as ImageFolder and torchvision's transforms do, one file at a time.

    Opened with Pillow, converted to RGB, cropped, flipped, made a tensor and normalised, with the
    same operations on the same libraries; here so that torchvision need not be installed.
    """

    def __init__(self, root: Path, split: str, pack: Pack) -> None:
        tree = open_source(root)
        paths = list(tree.paths())
        layout = arrange(paths, folders=tree.remarks.folders, allow_missing=True)
        if split not in layout.rows:
            raise SourceError(
                f"{root}: expected the tree that {pack.path} was made of, found no split {split!r}"
            )
        rows, labels = layout.rows[split].tolist(), layout.labels[split].tolist()
        self._files = [
            (str(root / paths[row]), label) for row, label in zip(rows, labels, strict=True)
        ]
        self._mean = torch.tensor(pack.mean).view(3, 1, 1)
        self._std = torch.tensor(pack.std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        file, label = self._files[index]
        with open(file, "rb") as stream:
            image = Image.open(stream).convert("RGB")
        width, height = image.size
        padded = Image.new("RGB", (width + 2 * _PADDING, height + 2 * _PADDING))
        padded.paste(image, (_PADDING, _PADDING))
        top, left = torch.randint(0, 2 * _PADDING + 1, (2,)).tolist()
        image = padded.crop((left, top, left + width, top + height))
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255).sub_(self._mean).div_(self._std), label


def _measure_files(dataset: FileDataset, batch_size: int, processes: int, seconds: float) -> float:
    loader = DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        num_workers=processes,
        persistent_workers=True,
    )
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    # The first batch comes when the processes have started.
    next(batches)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        count += len(next(batches)[1])
    return count / elapsed


def _count(loader: Loader) -> int:
    return sum(len(labels) for _, labels in loader)


def _name_bottleneck(bench: Bench) -> str:
    percent = round(100 * bench.loader / bench.limit)
    text = (
        f"The loader reaches {percent}% of what its kernel does alone on these cores, writing to "
        f"{bench.buffers}. "
    )
    if percent >= 80:
        text += "The bottleneck is the kernel."
    else:
        text += (
            "The rest goes into memory, where batches do not stay in that cache; into the work for "
            "each batch and epoch, which is a smaller part of larger ones; or to other programs on "
            "these cores."
        )
    if bench.files is not None:
        times = bench.loader / bench.files
        text += f" Reading files is {times:,.0f} times slower: its bottleneck is decoding."
    return text
