"""The device of a process: which one it is, its ranks, and how it computes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Import torch.distributed.nn before a process group exists, as DistributedDataParallel would later:
# defaults of its functions would then keep the group, whose threads abort if they need the
# interpreter after its end.
import torch.distributed.nn
from torch import distributed

__all__ = ["count_ranks", "is_first", "name_device", "open_device", "set_arithmetic"]


@contextmanager
def open_device(name: str) -> Iterator[torch.device]:
    """Open the device of this process; under torchrun, that of its rank, in a process group."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("expected a GPU for --device cuda, found none; pass --device cpu")
    is_rank = "RANK" in os.environ
    if device.type == "cuda":
        number = int(os.environ["LOCAL_RANK"]) if is_rank else device.index or 0
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    if not is_rank:
        yield device
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def count_ranks() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def name_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def set_arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Compute in this precision, and on the CPU bit for bit the same each time."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = precision != "fp32"
    else:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        if device.type == "cuda":
            torch.set_float32_matmul_precision(matmul)
            torch.backends.cudnn.allow_tf32 = convolution
