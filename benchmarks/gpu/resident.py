"""Pixels that live on the device: against airbench's scheme, and against the device's memory."""

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import cinicpack
from benchmarks.gpu.setting import PIXELS, Row, Setting
from benchmarks.race import Case
from cinicpack.load.draws import COUNT
from cinicpack.load.on_torch import (
    AugmentPixels,
    augment_with_torch,
    choose_augment,
    place_constants,
)
from cinicpack.store.split import Split

__all__ = ["compare_memory", "list_rows"]

_COPY = "copy within the device"
_NARROW = f"{_COPY}, as for bfloat16"
_SCHEME = "airbench's scheme"


def list_rows(setting: Setting) -> list[Row]:
    """Compare resident pixels with airbench's scheme, and with what the device's memory can do.

    A copy within the device counts as one image what the kernel reads and writes for one image, so
    that a ratio of images is one of bandwidths. "kernel alone" leaves out Python and what the host
    draws and looks up; "torch operations alone" are what a loader takes where Triton cannot be
    used.
    """
    batch, large, repeats = setting.sizes.batch, setting.sizes.large, setting.sizes.repeats
    whole = setting.load(resident=True, batch_size=large)
    scheme = WholeSet(setting.split, setting.device, batch)
    kernel = choose_augment(setting.device)
    return [
        setting.time_copies(_SCHEME, partial(setting.count, scheme), 3 * PIXELS),
        setting.time_loader("as airbench", _load_like_scheme(setting), 3 * PIXELS, _SCHEME, 3.0),
        setting.time_copies(_COPY, _make_copies(setting, 5), 5 * PIXELS),
        setting.time_copies(_NARROW, _make_copies(setting, 3), 3 * PIXELS),
        setting.time_loader(f"batches of {large}", whole, 5 * PIXELS, _COPY, 0.6),
        setting.time_loader(
            f"batches of {batch}, several a launch",
            setting.load(resident=True),
            5 * PIXELS,
            _COPY,
            0.6,
        ),
        *(
            Row(
                Case(
                    f"{name}, {dtype}{', channels_last' if last else ''}",
                    _make_launches(setting, augment, launches, dtype, last),
                    base,
                ),
                size * PIXELS,
                0,
            )
            for name, augment, launches, dtype, last, base, size in (
                ("kernel alone", kernel, repeats, "float32", False, _COPY, 5),
                ("kernel alone", kernel, repeats, "bfloat16", False, _NARROW, 3),
                ("kernel alone", kernel, repeats, "bfloat16", True, _NARROW, 3),
                (
                    "torch operations alone",
                    augment_with_torch,
                    1 + repeats // 10,
                    "float32",
                    False,
                    _COPY,
                    5,
                ),
            )
        ),
    ]


def _load_like_scheme(setting: Setting) -> cinicpack.Loader:
    augment = cinicpack.Augment(padding_mode="reflect", flip="alternating")
    return setting.load(resident=True, augment=augment, dtype="float16", channels_last=True)


