import os

import numpy as np
import pytest

from cinicpack.errors import PackError
from cinicpack.store.format import ArraySpec
from cinicpack.store.region import Region, allocate, map_arrays, write_all


def test_regions_are_mapped_read_only(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(bytes(range(100)))
    regions = [
        Region(ArraySpec("a", np.dtype("u1"), (2, 3)), file, 10),
        Region(ArraySpec("b", np.dtype("<u2"), (4,)), file, 21),
    ]
    arrays = map_arrays(regions)
    assert arrays["a"].tolist() == [[10, 11, 12], [13, 14, 15]]
    assert arrays["b"].tolist() == [21 + 22 * 256, 23 + 24 * 256, 25 + 26 * 256, 27 + 28 * 256]
    for array in arrays.values():
        assert not array.flags.writeable
        with pytest.raises(ValueError, match=r"WRITEABLE"):
            array.flags.writeable = True


def test_a_mapping_is_the_file_and_not_a_copy(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(bytes(5))
    array = map_arrays([Region(ArraySpec("a", np.dtype("u1"), (5,)), file, 0)])["a"]
    with open(file, "r+b") as stream:
        stream.write(b"\7")
    assert array[0] == 7


def test_a_file_that_became_too_short_is_refused(tmp_path):
    file = tmp_path / "data"
    file.write_bytes(bytes(9))
    with pytest.raises(PackError, match=r"data: expected 10 bytes, found 9"):
        map_arrays([Region(ArraySpec("a", np.dtype("u1"), (5,)), file, 5)])


def test_everything_is_written_though_the_kernel_takes_little(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:3]), at))
    file = tmp_path / "data"
    file.write_bytes(bytes(20))
    with open(file, "r+b") as stream:
        write_all(stream.fileno(), memoryview(bytes(range(1, 11))), 5)
    assert file.read_bytes() == bytes(5) + bytes(range(1, 11)) + bytes(5)


@pytest.mark.parametrize("there", [True, False])
def test_files_get_their_size(tmp_path, monkeypatch, there):
    if not there:
        monkeypatch.delattr(os, "posix_fallocate")
    file = tmp_path / "data"
    file.write_bytes(b"x")
    with open(file, "r+b") as stream:
        allocate(stream.fileno(), 10_000)
    assert file.read_bytes() == b"x" + bytes(9_999)
