from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import cinicpack
from cinicpack.synthetic import write_tree

# No deadline: an example that is slow once, on a busy machine, is no failure.
settings.register_profile("cinicpack", deadline=None)
settings.load_profile("cinicpack")


@pytest.fixture(scope="session")
def one_thread_of_torch() -> Iterator[None]:
    """Torch's own threads wait for each other, for long where other programs run too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits of two classes of six images of 12x12 pixels; do not change it."""
    root = tmp_path_factory.mktemp("tree") / "tree"
    write_tree(root, 6, classes=("airplane", "cat"), size=12)
    # One name that is not CINIC-10's: the tree would otherwise be a CINIC-10 without eight classes,
    # which is refused.
    last = max((root / "valid" / "cat").iterdir())
    last.rename(last.with_stem("z"))
    return root


@pytest.fixture(scope="session")
def npy_pack(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small tree as a directory of npy files; do not change it."""
    path = tmp_path_factory.mktemp("npy") / "small.pack"
    cinicpack.pack(tree, path, progress=False)
    return path


@pytest.fixture(scope="session")
def sharded_pack(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small tree in shards of five images, three in each split; do not change it."""
    path = tmp_path_factory.mktemp("sharded") / "small.pack"
    cinicpack.pack(tree, path, shard_rows=5, progress=False)
    return path


@pytest.fixture(scope="session")
def hdf5_pack(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small tree as an HDF5 file; do not change it."""
    path = tmp_path_factory.mktemp("hdf5") / "small.h5"
    cinicpack.pack(tree, path, format="hdf5", progress=False)
    return path


@pytest.fixture(params=["npy_pack", "sharded_pack", "hdf5_pack"])
def any_pack(request: pytest.FixtureRequest) -> Path:
    """Each pack of the small tree: npy, sharded npy and HDF5."""
    path: Path = request.getfixturevalue(request.param)
    return path
