"""Train a small network on several ranks, and test it on each source of CINIC-10.

    torchrun --nproc-per-node 2 examples/train_ddp.py [PACK]

Without a pack it makes a small synthetic one. It runs on the CPU, or on a GPU per rank.
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

# Import torch.distributed.nn before a process group exists, as DistributedDataParallel would later:
# defaults of its functions would then keep the group, whose threads abort if they need the
# interpreter after its end.
import torch.distributed.nn
from torch import distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import cinicpack
from cinicpack.synthetic import write_tree


def main() -> None:
    """Train, and print loss and accuracy after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("pack", nargs="?", help="a pack with splits train and test")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64, help="per rank (default: 64)")
    parser.add_argument("--lr", type=float, default=0.005, help="at its highest (default: 0.005)")
    args = parser.parse_args()

    device = choose_device(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))
    distributed.init_process_group("gloo" if device.type == "cpu" else "nccl")
    with tempfile.TemporaryDirectory(prefix="cinicpack-ddp-") as folder:
        try:
            pack = cinicpack.open_pack(args.pack or share_demo(Path(folder)))
            train(pack, device, args.epochs, args.batch_size, args.lr)
        finally:
            distributed.destroy_process_group()


def choose_device(rank: int, ranks: int) -> torch.device:
    """Choose the GPU of a rank, one of ``ranks`` on this machine; the CPU where there is no GPU."""
    count = torch.cuda.device_count()
    if not count:
        return torch.device("cpu")
    if ranks > count:
        raise SystemExit(
            f"expected a GPU for each of the {ranks} ranks on this machine, found {count}; start "
            f"{count} (torchrun --nproc-per-node {count}), or hide the GPUs to train on the CPU "
            "(CUDA_VISIBLE_DEVICES=)"
        )
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def share_demo(folder: Path) -> str:
    """Make a pack on rank 0 and tell every rank where it is."""
    message = [""]
    if distributed.get_rank() == 0:
        print("making a synthetic pack of 4,000 images", flush=True)
        write_tree(folder / "tree", 200, splits=["train", "test"])
        with warnings.catch_warnings():
            # pack() warns that the tree is smaller than CINIC-10.
            warnings.simplefilter("ignore")
            made = cinicpack.pack(folder / "tree", folder / "demo.pack", progress=False)
        message = [str(made.path)]
    distributed.broadcast_object_list(message)
    return message[0]


def train(
    pack: cinicpack.Pack, device: torch.device, epochs: int, batch_size: int, lr: float
) -> None:
    """Train on a pack's train split; every rank calls it."""
    # Every loader takes rank and world size from torch.distributed.
    loader = cinicpack.Loader(
        pack,
        "train",
        batch_size=batch_size,
        augment=cinicpack.Augment(),
        drop_last=True,
        device=device,
    )
    tests = {
        source: cinicpack.Loader(
            pack, "test", source=source, shuffle=False, batch_size=500, device=device
        )
        for source in ("cifar10", "imagenet")
    }
    torch.manual_seed(0)
    network = make_network(len(pack.classes)).to(device)
    model = DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        start = time.perf_counter()
        network.train()
        total = torch.zeros((), device=device)
        for images, labels in loader:
            loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.detach()
        seconds = time.perf_counter() - start
        distributed.all_reduce(total)
        scores = {source: measure(network, loader, device) for source, loader in tests.items()}
        if distributed.get_rank() == 0:
            shown = ", ".join(f"{source} {score:.1%}" for source, score in scores.items())
            mean = total.item() / (len(loader) * distributed.get_world_size())
            print(f"epoch {epoch}: {seconds:.1f} s, loss {mean:.3f}, accuracy {shown}", flush=True)


def make_network(num_classes: int) -> nn.Sequential:
    """Make a convolutional network for images of 32x32, with 60,000 parameters."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 64, num_classes))


@torch.no_grad()
def measure(
    network: nn.Module, loader: Iterable[tuple[torch.Tensor, torch.Tensor]], device: torch.device
) -> float:
    """Return the share of a loader's images, over all ranks, that the network gets right.

    No image is counted twice: ranks have no more than their share, which may be an empty batch.
    """
    network.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=device)
    for images, labels in loader:
        right = network(images).argmax(1) == labels
        counts += torch.stack([right.sum(), torch.tensor(len(right), device=device)])
    distributed.all_reduce(counts)
    return (counts[0] / counts[1]).item()


if __name__ == "__main__":
    main()
