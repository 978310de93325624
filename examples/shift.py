"""Train on one source of CINIC-10 and measure what that costs on the other.

    python examples/shift.py [PACK] [--train-on cifar10|imagenet] [--epochs N]

Without a PACK, a small synthetic one is made and thrown away again; with one, put in a model worth
training. Takes about 20 s on two cores.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import cinicpack
from cinicpack.study.shift import exchange_sources, format_accuracies, measure_accuracies
from cinicpack.synthetic import write_tree


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", nargs="?")
    parser.add_argument("--train-on", default="cifar10", choices=("cifar10", "imagenet"))
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        pack = cinicpack.open_pack(arguments.pack or make_demo(Path(folder)))
        train, same, other = exchange_sources(pack, arguments.train_on)
        print(f"{len(train)} images to train on, {len(same)} and {len(other)} to test on")
        model = train_model(pack, train, arguments.epochs)
        predictions = predict(model, pack, "test")
    print(format_accuracies(measure_accuracies(predictions, pack["test"])))


def make_demo(folder: Path) -> Path:
    """Make a pack of 3,240 synthetic images, each with something of its class in it."""
    write_tree(folder / "tree", per_class=108)
    with warnings.catch_warnings():
        # pack() warns that the tree is smaller than CINIC-10.
        warnings.simplefilter("ignore")
        return cinicpack.pack(folder / "tree", folder / "demo.pack", progress=False).path


def train_model(pack: cinicpack.Pack, split: cinicpack.Split, epochs: int) -> nn.Module:
    """Train a small network on a selection of images."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 8 * 8, len(pack.classes)),
    )
    loader = cinicpack.Loader(pack, split, batch_size=64, augment=cinicpack.Augment())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for _ in range(epochs):
        for images, labels in loader:
            loss = nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


@torch.inference_mode()
def predict(model: nn.Module, pack: cinicpack.Pack, split: str) -> np.ndarray:
    """Score every image of a split, in its order."""
    loader = cinicpack.Loader(pack, split, batch_size=512, shuffle=False)
    return torch.cat([model(images) for images, _ in loader]).numpy()


if __name__ == "__main__":
    main()
