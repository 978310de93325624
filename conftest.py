"""What the examples in docstrings find in the folder that they run in."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousandth of CINIC-10, as a tree, an archive and a pack."""
    # Imported here, since the tests of the GPU run where Pillow may be missing.
    import cinicpack
    from cinicpack.synthetic import write_tree

    folder = tmp_path_factory.mktemp("examples")
    write_tree(folder / "CINIC-10", 9)
    shutil.make_archive(str(folder / "CINIC-10"), "gztar", folder / "CINIC-10")
    with pytest.warns(UserWarning, match="like CINIC-10, but"):
        cinicpack.pack(folder / "CINIC-10", folder / "cinic10.pack", progress=False)
    return folder


@pytest.fixture(autouse=True)
def _example(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run an example in a folder of its own with ``CINIC-10``, its archive and ``cinic10.pack``."""
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    data: Path = request.getfixturevalue("_data")
    folder: Path = request.getfixturevalue("tmp_path")
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name in ("CINIC-10", "CINIC-10.tar.gz"):
        (folder / name).symlink_to(data / name)
    shutil.copytree(data / "cinic10.pack", folder / "cinic10.pack")
    monkeypatch.chdir(folder)
    yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let examples pack the small CINIC-10 without the warning that it is small."""
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.filterwarnings("ignore:.*like CINIC-10, but"))


def pytest_collect_file(file_path: Path) -> None:
    """Let ``cinicpack.lightning`` be imported also where torchvision's operators do not load."""
    if file_path.name == "lightning.py":
        from tests.torchvision_here import import_torchvision

        with suppress(pytest.skip.Exception):
            import_torchvision()
