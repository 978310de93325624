"""From the host to the device: the bus by itself, the cores by themselves, and both together."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.setting import PIXELS, Row, Setting
from cinicpack.jit import jit
from cinicpack.load.slabs import AHEAD

__all__ = ["list_rows"]

_FLOAT32, _UINT8 = "bus: plain pinned copy", "bus: plain pinned copy of uint8"


def list_rows(setting: Setting) -> list[Row]:
    """Compare what a loader hands over with plain copies of as many bytes from pinned memory.

    The bus and the cores are measured apart: "hand-off alone" is a loader whose kernels do nothing,
    so that its memory goes to the device as it is; batches of the rows that say "left there" stay
    in the host's memory.
    """
    raw: dict[str, Any] = {"dtype": "uint8", "augment": None, "device": "cpu"}
    return [
        setting.time_copies(_FLOAT32, _make_copies(setting, 4), 4 * PIXELS),
        setting.time_copies(_UINT8, _make_copies(setting, 1), PIXELS),
        setting.time_loader("hand-off alone", _load_idle(setting), 4 * PIXELS, _FLOAT32, 0.9),
        setting.time_loader("cores: augmented, left there", setting.load(device="cpu"), 4 * PIXELS),
        setting.time_loader("augmented on the host", setting.load(), 4 * PIXELS, _FLOAT32),
        setting.time_loader("cores: gathered, left there", setting.load(**raw), PIXELS),
        setting.time_loader(
            "augmented on the device", setting.load(augment_on="device"), PIXELS, _UINT8
        ),
    ]


def _load_idle(setting: Setting) -> Any:
    """Make a loader that leaves its memory as it is, and only sends it."""
    loader = setting.load()
    maker: Any = loader._maker
    samples = loader._samples
    maker._slabs.make_tasks = lambda work: samples.make_tasks(
        AHEAD, work.epoch, offset=work.offset, kernel=_leave
    )
    return loader


@jit
def _leave(_task: Any, _piece: Any) -> int:
    return 1


def _make_copies(setting: Setting, item: int) -> Callable[[], int]:
    """Make a function that copies epochs of batches and labels from memory that stays pinned."""
    batch = setting.sizes.batch
    sources = [setting.make_bytes(batch * (item * PIXELS + 8)) for _ in range(4)]
    targets = [torch.empty_like(source, device=setting.device) for source in sources]
    count = setting.sizes.epochs * (len(setting.split) // batch)

    def run() -> int:
        for number in range(count):
            targets[number % 4].copy_(sources[number % 4], non_blocking=True)
        setting.synchronize()
        return count * batch

    return run
