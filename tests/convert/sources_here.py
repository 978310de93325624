"""Sources that tests make, and ways to pack them."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import random
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cinicpack
from cinicpack.convert.conversion import Converted, Task
from cinicpack.convert.files import Content, Read
from cinicpack.convert.packer import Pace, StartWorkers, build
from cinicpack.convert.plan import Wanted
from cinicpack.convert.source import Source, open_source
from cinicpack.convert.worker import Worker, starting_workers
from cinicpack.store.container import named
from cinicpack.store.publish import publishing
from tests.png_images import png, random_samples

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FILES = {
    "train/cat/a.png": b"cat a" * 100,
    "train/cat/empty.png": b"",
    "train/dog/b.PNG": os.urandom(20_000),
    **{
        f"test/eel/{end}.{end}": end.encode()
        for end in ("jpg", "jpeg", "JPG", "ppm", "bmp", "Pgm", "tif", "TIFF", "webp")
    },
    "test/cat/é.png": os.urandom(3_000),
    "test/dog/\udcff.png": b"a name that is not UTF-8",
    "test/dog/c d.pNg": b"dog",
}
OTHERS = {
    "README.md": b"text",
    "train/cat/._a.png": b"what macOS adds",
    "train/cat/._a.jpg": b"what macOS adds",
    "train/cat/png": b"no extension",
    "train/cat/jpg": b"no extension",
    "train/cat/a.gif": b"what ImageFolder does not load either",
    "train/.DS_Store": b"",
}


def pack(source: Path | Sequence[Path], destination: Path, **options: Any) -> cinicpack.Pack:
    return cinicpack.pack(source, destination, progress=False, **options)


def pack_slowly(
    source: Path | Source,
    destination: Path,
    pace: Pace = Pace(task_images=5),  # noqa: B008  it cannot be changed
    start: StartWorkers = starting_workers,
    *,
    format: str = "npy",  # noqa: A002  as pack has it
    **options: Any,
) -> cinicpack.Pack:
    """Pack a few images at a time, so that a few are many."""
    opened = open_source(source) if isinstance(source, Path) else source
    wanted = Wanted(progress=False, **options)
    with publishing(destination, overwrite=False) as new:
        build(opened, new, named(format), wanted, pace, start)
    return cinicpack.open_pack(destination)


class NotingWorkers:
    """Starts one worker, in this process, and notes in ``tasks`` what it has done."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    @contextlib.contextmanager
    def start(self, _: int, source: str, read: Read | None, folder: Path) -> Iterator[list[Worker]]:
        with starting_workers(0, source, read, folder) as [convert]:

            def note(task: Task) -> Converted:
                self.tasks.append(task)
                return convert(task)

            yield [note]


def members(tree: Path) -> list[tuple[str, bytes]]:
    """List a tree's files in an order that is not theirs."""
    files = [
        (file.relative_to(tree).as_posix(), file.read_bytes())
        for file in sorted(tree.rglob("*"))
        if file.is_file()
    ]
    random.Random(0).shuffle(files)
    return files


def make_tar(tree: Path, path: Path, prefix: str = "", mode: Literal["w", "w:gz"] = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members(tree):
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_zip(tree: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members(tree):
            archive.writestr(prefix + name, content)
    return path


def make_source(kind: str, files: dict[str, bytes], empty: list[str], folder: Path) -> Path:
    """Write a tree with empty folders, as it is or as an archive."""
    tree = put(folder / "tree", files)
    for name in empty:
        (tree / name).mkdir(parents=True)
    path = folder / f"source.{kind}"
    if kind == "tree":
        return tree
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(tree.rglob("*")):
                archive.write(file, file.relative_to(tree))
        return path
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
        tar.add(tree, ".")
    return path


def bytes_of(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def put(tree: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    return tree


def tiny(seed: int, height: int = 2, width: int = 2) -> bytes:
    return png(random_samples(2, 8, height, width, seed))


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def zip_bytes(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("\udcff", "\1"), content, method)
    # zipfile writes no names that are not text; other programs do.
    return out.getvalue().replace(b"\1.png", b"\xff.png")


ANT_CAT = {
    f"{s}/{c}/{n}.png": tiny(7) for s in ("train", "test") for c in ("ant", "cat") for n in "01"
}


MAKERS: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "tar": tar_bytes,
    "tar.gz": lambda files: gzip.compress(tar_bytes(files), 1),
    "tar.bz2": lambda files: bz2.compress(tar_bytes(files)),
    "tar.xz": lambda files: lzma.compress(tar_bytes(files)),
    "tar.zst": lambda files: zstd.compress(tar_bytes(files)),
    "zip": zip_bytes,
    "stored.zip": lambda files: zip_bytes(files, zipfile.ZIP_STORED),
}


def opened(path: Path, content: bytes) -> Source:
    path.write_bytes(content)
    return open_source(path)


def read(path: Path, content: bytes) -> dict[str, Content]:
    return dict(opened(path, content).stream())
