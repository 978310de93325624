"""Zips, as many programs write them: the members in the order of the directory at the end."""

import io
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import BinaryIO, Final

from zlib_ng import zlib_ng

from cinicpack.convert.files import SPECIAL_FILES

__all__ = ["STARTS", "read_members"]

#: How zips start: with a member, with the directory's end, or as one that was split and joined.
STARTS: Final = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")

# The flags of an encrypted member: in the usual way, by strong encryption, and with its headers.
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_PATCHED: Final = 0x20
_UTF8: Final = 0x800
_DOS: Final = 0
# Of the header before a member: magic, length of the name, length of the extra field.
_LOCAL: Final = struct.Struct("<4s22xHH")
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
    _check_places(members)
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


def _check_places(members: Sequence[zipfile.ZipInfo]) -> None:
    for first, second in pairwise(sorted(members, key=attrgetter("header_offset"))):
        if first.header_offset + _LOCAL.size + first.compress_size > second.header_offset:
            raise ValueError(
                f"expected members one after the other, found {second.filename!r} within "
                f"{first.filename!r}, as in a zip bomb; fetch or make it again"
            )


def _check(member: zipfile.ZipInfo, name: str) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = SPECIAL_FILES.get(kind, "something else")
        raise ValueError(
            f"expected only files and directories, but {name!r} is {what}; "
            "pack the tree that the archive was made of instead"
        )
    if member.flag_bits & _ENCRYPTED:
        raise ValueError(f"expected members without a password, but {name!r} is encrypted")
    if member.flag_bits & _PATCHED:
        raise ValueError(
            f"expected members that are whole, but {name!r} is a patch to another version of it"
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        known = _METHODS.get(member.compress_type)
        raise ValueError(
            f"expected stored or deflated members, but {name!r} is compressed by method "
            f"{member.compress_type}{f', {known}' if known else ''}; unzip it and pack the tree"
        )


def _read(file: BinaryIO, member: zipfile.ZipInfo, raw: bytes) -> bytes:
    file.seek(member.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) == _LOCAL.size:
        magic, name_size, extra_size = _LOCAL.unpack(header)
        if magic == b"PK\3\4" and file.read(name_size + extra_size)[:name_size] == raw:
            data = file.read(member.compress_size)
            if member.compress_type == zipfile.ZIP_DEFLATED:
                # Ask for a byte more than the member has, to notice a stream that goes on.
                inflate = zlib_ng.decompressobj(-15)
                data = inflate.decompress(data, member.file_size + 1)
            if len(data) == member.file_size and zlib_ng.crc32(data) == member.CRC:
                return data
    raise zipfile.BadZipFile(f"{member.filename!r} is not what the zip's directory says")
