import bz2
import gzip
import io
import lzma
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cinicpack.formats.compression import find_decompression

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    # With a checksum, as the command zstd writes.
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}
CONTENT = os.urandom(50_000) + bytes(50_000)


def decompress(path: Path, data: bytes) -> bytes:
    opens = find_decompression(data[:512])
    assert opens is not None
    path.write_bytes(data)
    with io.FileIO(path) as file, opens(file) as stream:
        return b"".join(iter(lambda: stream.read(1000), b""))


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)
def test_every_compression_is_known_by_how_a_file_starts(tmp_path, compress):
    assert decompress(tmp_path / "a", compress(CONTENT)) == CONTENT


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)
def test_the_parts_that_parallel_compressors_write_are_joined(tmp_path, compress):
    data = b"".join(
        compress(CONTENT[start : start + 30_000]) for start in range(0, 100_000, 30_000)
    )
    assert decompress(tmp_path / "a", data) == CONTENT


def test_a_zstd_file_may_begin_with_a_frame_to_be_skipped(tmp_path):
    frame = b"\x50\x2a\x4d\x18\4\0\0\0size"
    assert decompress(tmp_path / "a", frame + zstd.compress(CONTENT)) == CONTENT


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)
def test_damage_is_one_of_two_errors(tmp_path, compress):
    whole = compress(CONTENT)
    for damaged in (whole[:-20], whole[:30_000] + b"\xff" * 100 + whole[30_100:], whole[:20]):
        with pytest.raises((EOFError, OSError)):
            decompress(tmp_path / "a", damaged)


def test_what_is_not_compressed_is_not_known():
    assert find_decompression(b"PK\3\4") is None
    assert find_decompression(b"") is None


@pytest.mark.parametrize(
    ("module", "start", "remedy"),
    [
        ("lzma", b"\xfd7zXZ\0", "this Python was built without it; decompress the file first"),
        ("bz2", b"BZh9", "this Python was built without it"),
        (zstd.__name__, b"\x28\xb5\x2f\xfd", r"pip install 'cinicpack\[zstd\]', or decompress"),
    ],
)
def test_a_module_that_is_not_there_is_named_with_what_to_do(monkeypatch, module, start, remedy):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"expected {module}, which .*{remedy}"):
        find_decompression(start)
