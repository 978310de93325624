from pathlib import Path
from typing import Any

import pytest

import cinicpack
from benchmarks.gpu.images import make_noise
from cinicpack.cinic10 import CLASSES
from cinicpack.synthetic import write_tree


@pytest.fixture(scope="session", autouse=True)
def one_thread(one_thread_of_torch: None) -> None:
    pass


@pytest.fixture(scope="session")
def load_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits of ten classes of nine images of 32x32 pixels; do not change it."""
    root = tmp_path_factory.mktemp("load") / "tree"
    write_tree(root, 9)
    return root


def _pack(tree: Path, folder: Path, name: str, **options: Any) -> cinicpack.Pack:
    with pytest.warns(UserWarning, match="like CINIC-10, but"):
        return cinicpack.pack(tree, folder / name, progress=False, **options)


@pytest.fixture(scope="session")
def pack(load_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> cinicpack.Pack:
    return _pack(load_tree, tmp_path_factory.mktemp("npy"), "cinic.pack")


@pytest.fixture(scope="session")
def sharded_pack(load_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> cinicpack.Pack:
    return _pack(load_tree, tmp_path_factory.mktemp("sharded"), "cinic.pack", shard_rows=37)


@pytest.fixture(scope="session")
def hdf5_pack(load_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> cinicpack.Pack:
    return _pack(load_tree, tmp_path_factory.mktemp("hdf5"), "cinic.h5", format="hdf5")


@pytest.fixture(scope="session")
def odd_pack(tmp_path_factory: pytest.TempPathFactory) -> cinicpack.Pack:
    """Noise of 7x5 pixels."""
    path = tmp_path_factory.mktemp("odd") / "odd.pack"
    return cinicpack.pack_arrays({"train": make_noise(1, (7, 5))}, path, classes=CLASSES)


@pytest.fixture(scope="session")
def small_pack(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> cinicpack.Pack:
    return cinicpack.pack(tree, tmp_path_factory.mktemp("small") / "small.pack", progress=False)
