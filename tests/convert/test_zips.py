import io
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import cinicpack
from cinicpack.errors import SourceError
from tests.convert.sources_here import ANT_CAT, bytes_of, pack, put, read, tiny

DOS, UNIX = 0, 3


class Pipe(io.RawIOBase):
    """What can only be written on, as the stream of a program that zips while it sends."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)


def write_zip(
    files: Mapping[str, bytes], system: int = UNIX, *, piped: bool = False, folders: bool = False
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(Pipe(out) if piped else out, "w", zipfile.ZIP_DEFLATED) as archive:
        inner = {name.rpartition("/")[0] for name in files}
        every = {"/".join(name.split("/")[:end]) for name in inner for end in range(1, 9)}
        for name in sorted(every) if folders else ():
            archive.writestr(zipfile.ZipInfo(f"{name}/"), b"")
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.create_system = system
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
    return out.getvalue()


def from_macos(files: Mapping[str, bytes]) -> bytes:
    # The Finder writes sizes behind the data, and attributes of each file beside the folder.
    folder = {f"images/{name}": content for name, content in files.items()}
    more = {}
    for name in folder:
        above, _, last = name.rpartition("/")
        more[f"__MACOSX/{above}/._{last}"] = b"\0\5\x16\7\0\2"
    return write_zip(folder | {"images/.DS_Store": b""} | more, piped=True, folders=True)


def from_windows(files: Mapping[str, bytes]) -> bytes:
    # Old versions of .NET separate folders by a backslash.
    turned = {f"set/{name}".replace("/", "\\"): content for name, content in files.items()}
    return write_zip(turned, DOS)


def of_zip64(files: Mapping[str, bytes]) -> bytes:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(zipfile, "ZIP64_LIMIT", 10)
        patched.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        content = write_zip(files)
    assert b"PK\6\6" in content
    return content


FOREIGN: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "macOS": from_macos,
    "Windows": from_windows,
    "with folders": lambda files: write_zip(files, DOS, folders=True),
    "without folders": write_zip,
    "zip64": of_zip64,
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.filterwarnings("ignore:.* files that are no images are ignored")
def test_the_zips_of_others_give_the_pack_of_the_tree(tmp_path, make):
    one = pack(put(tmp_path / "tree", ANT_CAT), tmp_path / "one")
    (tmp_path / "a.zip").write_bytes(make(ANT_CAT))
    other = pack(tmp_path / "a.zip", tmp_path / "other")
    assert bytes_of(other.path) == bytes_of(one.path)


@pytest.mark.parametrize(("raw", "name"), [(b"\x84-", "ä-"), ("ä".encode(), "ä")])
def test_names_of_windows_are_utf8_or_cp437(tmp_path, raw, name):
    content = write_zip({"ant/QQ.png": b"1"}, DOS).replace(b"QQ", raw)
    assert [*read(tmp_path / "x", content)] == [f"ant/{name}.png"]


def test_a_backslash_is_part_of_a_name_elsewhere(tmp_path):
    assert [*read(tmp_path / "x", write_zip({"ant/a\\b.png": b"1"}, UNIX))] == ["ant/a\\b.png"]


@pytest.mark.parametrize("name", ["..\\a.png", "a\\..\\..\\b.png", "\\a.png"])
def test_backslashes_do_not_lead_outside(tmp_path, name):
    with pytest.raises(SourceError, match=r"expected relative paths without '\.\.'"):
        read(tmp_path / "x", write_zip({name: b"1"}, DOS))


@pytest.mark.parametrize(
    ("method", "what"),
    [(9, "9, Deflate64"), (12, "12, bzip2"), (14, "14, LZMA"), (93, "93, Zstandard"), (77, "77")],
)
def test_other_compressions_are_refused_by_name(tmp_path, method, what):
    content = bytearray(write_zip({"ant/a.png": tiny(1)}))
    content[content.rindex(b"PK\1\2") + 10] = method
    with pytest.raises(SourceError, match=rf"'ant/a\.png' is compressed by method {what}; unzip"):
        read(tmp_path / "x", bytes(content))


def test_members_within_each_other_are_refused(tmp_path):
    """What makes a zip bomb: many members that are the same compressed bytes."""
    content = write_zip({"ant/a.png": bytes(30_000_000)})
    start = content.rindex(b"PK\1\2")
    end = content.rindex(b"PK\5\6")
    entry, last = content[start:end], bytearray(content[end:])
    last[8:16] = struct.pack("<HHI", 1000, 1000, 1000 * len(entry))
    (tmp_path / "a.zip").write_bytes(content[:start] + 1000 * entry + last)
    with pytest.raises(SourceError, match=r"a\.zip: .*'ant/a\.png' within 'ant/a\.png', as in a"):
        pack(tmp_path / "a.zip", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_member_that_becomes_immense_is_a_bad_image(tmp_path):
    (tmp_path / "a.zip").write_bytes(write_zip({**ANT_CAT, "train/ant/2.png": bytes(70_000_000)}))
    with pytest.raises(cinicpack.BadImagesError, match=r"ant/2\.png: expected at most 67108864 by"):
        pack(tmp_path / "a.zip", tmp_path / "a")


def test_a_zip_that_the_command_zip_wrote(tmp_path):
    if shutil.which("zip") is None:
        pytest.skip("needs the command zip")
    tree: Path = put(tmp_path / "tree", ANT_CAT)
    subprocess.run(["zip", "-qr", tmp_path / "a.zip", "."], cwd=tree, check=True)
    one, other = pack(tree, tmp_path / "one"), pack(tmp_path / "a.zip", tmp_path / "other")
    assert bytes_of(one.path) == bytes_of(other.path)
