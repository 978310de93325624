"""The paths to a GPU: against plain copies, against airbench's scheme, and in a training loop.

python -m benchmarks.bench_gpu                          # results/gpu.json
python -m benchmarks.bench_gpu --quick --device cpu     # does it run? its figures mean nothing
"""

import argparse
import gc
import importlib.metadata
import itertools
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

import cinicpack
from benchmarks.bench_loader import Case, race
from benchmarks.machine import describe_machine
from benchmarks.report import format_json, say
from cinicpack.cores import usable_cores
from cinicpack.load.fused import augment_pixels, place_constants
from cinicpack.store.reader import Split
from cinicpack.synthetic import write_tree

_HERE = Path(__file__).parent
# Of an image, each a byte.
_PIXELS = 3 * 32 * 32
_COPY = "copy within the device"
_CACHED = "one cached batch"
_SCHEME = "airbench's scheme"


class Sizes(NamedTuple):
    """How large everything is.

    Attributes:
        per_class: images per class.
        batch: images in a batch.
        large: the same where Python shall not matter.
        width: channels of the network's first layer.
    """

    per_class: int
    batch: int
    large: int
    width: int


_FULL = Sizes(per_class=9000, batch=512, large=8192, width=64)
_QUICK = Sizes(per_class=2, batch=8, large=16, width=4)


class Setting(NamedTuple):
    """What every measurement is given."""

    split: Split
    device: torch.device
    sizes: Sizes
    threads: int

    def load(self, **options: Any) -> cinicpack.Loader:
        """Make a loader of augmented batches on the device."""
        options = {
            "batch_size": self.sizes.batch,
            "num_workers": self.threads,
            "device": self.device,
            "augment": cinicpack.Augment(),
            **options,
        }
        return cinicpack.Loader(self.split.pack, self.split, **options)

    def count(self, batches: Iterable[Any]) -> int:
        """Take all batches, and wait until the device has made them."""
        images = sum(len(labels) for _, labels in batches)
        self.synchronize()
        return images

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    # With a number, since "cpu" by itself would not be loaded onto as a device is.
    device = torch.device(options.device, 0)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with tempfile.TemporaryDirectory() as folder:
        sizes = _QUICK if options.quick else _FULL
        pack = cinicpack.open_pack(options.pack or make_pack(options.quick and folder, sizes))
        setting = Setting(pack["train"], device, sizes, options.threads)
        report = measure(setting, options.rounds, options.seconds)
    for row in [*report["hand_off"], *report["resident"], *report["training"], report["memory"]]:
        print(row)
    if options.quick:
        print("Figures of a quick run mean nothing: none was written.")
    else:
        output = options.output / "gpu.json"
        output.write_text(format_json(report))
        say(f"written to {output}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--pack", type=Path, help="with 90,000 images in train (else one is made)")
    parser.add_argument("--output", type=Path, default=_HERE / "results")
    parser.add_argument("--threads", type=int, default=min(8, usable_cores()), help="%(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.6, help="of each row and round")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="few images: does everything work?")
    options = parser.parse_args(arguments)
    if options.pack:
        try:
            cinicpack.open_pack(options.pack)
        except (cinicpack.PackError, OSError) as error:
            parser.error(
                f"argument --pack: {options.pack}: expected a pack, found none ({error}); name "
                "another, or leave --pack out to have one made"
            )
    if options.device == "cpu" and not options.quick:
        parser.error("a CPU shows nothing but that this runs: add --quick")
    if options.device == "cuda" and not torch.cuda.is_available():
        print("This measures a GPU, and torch sees none here.", file=sys.stderr)
        raise SystemExit(2)
    if options.quick:
        options.rounds, options.seconds = 1, 1e-9
    return options


def make_pack(folder: str | None, sizes: Sizes) -> Path:
    """Make a pack as large as the train split; what its pixels are makes nothing faster."""
    place = Path(folder or _HERE / ".rivals" / "gpu")
    path = place / "train.pack"
    if not path.exists():
        say(f"making {path}")
        rng = np.random.default_rng(0)

        def make_noise(_split: str, _name: str, names: Sequence[str]) -> NDArray[np.uint8]:
            return rng.integers(0, 256, (len(names), 32, 32, 3), np.uint8)

        write_tree(place / "tree", sizes.per_class, splits=["train"], images=make_noise)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not the whole of CINIC-10
            cinicpack.pack(place / "tree", path, progress=False)
    return path


def measure(setting: Setting, rounds: int, seconds: float) -> dict[str, Any]:
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "gpu": describe_gpu(setting.device),
        "threads": setting.threads,
        "rounds": rounds,
    }
    for name, list_cases in (
        ("hand_off", list_copies),
        ("resident", list_residents),
        ("training", list_trainings),
    ):
        say(name)
        cases, nbytes = zip(*list_cases(setting), strict=True)
        report[name] = race(list(cases), rounds, seconds)
        for row, size in zip(report[name], nbytes, strict=True):
            row["gb_s"] = round(row["median"] * size / 1e9, 2)
        del cases
        gc.collect()
    report["memory"] = compare_memory(setting)
    return report


