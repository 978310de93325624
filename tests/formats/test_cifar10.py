import io
import subprocess
import tarfile
from shutil import which

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinicpack.errors import SourceError
from cinicpack.formats.cifar10 import (
    BLOB_IDS,
    Cifar10,
    Cifar10Set,
    compute_blob_id,
    read_batches,
    split_batches,
    write_batches,
)


def draw_set(count: int) -> Cifar10Set:
    records = np.random.default_rng(count).integers(0, 256, (count, 3073), np.uint8)
    records[:, 0] %= 10
    return Cifar10Set(np.arange(count), records, [b"%d.png" % row for row in range(count)])


@pytest.mark.parametrize("layout", ["bin", "py"])
def test_reading_gives_what_was_written(tmp_path, layout):
    cifar10 = Cifar10(draw_set(50), draw_set(10))
    write_batches(cifar10, tmp_path, layout)
    for mine, again in zip(cifar10, read_batches(tmp_path), strict=True):
        assert np.array_equal(mine.rows, again.rows)
        assert np.array_equal(mine.records, again.records)


@given(st.integers(0, 50_000), st.lists(st.integers(0, 49_999), max_size=20))
def test_rows_stay_in_their_batches(count, missing):
    rows = np.setdiff1d(np.arange(count), missing)
    records = np.repeat((rows % 251).astype(np.uint8)[:, None], 3, axis=1)
    names = [b"%d" % row for row in rows.tolist()]
    parts = split_batches(
        Cifar10(Cifar10Set(rows, records, names), Cifar10Set(rows[:0], records[:0], []))
    )
    assert list(parts) == list(BLOB_IDS)
    for number, part in enumerate(list(parts.values())[:5]):
        expected = rows[rows // 10_000 == number]
        assert part.rows.tolist() == expected.tolist()
        assert part.records[:, 0].tolist() == (expected % 251).tolist()
        assert part.names == [b"%d" % row for row in expected.tolist()]


def test_blob_ids_are_gits(tmp_path):
    records = np.arange(2 * 3073, dtype=np.uint8).reshape(2, 3073)
    assert compute_blob_id(records[:0]) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    if which("git"):
        records.tofile(tmp_path / "file")
        command = ["git", "hash-object", str(tmp_path / "file")]
        found = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        assert compute_blob_id(records) == found.strip()


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


ALL = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"expected a .tar.gz of CIFAR-10, or a folder, .*, found none of them"),
        (b"GIF89a", r"expected a .tar.gz of CIFAR-10, or a folder, .*, found none of them"),
        (tar_of({"readme": b""}), r"found none of them"),
        (tar_of(dict.fromkeys(ALL[1:], b"")), r"found data_batch_2.bin, .*, test_batch.bin$"),
        (tar_of(dict.fromkeys(ALL, b"x")), r"data_batch_1.bin: .* 3073 bytes, found 1 bytes"),
        (
            tar_of(dict.fromkeys(ALL, b"\x0a" * 3073)),
            r"expected labels from 0 to 9, found 10 in row 0",
        ),
        (tar_of(dict.fromkeys(ALL, bytes(3073)))[:-40], r"expected a whole archive"),
        (
            tar_of({name[:-4]: b"(dp1\n." for name in ALL}),
            r"expected an array 'data' and labels 'labels'",
        ),
        (tar_of({name[:-4]: b"cos\nabort\n(tR." for name in ALL}), r"a call of os.abort"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "cifar.tar.gz").write_bytes(content)
    with pytest.raises(SourceError, match=rf"cifar.tar.gz: .*{message}"):
        read_batches(tmp_path / "cifar.tar.gz")
