"""Do two ranks learn from the global batches of one? ``python -m tests.paper.ranks PACK``."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.paper.__main__ import main as train

OPTIONS = ["--model", "resnet7", "--epochs", "2", "--batch-size", "16", "--device", "cpu"]


def main(pack: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        alone, together = Path(name, "alone"), Path(name, "together")
        module = ["tests.paper.ranks", pack]
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        for folder, command in ((alone, module), (together, [*launch, *module])):
            subprocess.run([sys.executable, "-m", *command, str(folder)], check=True)
        [one] = read(alone)
        first, second = read(together)
        assert [len(batch) for batch in one] == 2 * [16, 16, 16, 16, 16, 10]
        assert all(a and b for a, b in zip(first, second, strict=True))
        both = [sorted(a + b) for a, b in zip(first, second, strict=True)]
        assert both == [sorted(batch) for batch in one]
        for folder in (alone, together):
            report = json.loads((folder / "resnet7-train-0.json").read_text())
            assert report["images"] == {"train": 90, "valid": 90, "test": 90}
        print(f"the same {len(one)} batches")


def read(folder: Path) -> list[list[list[str]]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("seen-*"))]


def note(pack: str, folder: str) -> None:
    """Train, and write which images, by their digests, each step of this rank had."""
    torch.set_num_threads(1)
    steps: list[list[str]] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training and isinstance(module, nn.Conv2d) and module.in_channels == 3:
            pixels = [image.numpy().tobytes() for image in inputs[0]]
            steps.append([hashlib.sha256(each).hexdigest() for each in pixels])

    nn.modules.module.register_module_forward_pre_hook(look)
    train(["train", pack, *OPTIONS, "--output", folder])
    rank = os.environ.get("RANK", "0")
    Path(folder, f"seen-{rank}").write_text(json.dumps(steps))


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) == 2 else note(*sys.argv[1:])
