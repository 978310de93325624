import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import cinicpack
from cinicpack.cinic10 import CLASSES
from cinicpack.errors import DestinationError, SourceError
from cinicpack.fetch import ready
from cinicpack.fetch.kinds import PARQUET
from cinicpack.fetch.mirrors import Mirror, RemoteFile
from cinicpack.fetch.ready import make_ready
from cinicpack.formats.png import encode_pngs
from tests.fetch.server import CONTENT, HURRY, Server


@pytest.fixture
def data(server: Server) -> ready.DataSet:
    """CINIC-10 as the server has it."""
    mirror = Mirror("official", "first.org", (server.remote(),), len(CONTENT))
    return ready.CINIC10._replace(mirrors=(mirror,))


def prepare(root: Path, data: ready.DataSet, *, download: bool = False) -> Path:
    return make_ready(root, data, download=download, progress=False, patience=HURRY)


def test_it_is_downloaded_and_packed_once(server, data, tmp_path):
    root = tmp_path / "new" / "folder"
    made = prepare(root, data, download=True)
    assert made == root / "cinic10.pack"
    assert len(cinicpack.open_pack(made)["train"]) == 120
    assert sorted(os.listdir(root)) == ["CINIC-10.tar.gz", "cinic10.pack"]
    before = made.stat()
    assert prepare(root, data, download=True) == made
    assert made.stat() == before
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["CINIC-10.tar.gz", "CINIC-10"])
def test_what_is_there_is_packed(server, data, tmp_path, tree, name):
    if name == "CINIC-10":
        shutil.copytree(tree, tmp_path / name)
    else:
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            archive.add(tree, "CINIC-10")
    made = cinicpack.open_pack(prepare(tmp_path, data, download=True))
    assert made.fingerprint == cinicpack.pack(tree, tmp_path / "a", progress=False).fingerprint
    assert server.requests == []


def test_what_was_left_beside_the_pack_is_removed(server, data, tmp_path, npy_pack):
    shutil.copytree(npy_pack, tmp_path / "cinic10.pack")
    for name in (".cinic10.pack.tmp", ".cinic10.pack.source.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cinicpack.lock").touch()
    shutil.copytree(npy_pack, tmp_path / ".cinic10.pack.tmp" / "new")
    prepare(tmp_path, data)
    assert os.listdir(tmp_path) == ["cinic10.pack"]


def test_the_pack_alone_is_enough(server, data, tmp_path, npy_pack):
    shutil.copytree(npy_pack, tmp_path / "cinic10.pack")
    assert prepare(tmp_path, data) == tmp_path / "cinic10.pack"
    assert sorted(os.listdir(tmp_path)) == ["cinic10.pack"]


def test_without_anything_it_is_said_what_to_put_where(tmp_path, data):
    with pytest.raises(
        SourceError,
        match=rf"^{tmp_path}: expected cinic10.pack, CINIC-10.tar.gz, CINIC-10 or CINIC-10-parquet "
        r"in it, found none; put one there, or have it downloaded with download=True",
    ):
        prepare(tmp_path, data)
    assert not list(tmp_path.iterdir())


def test_without_a_network_it_is_said_what_to_put_where(tmp_path, data, offline):
    offline()
    url = "https://nowhere.invalid/CINIC-10.tar.gz"
    file = data.mirrors[0].files[0]._replace(urls=(url,))
    nowhere = data._replace(mirrors=(data.mirrors[0]._replace(files=(file,)),))
    with pytest.raises(
        SourceError,
        match=rf"no address is known for nowhere.invalid .*; or put CINIC-10.tar.gz, CINIC-10 or "
        rf"CINIC-10-parquet into {tmp_path} yourself",
    ):
        prepare(tmp_path, nowhere, download=True)
    assert not list(tmp_path.iterdir())


def test_a_root_that_is_a_file(tmp_path, data):
    (tmp_path / "file").touch()
    with pytest.raises(DestinationError, match=r"file: expected a folder, or that it can be made"):
        prepare(tmp_path / "file", data, download=True)


def test_the_hubs_files_are_packed_where_they_can_be(server, data, tmp_path):
    pytest.importorskip("cinicpack.convert.parquet", reason="needs the source for parquet files")
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    [picture] = encode_pngs(np.zeros((1, 4, 4, 3), np.uint8))
    features = {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    files = []
    for split in ("train", "validation", "test"):
        rows = [{"bytes": picture, "path": f"cifar10-train-{label}.png"} for label in range(10)]
        table = arrow.table({"image": rows, "label": list(range(10))})
        said = json.dumps({"info": {"features": features}})
        out = io.BytesIO()
        parquet.write_table(table.replace_schema_metadata({"huggingface": said}), out)
        name = f"{split}-00000-of-00001.parquet"
        server.files[name] = out.getvalue()
        files.append(RemoteFile(name, (server.at(f"linked/{name}"),), PARQUET))
    total = sum(map(len, server.files.values()))
    hub = Mirror("hub", "second.org", tuple(files), total, "CINIC-10-parquet", "pyarrow")
    server.ends = [404]
    path = prepare(tmp_path, data._replace(mirrors=(*data.mirrors, hub)), download=True)
    assert cinicpack.open_pack(path).splits == ("train", "valid", "test")
    assert sorted(os.listdir(tmp_path)) == ["CINIC-10-parquet", "cinic10.pack"]


# Eight processes that start at the same moment: each says how many images it finds.
RANKS = """
import json, os, sys
from pathlib import Path

import cinicpack
from cinicpack.fetch import ready
from cinicpack.fetch.kinds import TAR_GZ
from cinicpack.fetch.mirrors import Mirror, RemoteFile
from cinicpack.fetch.transfer import Patience

root, name, urls, nbytes, digests = json.loads(sys.argv[1])
file = RemoteFile(name, tuple(urls), TAR_GZ, nbytes, tuple(map(tuple, digests)))
data = ready.CINIC10._replace(mirrors=(Mirror("official", "first.org", (file,), nbytes),))
reading, writing = os.pipe()
ranks = []
for rank in range(8):
    if not (process := os.fork()):
        os.close(writing)
        os.read(reading, 1)  # returns for all of them when the other end is closed
        path = ready.make_ready(
            Path(root), data, download=True, progress=False, patience=Patience((0,), 10)
        )
        os._exit(len(cinicpack.open_pack(path)["train"]))
    ranks.append(process)
os.close(writing)
print([os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks])
"""


def test_of_eight_ranks_one_makes_it_and_the_others_wait(server, data, tmp_path):
    file = server.remote()
    argument = json.dumps([str(tmp_path / "root"), file.name, file.urls, file.nbytes, file.digests])
    done = subprocess.run(
        [sys.executable, "-c", RANKS, argument], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{[120] * 8}\n", done.stderr
    assert server.requests == [None]
    assert sorted(os.listdir(tmp_path / "root")) == ["CINIC-10.tar.gz", "cinic10.pack"]


def test_what_another_rank_left_unfinished_is_finished(server, data, tmp_path):
    """A rank was killed in the middle: its lock file and its part of the archive are left."""
    (tmp_path / ".cinic10.pack.source.tmp").mkdir()
    (tmp_path / ".cinic10.pack.source.tmp" / "cinicpack.lock").touch()
    (tmp_path / "CINIC-10.tar.gz.part").write_bytes(CONTENT[:100_000])
    prepare(tmp_path, data, download=True)
    assert server.requests == ["bytes=100000-"]
    assert sorted(os.listdir(tmp_path)) == ["CINIC-10.tar.gz", "cinic10.pack"]
