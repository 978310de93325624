"""A run that is killed at random moments, and ends as if it had not been.

python -m tests.paper.killing PACK [KILLS [SEED]]
"""

import hashlib
import os
import random
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cinicpack
from benchmarks.paper.plan import Plan
from benchmarks.paper.recipe import Recipe
from benchmarks.paper.train import train

PLAN = Plan("resnet7", recipe=Recipe(epochs=2, batch_size=8), hold_out=0.1)
TIMES = ("images_s", "seconds", "waited_s", "cpu_seconds")


def main(pack: str, kills: str = "20", seed: str = "0") -> None:
    torch.set_num_threads(1)
    # Load the loader's kernels once: the processes that are forked off have them then.
    with cinicpack.Loader(pack) as loader:
        next(iter(loader))
    draw = random.Random(int(seed))
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name, "whole")
        assert not run(pack, whole, kill_at=None)
        ends = 0
        broken = Path(name, "0")
        for _ in range(int(kills)):
            # A run that ended before it could be killed is compared, and another one begun.
            while not run(pack, broken, kill_at=draw.randint(1, 20)):
                compare(broken, whole)
                ends += 1
                broken = Path(name, str(ends))
        run(pack, broken, kill_at=None)
        compare(broken, whole)
    print(f"{kills} kills, {ends + 1} runs: all equal")


def run(pack: str, folder: Path, kill_at: int | None) -> bool:
    """Train in a process of its own; return whether it was killed, at the event of that number.

    Events are steps, and files that are about to be replaced. A fork starts at once, where a new
    process would have to import torch.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os._exit(train_and_tell(pack, folder, writing))
    os.close(writing)
    with open(reading, "rb", buffering=0) as events:
        count = 0
        while events.read(1):
            count += 1
            if count == kill_at:
                os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def train_and_tell(pack: str, folder: Path, writing: int) -> int:
    """Train, and write a byte at every event."""
    sync = os.fsync

    def tell_of_file(file: Any) -> None:
        os.write(writing, b"f")
        sync(file)

    def tell_of_step(module: nn.Module, _: tuple[Tensor, ...]) -> None:
        if module.training and isinstance(module, nn.Conv2d) and module.in_channels == 3:
            os.write(writing, b"s")

    os.fsync = tell_of_file  # type: ignore[assignment]
    nn.modules.module.register_module_forward_pre_hook(tell_of_step)
    try:
        train(PLAN, cinicpack.open_pack(pack), torch.device("cpu"), folder, every=2)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def compare(folder: Path, other: Path) -> None:
    ours, theirs = (digest(each / f"{PLAN.name}.pt") for each in (folder, other))
    assert ours == theirs, f"{ours} and not {theirs}"


def digest(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of everything in a checkpoint but the times."""
    state = torch.load(checkpoint, weights_only=True)
    for entry in state["history"]:
        for name in TIMES:
            del entry[name]
    del state["tally"]
    digests = {}
    for name, value in state.items():
        hashed = hashlib.sha256()
        feed(hashed, value)
        digests[name] = hashed.hexdigest()
    return digests


def feed(hashed: Any, value: Any) -> None:
    """Hash a value, whatever is nested in it."""
    if isinstance(value, Tensor):
        hashed.update(f"{value.dtype}{tuple(value.shape)}".encode())
        hashed.update(value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for name, each in value.items():
            hashed.update(repr(name).encode())
            feed(hashed, each)
    elif isinstance(value, list | tuple):
        for each in value:
            feed(hashed, each)
    else:
        hashed.update(repr(value).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
