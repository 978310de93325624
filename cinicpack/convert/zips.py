"""Zips, as many programs write them: the members in the order of the directory at the end."""

import io
import stat
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from zlib_ng import zlib_ng

from cinicpack.convert.files import SPECIAL_FILES
from cinicpack.formats.zips import LOCAL, check_places, check_readable

__all__ = ["read_members"]

_UTF8: Final = 0x800
_DOS: Final = 0
# Compressions that programs write besides Deflate, by their numbers.
_METHODS: Final = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd"}


def read_members(
    file: io.FileIO, limit: int, is_wanted: Callable[[str], bool]
) -> Iterator[tuple[str, int, bytes | None]]:
    """Yield ``(name, size, data)`` of every member.

    Names have slashes, a directory's at its end; bytes that are no text are surrogates. The data of
    members above ``limit`` bytes is None, that of members whose name is not wanted is not read.

    Raises:
        zipfile.BadZipFile: the zip is damaged or incomplete.
        ValueError: a member is no file or directory, is encrypted, a patch or otherwise compressed,
            or lies within another, as in zips that are made to become immense.
    """
    # zipfile finds the members, but does not read them: that would take 30 us each instead of 10.
    with zipfile.ZipFile(file) as directory:
        members = directory.infolist()
    check_places(members)
    with open(file.fileno(), "rb", buffering=1 << 20, closefd=False) as buffered:
        for member in members:
            encoding = "utf-8" if member.flag_bits & _UTF8 else "cp437"
            raw = member.orig_filename.encode(encoding)
            name = _decode_name(member, raw)
            _check(member, name)
            if not is_wanted(name):
                yield name, 0, b""
            elif max(member.file_size, member.compress_size) > limit:
                yield name, member.file_size, None
            else:
                yield name, member.file_size, _read(buffered, member, raw)


def _decode_name(member: zipfile.ZipInfo, raw: bytes) -> str:
    """Decode a member's name, which programs have written in many ways."""
    from_dos = member.create_system == _DOS
    try:
        # A name without the UTF-8 flag should be cp437, though most such are UTF-8.
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = member.orig_filename if from_dos else raw.decode("utf-8", "surrogateescape")
    # A backslash cannot be in a name on Windows, where some programs separate folders by it.
    return name.replace("\\", "/") if from_dos else name


def _check(member: zipfile.ZipInfo, name: str) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = SPECIAL_FILES.get(kind, "something else")
        raise ValueError(
            f"expected only files and directories, but {name!r} is {what}; "
            "pack the tree that the archive was made of instead"
        )
    check_readable(member, name)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        known = _METHODS.get(member.compress_type)
        raise ValueError(
            f"expected stored or deflated members, but {name!r} is compressed by method "
            f"{member.compress_type}{f', {known}' if known else ''}; unzip it and pack the tree"
        )


def _read(file: BinaryIO, member: zipfile.ZipInfo, raw: bytes) -> bytes:
    file.seek(member.header_offset)
    header = file.read(LOCAL.size)
    if len(header) == LOCAL.size:
        magic, _, name_size, extra_size = LOCAL.unpack(header)
        if magic == b"PK\3\4" and file.read(name_size + extra_size)[:name_size] == raw:
            data = file.read(member.compress_size)
            if member.compress_type == zipfile.ZIP_DEFLATED:
                # Ask for a byte more than the member has, to notice a stream that goes on.
                inflate = zlib_ng.decompressobj(-15)
                data = inflate.decompress(data, member.file_size + 1)
            if len(data) == member.file_size and zlib_ng.crc32(data) == member.CRC:
                return data
    raise zipfile.BadZipFile(f"{member.filename!r} is not what the zip's directory says")
