"""What the runner and a rival say to each other: one JSON object a line, over pipes."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Data", "serve"]


class Data(NamedTuple):
    """What every rival loads from, and where it may keep what it makes of it.

    Attributes:
        tree: the train split as PNG files, CLASS/NAME.png.
        images: the same images as one .npy file, uint8 (N, 3, H, W), sorted by class and name.
        labels: their classes as one .npy file, uint8 (N,).
        pack: the same images as a cinicpack pack.
        own: a folder for this rival's own format.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel, for pixels in [0, 1].
        workers: how many cores there are for the loader.
    """

    tree: Path
    images: Path
    labels: Path
    pack: Path
    own: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    workers: int


_PATHS = ("tree", "images", "labels", "pack", "own")

Batches = Iterable[tuple[Any, Any]]


def serve(
    open_loader: Callable[..., Batches], prepare: Callable[[Data], None] | None = None
) -> None:
    """Answer the runner until it closes the pipe.

    Args:
        open_loader: is given `Data` and what the row says (batch size, dtype, ...); each iteration
            of what it returns is one epoch of (images, labels).
        prepare: writes what the rival reads, once.
    """
    # Libraries print; what they print goes to the log and not between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loader: Batches = ()
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        try:
            answer: dict[str, Any] = {}
            match request.pop("do"):
                case "prepare":
                    if prepare is not None:
                        prepare(_data(request))
                case "open":
                    loader = open_loader(_data(request.pop("data")), **request)
                case "sample":
                    answer = _sample(loader, **request)
                case "round":
                    answer = _round(loader, **request)
            answer["wall"] = round(time.perf_counter() - start, 3)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


def _data(fields: dict[str, Any]) -> Data:
    values: dict[str, Any] = {
        key: Path(value) if key in _PATHS else value for key, value in fields.items()
    }
    return Data(**values)


def _round(loader: Batches, seconds: float) -> dict[str, Any]:
    """Run whole epochs, one after the other, until ``seconds`` are over."""
    count = epochs = 0
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or not epochs:
        for _, labels in loader:
            count += len(labels)
        epochs += 1
    return {"images": count, "seconds": spent, "epochs": epochs}


def _sample(loader: Batches, path: str, count: int) -> dict[str, Any]:
    """Save the first images of an epoch, then run it to its end; when did the first batch come?"""
    kept: list[tuple[Any, Any]] = []
    start = time.perf_counter()
    first, have, total, last = 0.0, 0, 0, 0
    for images, labels in loader:
        first = first or time.perf_counter() - start
        if have < count:
            # A copy: some rivals use a batch's memory again.
            kept.append((_as_array(images).copy(), _as_array(labels).copy()))
            have += len(labels)
        last = len(labels)
        total += last
    images, labels = (np.concatenate(parts)[:count] for parts in zip(*kept, strict=True))
    np.savez(path, images=images, labels=labels)
    return {"first": round(first, 4), "images": total, "last_batch": last}


def _as_array(values: Any) -> Any:
    # NumPy knows no bfloat16.
    if str(getattr(values, "dtype", "")) == "torch.bfloat16":
        values = values.float()
    return np.asarray(values)