class WholeSet:
    """The scheme of airbench's CifarLoader, written anew.

    The images are normalised, mirrored at random and padded once, for all epochs. Before each
    epoch the whole set is cropped, and in every other epoch mirrored; batches are rows of the
    result.
    """

    padding = 4

    def __init__(self, split: Split, device: torch.device, batch_size: int) -> None:
        pack = split.pack
        pixels = torch.from_numpy(np.ascontiguousarray(split.images)).to(device)
        images = pixels.permute(0, 3, 1, 2).half().div_(255)
        mean, std = (
            torch.tensor(values, dtype=torch.half, device=device).view(3, 1, 1)
            for values in (pack.mean, pack.std)
        )
        images.sub_(mean).div_(std)
        mirrored = torch.rand(len(images), device=device) < 0.5
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        self.padded = functional.pad(images, (self.padding,) * 4, "reflect")
        self.labels = torch.from_numpy(split.labels.astype(np.int64)).to(device)
        self.batch_size = batch_size
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images = self.crop()
        if self.epoch % 2:
            images = images.flip(-1)
        self.epoch += 1
        order = torch.randperm(len(images), device=images.device)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield images[rows], self.labels[rows]

    def crop(self) -> torch.Tensor:
        """Crop the rows of all images, then the columns; images with one offset go together."""
        padded, reach = self.padded, 2 * self.padding + 1
        count, channels, height, width = padded.shape
        offsets = torch.randint(reach, (2, count), device=padded.device)
        shape = (count, channels, height - reach + 1, width)
        layout = torch.channels_last
        tall = torch.empty_like(padded[:, :, : shape[2]], memory_format=layout)
        for top in range(reach):
            chosen = offsets[0] == top
            tall[chosen] = padded[chosen, :, top : top + shape[2]]
        cropped = torch.empty_like(tall[..., : width - reach + 1], memory_format=layout)
        for left in range(reach):
            chosen = offsets[1] == left
            cropped[chosen] = tall[chosen, ..., left : left + cropped.shape[3]]
        return cropped


def _make_copies(setting: Setting, size: int) -> Callable[[], int]:
    """Make a function that copies random bytes within the device, and returns as how many images.

    ``size`` bytes that are read or written count as one value of a pixel.
    """
    nbytes, copies = setting.sizes.large * PIXELS * 4, 8 * setting.sizes.repeats
    source = setting.make_bytes(nbytes, on_device=True)
    target = torch.empty_like(source)

    def run() -> int:
        for _ in range(copies):
            target.copy_(source)
        setting.synchronize()
        return copies * 2 * nbytes // (size * PIXELS)

    return run


def _make_launches(
    setting: Setting, augment: AugmentPixels, launches: int, dtype: str, channels_last: bool
) -> Callable[[], int]:
    """Make a function that augments a whole epoch in one launch, without a loader."""
    loader = setting.load(resident=True, dtype=dtype, channels_last=channels_last)
    maker: Any = loader._maker
    slabs, samples = maker._slabs, loader._samples
    positions = np.random.default_rng(0).permutation(len(samples))
    draws = np.empty((len(positions), COUNT), np.int32)
    samples.draw(positions, 0, draws)
    arguments = (
        slabs._resident,
        torch.from_numpy(positions).to(setting.device),
        torch.from_numpy(draws).to(setting.device),
        place_constants(samples.transform, setting.device),
        samples.transform,
        getattr(torch, dtype),
        channels_last,
    )

    def run() -> int:
        for _ in range(launches):
            augment(*arguments)
        setting.synchronize()
        return launches * len(positions)

    return run


def compare_memory(setting: Setting) -> dict[str, Any]:
    """Compare the most memory that an epoch takes on the device with airbench's scheme."""
    if setting.device.type == "cpu":
        return {}
    scheme = _measure_memory(
        setting, lambda setting: WholeSet(setting.split, setting.device, setting.sizes.batch)
    )
    resident = _measure_memory(setting, _load_like_scheme)
    return {
        "airbench_mb": round(scheme),
        "resident_mb": round(resident),
        "ratio": round(resident / scheme, 3),
        "wanted": 0.333,
        "reached": resident / scheme <= 1 / 3,
    }


def _measure_memory(setting: Setting, make: Callable[[Setting], Any]) -> float:
    """Measure the most memory, in MB, that an epoch takes of what ``make`` makes."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_stats(setting.device)["active_bytes.all.current"]
    loader = make(setting)
    setting.count(loader)
    # The peak is counted from the second run on: the first one needs more, and only once.
    torch.cuda.reset_peak_memory_stats(setting.device)
    setting.count(loader)
    # Active bytes are more than allocated ones: a block that was freed while a stream may still
    # use it is no longer allocated, but cannot be used again yet.
    most = torch.cuda.memory_stats(setting.device)["active_bytes.all.peak"]
    return float(most - before) / 1e6
