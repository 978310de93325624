from pathlib import Path

import pytest
from hypothesis import settings

import cinicpack
from cinicpack.synthetic import write_tree

# A test that is slow once, since the machine is busy, has not failed.
settings.register_profile("cinicpack", deadline=None)
settings.load_profile("cinicpack")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits of two classes of six images of 12x12 pixels; do not change it."""
    root = tmp_path_factory.mktemp("tree") / "tree"
    write_tree(root, 6, classes=("airplane", "cat"), size=12)
    # One name that is not CINIC-10's, for this would else be a CINIC-10 without eight classes.
    last = max((root / "valid" / "cat").iterdir())
    last.rename(last.with_stem("z"))
    return root


@pytest.fixture(scope="session")
def npy_pack(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That tree as a directory of npy files; do not change it."""
    path = tmp_path_factory.mktemp("npy") / "small.pack"
    cinicpack.pack(tree, path, progress=False)
    return path


@pytest.fixture(scope="session")
def sharded_pack(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in shards of five images, of which each split has three."""
    path = tmp_path_factory.mktemp("sharded") / "small.pack"
    cinicpack.pack(tree, path, shard_rows=5, progress=False)
    return path


@pytest.fixture(scope="session")
def hdf5_pack(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as an HDF5 file."""
    path = tmp_path_factory.mktemp("hdf5") / "small.h5"
    cinicpack.pack(tree, path, format="hdf5", progress=False)
    return path


@pytest.fixture(params=["npy_pack", "sharded_pack", "hdf5_pack"])
def any_pack(request: pytest.FixtureRequest) -> Path:
    """Each of the three."""
    path: Path = request.getfixturevalue(request.param)
    return path
