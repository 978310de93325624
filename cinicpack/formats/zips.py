"""Zips: what keeps their members from being read, whoever reads them."""

import struct
import zipfile
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Final

__all__ = ["LOCAL", "STARTS", "check_places", "check_readable"]

#: How zips start: with a member, with the directory's end, or as one that was split and joined.
STARTS: Final = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
#: The header before a member: magic, compressed size, lengths of the name and of the extra field.
LOCAL: Final = struct.Struct("<4s14xI4xHH")

# The flags of an encrypted member: in the usual way, by strong encryption, and with its headers.
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_PATCHED: Final = 0x20


def check_places(members: Sequence[zipfile.ZipInfo]) -> None:
    """Raise ``ValueError`` if members lie within others, as in zips made to become immense."""
    for first, second in pairwise(sorted(members, key=attrgetter("header_offset"))):
        if first.header_offset + LOCAL.size + first.compress_size > second.header_offset:
            raise ValueError(
                f"expected members one after the other, found {second.filename!r} within "
                f"{first.filename!r}, as in a zip bomb; fetch or make it again"
            )


def check_readable(member: zipfile.ZipInfo, name: str) -> None:
    """Raise ``ValueError`` if a member is encrypted, or a patch and not a whole file."""
    if member.flag_bits & _ENCRYPTED:
        raise ValueError(
            f"expected members without a password, but {name!r} is encrypted; unpack it"
        )
    if member.flag_bits & _PATCHED:
        raise ValueError(
            f"expected members that are whole, but {name!r} is a patch to another version of it; "
            "fetch or make the zip again"
        )
