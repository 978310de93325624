"""Writers of the files that CIFAR, ImageNet32x32, CIFAR-10.1 and CIFAR-10-C are published in."""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cinicpack.formats.pickles import Value, dump_pickle

__all__ = [
    "COARSE",
    "FINE",
    "Drawn",
    "draw",
    "write_binary",
    "write_cifar10_1",
    "write_cifar10_c",
    "write_cifar100",
    "write_imagenet",
    "write_pickle",
]

# As many names as CIFAR-100 has, not in the order of the alphabet.
FINE = tuple(f"fine_{number * 37 % 100:02d}" for number in range(100))
COARSE = tuple(f"coarse_{number * 7 % 20:02d}" for number in range(20))


class Drawn(NamedTuple):
    """Images (n, side, side, 3) that are drawn, with their labels, and coarse ones."""

    labels: NDArray[np.int64]
    images: NDArray[np.uint8]
    coarse: NDArray[np.int64]

    @property
    def planes(self) -> NDArray[np.uint8]:
        """The images as the rows of the files."""
        return np.ascontiguousarray(self.images.transpose(0, 3, 1, 2)).reshape(len(self.images), -1)


def draw(count: int, seed: int, *, classes: int = 10, side: int = 32) -> Drawn:
    random = np.random.default_rng(seed)
    return Drawn(
        random.integers(0, classes, count),
        random.integers(0, 256, (count, side, side, 3), np.uint8),
        random.integers(0, 20, count),
    )


def write_pickle(path: Path, content: dict[str, Any], protocol: int | None = 2) -> None:
    """Write a pickle; with protocol None as Python 2 did, its texts being ``str`` of Python 2."""
    if protocol is not None:
        path.write_bytes(pickle.dumps(content, protocol))
        return

    def encode(value: Any) -> Value:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, list):
            return [encode(item) for item in value]
        return value  # type: ignore[no-any-return]

    path.write_bytes(dump_pickle({key.encode(): encode(value) for key, value in content.items()}))


def write_binary(path: Path, drawn: Drawn, *, coarse: bool = False) -> None:
    columns = [drawn.coarse, drawn.labels] if coarse else [drawn.labels]
    np.column_stack([*columns, drawn.planes]).astype(np.uint8).tofile(path)


def write_cifar100(root: Path, splits: dict[str, Drawn], layout: str) -> Path:
    """Write what cifar-100-python.tar.gz ("py") or cifar-100-binary.tar.gz ("bin") unpacks to."""
    folder = root / {"py": "cifar-100-python", "bin": "cifar-100-binary"}[layout]
    folder.mkdir(parents=True)
    if layout == "bin":
        (folder / "fine_label_names.txt").write_text("".join(f"{name}\n" for name in FINE))
        (folder / "coarse_label_names.txt").write_text("".join(f"{name}\n" for name in COARSE))
        for split, drawn in splits.items():
            write_binary(folder / f"{split}.bin", drawn, coarse=True)
        return folder
    names = {"fine_label_names": [*FINE], "coarse_label_names": [*COARSE]}
    write_pickle(folder / "meta", names, None)
    (folder / "file.txt~").write_bytes(b"")
    for split, drawn in splits.items():
        content = {
            "filenames": [f"{row}_s_000001.png" for row in range(len(drawn.labels))],
            "batch_label": f"{split}ing batch 1 of 1",
            "fine_labels": drawn.labels.tolist(),
            "coarse_labels": drawn.coarse.tolist(),
            "data": drawn.planes,
        }
        write_pickle(folder / split, content, None)
    return folder


def write_imagenet(path: Path, drawn: Drawn, protocol: int = 3) -> None:
    """Write one file of ImageNet32x32, whose labels are from 1: npz where the path ends so."""
    planes, labels = drawn.planes, drawn.labels + 1
    if path.suffix == ".npz":
        np.savez(path, data=planes, labels=labels)
    else:
        content = {"data": planes, "labels": labels.tolist(), "mean": planes.mean(0)}
        write_pickle(path, content, protocol)


def write_cifar10_1(folder: Path, versions: dict[str, Drawn]) -> Path:
    folder.mkdir(parents=True)
    for version, drawn in versions.items():
        np.save(folder / f"cifar10.1_{version}_data.npy", drawn.images)
        np.save(folder / f"cifar10.1_{version}_labels.npy", drawn.labels.astype(np.int32))
    return folder


def write_cifar10_c(folder: Path, corruptions: dict[str, Drawn]) -> Path:
    """Write CIFAR-10-C; the labels are those of the last corruption."""
    folder.mkdir(parents=True)
    for name, drawn in corruptions.items():
        np.save(folder / f"{name}.npy", drawn.images)
        np.save(folder / "labels.npy", drawn.labels)
    return folder
