"""In a training loop: what a network waits for, and what it learns from real images."""

import itertools
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import cinicpack
from benchmarks.gpu.setting import PIXELS, Row, Setting
from benchmarks.race import Case
from benchmarks.report import say

__all__ = ["list_rows", "train_on"]

_CACHED = "one cached batch"
_TRAINED: dict[str, Any] = {"dtype": "bfloat16", "channels_last": True, "drop_last": True}


def list_rows(setting: Setting) -> list[Row]:
    """Compare a training loop that is fed by each path with one that has its only batch already.

    A run is one epoch of every second image: training on them takes about a second on an H100.
    """
    half = setting.split.select(indices=range(0, len(setting.split), 2))
    setting = setting._replace(split=half)
    train = _make_training(setting)
    first = setting.load(**_TRAINED)
    batch = next(iter(first))
    cached = partial(train, [batch] * len(first))
    first.close()
    paths: dict[str, dict[str, Any]] = {
        "augmented on the host": {},
        "augmented on the device": {"augment_on": "device"},
        "resident": {"resident": True},
    }
    rows = [Row(Case(_CACHED, cached), 2 * PIXELS, 0)]
    for name, path in paths.items():
        loader = setting.load(**_TRAINED, **path)
        row = setting.time_loader(name, loader, 2 * PIXELS, _CACHED, round(1 / 1.02, 3))
        rows.append(row._replace(case=row.case._replace(run=partial(train, loader))))
    return rows


def train_on(pack: cinicpack.Pack, setting: Setting, epochs: int) -> dict[str, Any]:
    """Train a ResNet-18 on a pack's train split, and measure its accuracy on the test split.

    The optimizer is SGD with momentum 0.9, weight decay 5e-4 and one cycle of a learning rate of at
    most 0.4; autocast computes in bfloat16. The accuracy is measured once, after the last epoch.
    """
    device, batch = setting.device, setting.sizes.batch
    options: dict[str, Any] = {"batch_size": batch, "device": device, "channels_last": True}
    loader = cinicpack.Loader(
        pack,
        "train",
        augment=cinicpack.Augment(),
        drop_last=True,
        num_workers=setting.threads,
        resident=True,
        **options,
    )
    torch.manual_seed(0)
    model = _make_resnet18(setting.sizes.width, len(pack.classes))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), 0.4, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    steps = max(epochs * len(loader), 2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=steps)
    start = time.perf_counter()
    losses = []
    for epoch in range(epochs):
        for images, labels in loader:
            with torch.autocast(device.type, torch.bfloat16):
                loss = functional.cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        losses.append(round(loss.item(), 3))
        say(f"epoch {epoch + 1} of {epochs}: loss {losses[-1]}")
    seconds = time.perf_counter() - start
    loader.close()
    return {
        "network": f"ResNet-18, {setting.sizes.width} channels",
        "images": len(pack["train"]),
        "epochs": epochs,
        "batch_size": batch,
        "seconds": round(seconds, 1),
        "images_s": round(epochs * len(loader) * batch / seconds),
        "loss": losses,
        "test_accuracy": round(_measure_accuracy(model, pack, options), 4),
    }


@torch.no_grad()
def _measure_accuracy(model: nn.Module, pack: cinicpack.Pack, options: dict[str, Any]) -> float:
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=options["device"])
    for images, labels in cinicpack.Loader(pack, "test", shuffle=False, **options):
        with torch.autocast(images.device.type, torch.bfloat16):
            right += (model(images).argmax(1) == labels).sum()
    return right.item() / len(pack["test"])


def _make_training(setting: Setting) -> Callable[[Iterable[Any]], int]:
    """Make a function that trains a ResNet-18 for an epoch, and returns how many images it saw."""
    torch.backends.cudnn.benchmark = True
    model = _make_resnet18(setting.sizes.width, len(setting.split.pack.classes))
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


def _make_resnet18(width: int, num_classes: int) -> nn.Sequential:
    """Make the network for images of 32x32 that papers on CIFAR-10 call ResNet-18."""
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    blocks = [
        _Block(inputs, outputs, stride=1 if number == 0 else 2)
        if first
        else _Block(outputs, outputs, stride=1)
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths))
        for first in (True, False)
    ]
    return nn.Sequential(
        *_make_convolution(3, width),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, num_classes),
    )


class _Block(nn.Module):
    """A residual block: two convolutions, and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_make_convolution(inputs, outputs, stride=stride),
            nn.ReLU(),
            *_make_convolution(outputs, outputs),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*_make_convolution(inputs, outputs, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = functional.relu(self.body(x) + self.shortcut(x))
        return out


def _make_convolution(
    inputs: int, outputs: int, size: int = 3, stride: int = 1
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs)