def describe_gpu(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return {"name": "none"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_gb": round(properties.total_memory / 1e9),
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton") if find_spec("triton") else None,
    }


# ---- from the host to the device -----------------------------------------------------------------


def list_copies(setting: Setting) -> list[tuple[Case, int]]:
    """Compare what a loader hands over with copies of as many bytes from pinned memory.

    The hand-off alone is a loader whose kernels have nothing to do: its memory goes to the device
    as it is. Beside it stands the whole, which threads may hold up before the bus does.
    """
    alone = setting.load()
    maker: Any = alone._maker
    maker._samples.fill = lambda *_: None
    plain, pixels = "plain pinned copy", "plain pinned copy of uint8"
    there = setting.load(augment_on="device")
    return [
        (Case(plain, make_copies(setting, 4)), 4 * _PIXELS),
        (Case(pixels, make_copies(setting, 1)), _PIXELS),
        (Case("hand-off alone", partial(setting.count, alone), plain, 0.9), 4 * _PIXELS),
        (Case("augmented on the host", partial(setting.count, setting.load()), plain), 4 * _PIXELS),
        (Case("left there", partial(setting.count, setting.load(device="cpu"))), 4 * _PIXELS),
        (Case("augmented on the device", partial(setting.count, there), pixels), _PIXELS),
    ]


def make_copies(setting: Setting, item: int) -> Callable[[], int]:
    """Copy an epoch of batches, with their labels, from memory that is pinned for good."""
    device, batch = setting.device, setting.sizes.batch
    nbytes = batch * (item * _PIXELS + 8)
    pinned = device.type == "cuda"
    sources = [torch.zeros(nbytes, dtype=torch.uint8, pin_memory=pinned) for _ in range(4)]
    targets = [torch.empty_like(source, device=device) for source in sources]
    count = len(setting.split) // batch

    def run() -> int:
        for number in range(count):
            targets[number % 4].copy_(sources[number % 4], non_blocking=True)
        setting.synchronize()
        return count * batch

    return run


# ---- pixels that live on the device --------------------------------------------------------------


def list_residents(setting: Setting) -> list[tuple[Case, int]]:
    """Compare resident pixels with airbench's scheme, and with what the device's memory can do.

    A copy within the device counts as many images as the kernel would read and write as many bytes
    for, so that a ratio of images is one of bandwidths. The kernel alone shows what is left where
    Python, and what is drawn and looked up on the host, do not matter.
    """
    batch, large = setting.sizes.batch, setting.sizes.large
    whole = setting.load(resident=True, batch_size=large)
    several = setting.load(resident=True)
    narrow = f"{_COPY}, as for bfloat16"
    kernels = [
        ("float32", False, _COPY, 5),
        ("bfloat16", False, narrow, 3),
        ("bfloat16", True, narrow, 3),
    ]
    return [
        (Case(_SCHEME, partial(setting.count, make_scheme(setting))), 3 * _PIXELS),
        (
            Case("as airbench", partial(setting.count, load_like_scheme(setting)), _SCHEME, 3.0),
            3 * _PIXELS,
        ),
        (Case(_COPY, make_device_copy(setting, 5)), 5 * _PIXELS),
        (Case(narrow, make_device_copy(setting, 3)), 3 * _PIXELS),
        (Case(f"batches of {large}", partial(setting.count, whole), _COPY, 0.6), 5 * _PIXELS),
        (
            Case(
                f"batches of {batch}, several a launch", partial(setting.count, several), _COPY, 0.6
            ),
            5 * _PIXELS,
        ),
        *(
            (
                Case(
                    f"kernel alone, {dtype}{', channels_last' if last else ''}",
                    make_launches(setting, dtype, last),
                    base,
                ),
                size * _PIXELS,
            )
            for dtype, last, base, size in kernels
        ),
    ]


def load_like_scheme(setting: Setting) -> cinicpack.Loader:
    augment = cinicpack.Augment(padding_mode="reflect", flip="alternating")
    return setting.load(resident=True, augment=augment, dtype="float16", channels_last=True)


def make_scheme(setting: Setting) -> "WholeSet":
    return WholeSet(setting.split, setting.device, setting.sizes.batch)


class WholeSet:
    """The scheme of airbench's CifarLoader, written anew.

    Normalised, mirrored at random and padded once, for good; cropped as a whole set before each
    epoch, and mirrored in every other one; batches are rows of that.
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
        """Crop all images, those with the same offset together: first rows, then columns."""
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


def make_device_copy(setting: Setting, size: int) -> Callable[[], int]:
    """Copy within the device, and count ``size`` bytes read or written as a pixel."""
    nbytes = setting.sizes.large * _PIXELS * 4
    source = torch.zeros(nbytes, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)

    def run() -> int:
        for _ in range(32):
            target.copy_(source)
        setting.synchronize()
        return 32 * 2 * nbytes // (size * _PIXELS)

    return run


def make_launches(setting: Setting, dtype: str, channels_last: bool) -> Callable[[], int]:
    """Launch the fused kernel on a whole epoch at once, without a loader."""
    loader = setting.load(resident=True, dtype=dtype, channels_last=channels_last)
    maker: Any = loader._maker
    samples = maker._samples
    positions = np.random.default_rng(0).permutation(len(samples))
    draws = np.empty((len(positions), 5), np.int32)
    samples.draw(positions, 0, draws)
    arguments = (
        maker._resident,
        torch.from_numpy(positions).to(setting.device),
        torch.from_numpy(draws).to(setting.device),
        place_constants(samples.transform, setting.device),
        samples.transform,
        getattr(torch, dtype),
        channels_last,
    )

    def run() -> int:
        for _ in range(8):
            augment_pixels(*arguments)
        setting.synchronize()
        return 8 * len(positions)

    return run


def compare_memory(setting: Setting) -> dict[str, Any]:
    """Find the most memory that an epoch takes on the device."""
    if setting.device.type == "cpu":
        return {}
    scheme = measure_memory(setting, make_scheme)
    resident = measure_memory(setting, load_like_scheme)
    return {
        "airbench_mb": round(scheme),
        "resident_mb": round(resident),
        "ratio": round(resident / scheme, 3),
        "wanted": 0.333,
        "reached": resident / scheme <= 1 / 3,
    }


def measure_memory(setting: Setting, make: Callable[[Setting], Any]) -> float:
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_stats(setting.device)["active_bytes.all.current"]
    loader = make(setting)
    setting.count(loader)
    # What is needed once, to begin with, does not count.
    torch.cuda.reset_peak_memory_stats(setting.device)
    setting.count(loader)
    # Active, not allocated: with what is freed but may not be used again yet.
    most = torch.cuda.memory_stats(setting.device)["active_bytes.all.peak"]
    return float(most - before) / 1e6


# ---- in a training loop --------------------------------------------------------------------------


def list_trainings(setting: Setting) -> list[tuple[Case, int]]:
    """Compare a training loop that is fed by each path with one that has its only batch already."""
    train = make_training(setting)
    options: dict[str, Any] = {"dtype": "bfloat16", "channels_last": True, "drop_last": True}
    first = setting.load(**options)
    batch = next(iter(first))
    cached = partial(train, [batch] * len(first))
    paths: dict[str, dict[str, Any]] = {
        "augmented on the host": {},
        "augmented on the device": {"augment_on": "device"},
        "resident": {"resident": True},
    }
    return [
        (Case(_CACHED, cached), 2 * _PIXELS),
        *(
            (Case(name, partial(train, loader), _CACHED, round(1 / 1.02, 3)), 2 * _PIXELS)
            for name, path in paths.items()
            for loader in [setting.load(**options, **path)]
        ),
    ]


def make_training(setting: Setting) -> Callable[[Iterable[Any]], int]:
    """Make a function that trains a ResNet-18 for an epoch, and returns how many images it saw."""
    torch.backends.cudnn.benchmark = True
    model = make_resnet18(setting.sizes.width, len(setting.split.pack.classes))
    model.to(setting.device, torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

    def train(batches: Iterable[Any]) -> int:
        count = 0
        for images, labels in batches:
            loss = functional.cross_entropy(model(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            count += len(labels)
        setting.synchronize()
        return count

    return train


def make_resnet18(width: int, num_classes: int) -> nn.Sequential:
    """Make the network for images of 32x32 that papers on CIFAR-10 call ResNet-18."""
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    blocks = [
        Block(inputs, outputs, stride=1 if number == 0 else 2)
        if first
        else Block(outputs, outputs, stride=1)
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths))
        for first in (True, False)
    ]
    return nn.Sequential(
        *make_convolution(3, width),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, num_classes),
    )


class Block(nn.Module):
    """Two convolutions beside a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *make_convolution(inputs, outputs, stride=stride),
            nn.ReLU(),
            *make_convolution(outputs, outputs),
        )
        self.way = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.way = nn.Sequential(*make_convolution(inputs, outputs, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = functional.relu(self.body(x) + self.way(x))
        return out


def make_convolution(
    inputs: int, outputs: int, size: int = 3, stride: int = 1
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


if __name__ == "__main__":
    main()
