"""What the runner and a rival say to each other: one JSON object a line, over pipes."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
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
    # Send what libraries print to the log, so that it does not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    stream: Iterator[Any] = iter(())
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
                    stream = _repeat(open_loader(_data(request.pop("data")), **request))
                case "sample":
                    answer = _sample(stream, **request)
                case "round":
                    answer = _round(stream, **request)
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


def _repeat(loader: Batches) -> Iterator[tuple[Any, Any] | None]:
    """Give the batches of one epoch after the other, and None where one ends."""
    while True:
        yield from loader
        yield None


def _round(stream: Iterator[Any], seconds: float, limit: float) -> dict[str, Any]:
    """Go on for whole epochs until ``seconds`` are over, or just until ``limit`` is.

    Stopped in the middle of an epoch, a loader goes on from there in its next round: what it had
    made ahead then, it makes ahead again before this one ends.
    """
    count, spent, ended = 0, 0.0, False
    start = time.perf_counter()
    while not (ended and spent >= seconds) and spent < limit:
        batch = next(stream)
        ended = batch is None
        if batch is not None:
            count += len(batch[1])
        spent = time.perf_counter() - start
    return {"images": count, "seconds": spent}


def _sample(stream: Iterator[Any], path: str, count: int, whole: bool) -> dict[str, Any]:
    """Save the next ``count`` images; when did the first come, and how many has a whole epoch?"""
    kept: list[tuple[Any, Any]] = []
    start = time.perf_counter()
    first, total = 0.0, 0
    while (whole or total < count) and (batch := next(stream)) is not None:
        first = first or time.perf_counter() - start
        images, labels = batch
        if total < count:
            # Copy the batch, because some rivals use its memory again.
            kept.append((_as_array(images).copy(), _as_array(labels).copy()))
        total += len(labels)
    images, labels = (np.concatenate(parts)[:count] for parts in zip(*kept, strict=True))
    np.savez(path, images=images, labels=labels)
    return {"first": round(first, 4), "images": total}


def _as_array(values: Any) -> Any:
    # Widen bfloat16, which NumPy does not know.
    if str(getattr(values, "dtype", "")) == "torch.bfloat16":
        values = values.float()
    return np.asarray(values)
