import gzip
import io
import os
import socket
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cinicpack.convert import sources
from cinicpack.convert.sources import Archive, Tree, open_source, read_files
from cinicpack.errors import SourceError

FILES = {
    "train/cat/a.png": b"cat a" * 100,
    "train/cat/empty.png": b"",
    "train/dog/b.PNG": os.urandom(20_000),
    "test/cat/é.png": os.urandom(3_000),
    "test/dog/\udcff.png": b"a name that is not UTF-8",
    "test/dog/c d.pNg": b"dog",
}
OTHERS = {
    "README.md": b"text",
    "train/cat/._a.png": b"what macOS adds",
    "train/cat/a.jpg": b"jpeg",
    "train/cat/png": b"no extension",
    "train/.DS_Store": b"",
}


def write_tree(path: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for folder in sorted({os.path.dirname(name) for name in files} - {""}):
            member = tarfile.TarInfo(folder)
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def zip_bytes(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            # Bytes that are no UTF-8 go into a zip only without the flag that says UTF-8.
            raw = os.fsencode(name)
            archive.writestr(zipfile.ZipInfo(raw.decode("cp437")), content, method)
    return out.getvalue()
...
