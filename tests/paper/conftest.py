from pathlib import Path

import pytest
import torch

import cinicpack
from cinicpack.synthetic import write_tree


@pytest.fixture(scope="session")
def cinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousandth of CINIC-10: 90 images of 32x32 in each of three splits; do not change it."""
    folder = tmp_path_factory.mktemp("paper")
    pack = folder / "tiny.pack"
    write_tree(folder / "tree", 9)
    with pytest.warns(UserWarning, match="like CINIC-10, but"):
        cinicpack.pack(folder / "tree", pack, progress=False)
    return pack


@pytest.fixture(autouse=True)
def _one_thread():
    """Compute on one thread: two wait for each other longer than so little work takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
