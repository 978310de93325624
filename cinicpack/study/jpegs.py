"""The JPEGs of ImageNet's synsets: where they are in tars and folders, and reducing them."""

import os
import re
import stat
import tarfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cinicpack.cinic10 import IMAGE_SHAPE, Origin, Provenance, format_name
from cinicpack.errors import SourceError
from cinicpack.paths import why_missing
from cinicpack.shortage import is_shortage
from cinicpack.study.synsets import format_synset
from cinicpack.text import counted, one_line, some

__all__ = ["Found", "Jpeg", "check_folder", "find_jpegs", "reduce_jpeg"]

_SHOWN: Final = 10
_NAME: Final = re.compile(r"n([0-9]{8})_([0-9]{1,9})\.jpe?g", re.IGNORECASE)


class Jpeg(NamedTuple):
    """One JPEG: its synset and number, and the bytes of a file that it is."""

    synset: int
    number: int
    file: Path
    offset: int
    nbytes: int

    @property
    def name(self) -> str:
        """The file name that CINIC-10 gives to the image."""
        return format_name(Provenance(Origin.IMAGENET, self.synset, self.number))

    def __str__(self) -> str:
        return str(self.file) if self.file.suffix != ".tar" else f"{self.file}:{self.name[:-4]}"


class Found(NamedTuple):
    """What there is of some synsets.

    Attributes:
        jpegs: by synset, in the order of their numbers.
        absent: synsets of which there is neither tar nor folder.
        left_out: tars and files that are broken or named otherwise, each with the reason.
    """

    jpegs: dict[int, list[Jpeg]]
    absent: list[int]
    left_out: list[tuple[str, str]]

    def explain_lack(self) -> str:
        """Say, as the end of a sentence, what may be why there are too few."""
        absent = ""
        if self.absent:
            absent = f"; {counted(len(self.absent), 'synset is', 'synsets are')} not there"
        left_out = [f"{where}: {reason}" for where, reason in self.left_out]
        return absent + (f"; left out: {some(left_out, _SHOWN)}" if left_out else "")


def find_jpegs(folder: str | os.PathLike[str], synsets: Iterable[int]) -> Found:
    """Find the JPEGs of synsets in a folder, in ``nSSSSSSSS.tar`` or ``nSSSSSSSS/`` there.

    They are named ``nSSSSSSSS_NUMBER.JPEG``, as ImageNet's Fall 2011 release has them. Of a tar
    only the headers are read; one that is empty, broken or compressed is left out as a whole.

    Raises `SourceError` if ``folder`` is no directory, or a tar cannot be read.
    """
    folder = Path(folder)
    check_folder(folder)
    found = Found({}, [], [])
    for synset in sorted(set(synsets)):
        inner, tar = folder / format_synset(synset), folder / f"{format_synset(synset)}.tar"
        if inner.is_dir():
            entries = [(path, path.name, 0, _size_of(path)) for path in inner.iterdir()]
        elif tar.is_file():
            try:
                entries = _list_tar(tar)
            except (tarfile.TarError, OSError, MemoryError) as error:
                if is_shortage(error):
                    raise _unreadable(str(tar), error) from error
                found.left_out.append((str(tar), f"expected a whole tar, found {one_line(error)}"))
                continue
        else:
            found.absent.append(synset)
            continue
        jpegs = {}
        for file, name, offset, nbytes in entries:
            if nbytes is None:
                found.left_out.append((str(file), "expected a regular file"))
                continue
            match = _NAME.fullmatch(name)
            if match is None or int(match[1]) != synset:
                where = str(file) if file.is_relative_to(inner) else f"{file}:{name}"
                reason = f"expected a name like {format_synset(synset)}_1.JPEG"
                found.left_out.append((where, reason))
                continue
            jpegs[int(match[2])] = Jpeg(synset, int(match[2]), file, offset, nbytes)
        found.jpegs[synset] = [jpegs[number] for number in sorted(jpegs)]
    found.left_out.sort()
    return found


def check_folder(folder: Path) -> None:
    """Raise `SourceError` unless there is a directory."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: expected a directory with ImageNet's nSSSSSSSS.tar in it")


def reduce_jpeg(jpeg: Jpeg) -> NDArray[np.uint8] | str:
    """Reduce an image to (32, 32, 3) uint8, or say why it cannot be decoded.

    With Pillow's Box filter, as CINIC-10's authors did, "in the same manner as Imagenet32x32"
    (README of BayesWatch/cinic-10).

    Raises `SourceError` where the file cannot be read, or memory is lacking: that says nothing of
    the image.
    """
    try:
        with open(jpeg.file, "rb") as file:
            file.seek(jpeg.offset)
            data = file.read(jpeg.nbytes)
        with Image.open(BytesIO(data)) as image:
            height, width, _ = IMAGE_SHAPE
            small = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
        return np.asarray(small)
    except Exception as error:
        if is_shortage(error):
            raise _unreadable(str(jpeg), error) from error
        # Every kind of exception: Pillow's parsers raise many kinds for broken files.
        return f"Pillow cannot decode it: {one_line(error)}"


def _unreadable(where: str, error: Exception) -> SourceError:
    reason = why_missing(where) if isinstance(error, FileNotFoundError) else ""
    return SourceError(
        f"{where}: could not be read ({reason or repr(error)}); make it readable, run again"
    )


def _size_of(path: Path) -> int | None:
    """Return the size of a file, or None of what is none: to open a pipe would wait for ever."""
    try:
        status = path.stat()
        return status.st_size if stat.S_ISREG(status.st_mode) else None
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _list_tar(path: Path) -> list[tuple[Path, str, int, int | None]]:
    """List the files in a tar: where, name, offset and size."""
    with tarfile.open(path, "r:") as archive:
        members = [member for member in archive if member.isfile()]
    return [
        (path, member.name.rsplit("/", 1)[-1], member.offset_data, member.size)
        for member in members
    ]
