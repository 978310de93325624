"""Train one network on the images of many clients, which they keep to themselves.

    python examples/federated.py [PACK] [--clients N] [--alpha A] [--rounds N]

Federated averaging: in every round some clients train the network of the last one on images of
their own, and their networks are averaged. Without a PACK, a small synthetic one is made and thrown
away again.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import cinicpack
from cinicpack.synthetic import write_tree


def main() -> None:
    """Train, and print the accuracy on the test split after every round."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("pack", nargs="?", help="a pack with splits train and test")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--alpha", type=float, default=0.5, help="the smaller, the less alike")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--per-round", type=int, default=10, help="clients that train in a round")
    parser.add_argument("--epochs", type=int, default=2, help="of a client in a round")
    parser.add_argument("--lr", type=float, default=0.05)
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
    """Let the clients of a pack's train split train a network together."""
    clients = pack["train"].partition(arguments.clients, "dirichlet", alpha=arguments.alpha)
    sizes = [len(client) for client in clients]
    print(f"{len(clients)} clients with {min(sizes):,} to {max(sizes):,} images")
    # A loader that is kept augments and shuffles anew whenever its client trains again.
    loaders = [
        cinicpack.Loader(pack, client, batch_size=32, augment=cinicpack.Augment())
        for client in clients
    ]
    test = cinicpack.Loader(pack, "test", batch_size=512, shuffle=False)
    torch.manual_seed(0)
    network = make_network(len(pack.classes))
    for number in range(1, arguments.rounds + 1):
        start = time.perf_counter()
        chosen = torch.randperm(len(loaders))[: arguments.per_round].tolist()
        train_round(network, [loaders[each] for each in chosen], arguments.epochs, arguments.lr)
        accuracy, seconds = measure(network, test), time.perf_counter() - start
        print(f"round {number}: test accuracy {accuracy:.1%} ({seconds:.1f} s)", flush=True)


def make_network(num_classes: int) -> nn.Sequential:
    """Make a convolutional network without statistics of batches, which clients do not share."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.GroupNorm(8, 32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.GroupNorm(8, 64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 8 * 8, num_classes),
    )


def train_round(
    network: nn.Module, loaders: Sequence[cinicpack.Loader], epochs: int, lr: float
) -> None:
    """Train a network on each client by itself; average what comes out, by the clients' sizes."""
    start = parameters_to_vector(network.parameters()).detach()
    sizes = [len(loader.split) for loader in loaders]
    mean = torch.zeros_like(start)
    for loader, size in zip(loaders, sizes, strict=True):
        vector_to_parameters(start.clone(), network.parameters())
        train_client(network, loader, epochs, lr)
        mean += parameters_to_vector(network.parameters()).detach() * (size / sum(sizes))
    vector_to_parameters(mean, network.parameters())


def train_client(network: nn.Module, loader: cinicpack.Loader, epochs: int, lr: float) -> None:
    """Train a network on the images of one client."""
    optimizer = torch.optim.SGD(network.parameters(), lr)
    for _ in range(epochs):
        for images, labels in loader:
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@torch.inference_mode()
def measure(network: nn.Module, loader: cinicpack.Loader) -> float:
    """Return the share of a loader's images that the network gets right."""
    right = [network(images).argmax(1) == labels for images, labels in loader]
    return torch.cat(right).float().mean().item()


if __name__ == "__main__":
    main()
