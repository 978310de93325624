"""Train on few labels and many images without: FixMatch.

    python examples/fixmatch.py [PACK] [--labelled N] [--steps N] [--threshold T] [--device cuda]

What the network is sure to see in a weakly varied image, it has to see in the same image varied
strongly. The average of its latest weights is what is tested. Without a PACK, a small synthetic one
is made and thrown away again; with one, put in a model worth training.
"""

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import cinicpack
from cinicpack.synthetic import write_tree

WEAK = cinicpack.Augment(padding_mode="reflect")
STRONG = cinicpack.Augment(crop_padding=8, padding_mode="reflect", cutout=16)


def main() -> None:
    """Train, and print now and then how far it is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("pack", nargs="?", help="a pack with splits train and test")
    parser.add_argument("--labelled", type=int, default=400, help="images with a label")
    parser.add_argument("--batch-size", type=int, default=64, help="of images with a label")
    parser.add_argument("--ratio", type=int, default=3, help="images without label for each with")
    parser.add_argument("--threshold", type=float, default=0.95, help="of being sure")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--report", type=int, default=100, help="steps between two lines")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pack = cinicpack.open_pack(arguments.pack or make_demo(Path(folder)))
        train(pack, arguments)


def make_demo(folder: Path) -> Path:
    """Make a pack of 8,000 synthetic images, each with something of its class in it."""
    write_tree(folder / "tree", per_class=400, splits=["train", "test"])
    with warnings.catch_warnings():
        # pack() warns that the tree is smaller than CINIC-10.
        warnings.simplefilter("ignore")
        return cinicpack.pack(folder / "tree", folder / "demo.pack", progress=False).path


def train(pack: cinicpack.Pack, arguments: argparse.Namespace) -> None:
    """Train a network on a pack's train split, of which only a part has labels."""
    split, device, size = pack["train"], arguments.device, arguments.batch_size
    with_labels, without = split.stratified(arguments.labelled / len(split))
    print(f"{len(with_labels):,} images with a label, {len(without):,} without")
    labelled = cinicpack.Loader(pack, with_labels, batch_size=size, augment=WEAK, device=device)
    unlabelled = cinicpack.Loader(
        pack, without, batch_size=arguments.ratio * size, views=[WEAK, STRONG], device=device
    )
    test = cinicpack.Loader(pack, "test", batch_size=512, shuffle=False, device=device)
    torch.manual_seed(0)
    network = make_network(len(pack.classes)).to(device)
    optimizer = torch.optim.SGD(
        network.parameters(), 0.03, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    latest = get_ema_multi_avg_fn(0.99)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=latest, use_buffers=True)
    batches = islice(zip(repeat(labelled), repeat(unlabelled), strict=True), arguments.steps)
    for step, ((images, labels), (weak, strong, hidden)) in enumerate(batches, start=1):
        # One pass, so that batch normalisation sees images of all kinds.
        outputs = network(torch.cat([images, weak, strong]))
        known, seen_weak, seen_strong = outputs.split([len(images), len(weak), len(strong)])
        agreement, guesses, sure = compare_views(seen_weak, seen_strong, arguments.threshold)
        loss = functional.cross_entropy(known, labels) + agreement
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update_parameters(network)
        if step % arguments.report == 0 or step == arguments.steps:
            # The hidden labels are looked at here only.
            right = (guesses == hidden)[sure].sum() / sure.sum().clamp(1)
            print(
                f"step {step}: loss {loss:.3f}, sure of {sure.float().mean():.0%}, of which "
                f"{right:.0%} right, test accuracy {measure(average, test):.1%}",
                flush=True,
            )


def repeat(loader: cinicpack.Loader) -> Iterator[Any]:
    """Give the batches of one epoch after the other, without end."""
    while True:
        yield from loader


def compare_views(
    weak: torch.Tensor, strong: torch.Tensor, threshold: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compare the logits (B, K) of two views.

    Returns the loss, which counts images whose weak view is sure of its class; the classes guessed
    from it (B,); and which of them are sure (B,).
    """
    confidence, guesses = weak.detach().softmax(1).max(1)
    sure = confidence >= threshold
    losses = functional.cross_entropy(strong, guesses, reduction="none")
    return (losses * sure).mean(), guesses, sure


def make_network(num_classes: int) -> nn.Sequential:
    """Make a convolutional network for images of 32x32."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 64)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, num_classes))


@torch.inference_mode()
def measure(network: nn.Module, loader: cinicpack.Loader) -> float:
    """Return the share of a loader's images that the network gets right."""
    network.eval()
    right = [network(images).argmax(1) == labels for images, labels in loader]
    network.train()
    return torch.cat(right).float().mean().item()


if __name__ == "__main__":
    main()
