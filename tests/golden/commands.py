"""Golden commands: what every command says, its status, and the files that it writes."""

import binascii
import contextlib
import importlib.metadata
import importlib.util
import io
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

import cinicpack
from cinicpack.cli import main
from tests.golden.sources import digest
from tests.packs import copy_pack

Found = dict[str, dict[str, Any]]

COMMANDS = (
    *("pack", "info", "verify", "bench", "demo", "unpack", "cifar10", "shift", "compile"),
    *("download", "stats", "contributors", "sheet", "histogram", "audit"),
)
# What differs from run to run, and from version to version of the package.
_MASKS = (
    (re.compile(r"\d+\.\d+ s\b"), "TIME s"),
    (re.compile(r"[\d,]+ images/s"), "RATE images/s"),
    (re.compile(r"\d+\.\d GB/s"), "RATE GB/s"),
    (re.compile(r" at 0x[0-9a-f]+"), " at ADDRESS"),
    # What is compiled into a pack is first in an archive, which is warned of by its path.
    (re.compile(r"\S*\.tmp/\S+\.tar\b"), "TEMPORARY.tar"),
    (re.compile(r"^cinicpack [\d.]+\n"), "cinicpack VERSION\n"),
    (re.compile(r"^cinicpack is compiling its kernels.*\n", re.MULTILINE), ""),
)

# Commands, one a line, in an order in which each finds what it needs.
_PACKS = """
pack tree a.pack
pack tree a.pack
pack tree a.pack --overwrite --workers 0
pack tree.tar a.h5 --format hdf5 --shard-rows 7
pack tree.zip split.pack --split train,valid
pack tree a.h5
pack tree no/a.pack
pack tree b.pack --expect cinic10
pack tree b.pack --splits train,nope
pack imagenet imagenet.pack
pack nothing b.pack
pack bad bad.pack
pack bad bad.pack --skip-bad
pack missing missing.pack
pack missing missing.pack --allow-missing
info a.pack
info a.pack --json
info a.h5
info a.h5 --json
info bad.pack
info bad.pack --json
info missing.pack
info tree
info nothing
verify a.pack
verify a.h5 --workers 1
verify damaged.pack
verify damaged.h5
verify nothing
bench nothing
stats a.pack
stats a.h5
stats a.pack --by class
stats a.pack --by source --split train+valid
stats a.pack --by split --source imagenet
stats a.pack --by class --json
stats bad.pack
stats a.pack --split nope
contributors a.pack
contributors a.pack -o list.csv
contributors a.pack --counts
contributors a.pack --counts --synsets synsets.txt
contributors a.pack --synsets synsets.txt -o words.csv
contributors a.pack -o list.txt
contributors a.pack --synsets contributors.csv
audit a.pack
audit a.pack --json
audit a.h5 -o findings.csv
audit bad.pack --sheet none.png
audit a.pack -o findings.txt
shift a.pack labels.npy
shift a.pack scores.npy --json
shift a.pack labels.npy --split train --confidence 0.5
shift a.pack labels.npy --source imagenet
shift a.pack half.npy --source imagenet --json
shift a.pack synsets.txt
download --url ftp://example.org/a
download synsets.txt
histogram a.pack -o histogram.jpg
"""
_WRITTEN = """
unpack a.pack whole
unpack a.h5 merged --merge-train-valid --workers 1
unpack a.pack part --split test,train --source imagenet --class cat,dog
unpack a.pack links --link tree
unpack a.pack links
unpack a.pack wrong --link nothing
cifar10 a.pack bin --allow-missing
cifar10 a.pack py --layout py --allow-missing
cifar10 a.pack npy --layout npy --allow-missing --json
cifar10 a.pack compared --allow-missing --reference bin
cifar10 a.pack differs --allow-missing --reference cifar
cifar10 a.pack all
compile --cifar10 cifar --imagenet imagenet --synsets synsets.txt made --per-class 3
compile --cifar10 bin --imagenet imagenet --synsets synsets.txt torn --per-class 6 --seed 5
compile --cifar10 cifar --imagenet imagenet --contributors contributors.csv made.pack --json
compile --cifar10 cifar --imagenet imagenet --synsets synsets.txt made.h5 --per-class 0
compile --cifar10 cifar --imagenet imagenet --synsets synsets.txt more --per-class 60
compile --cifar10 cifar --imagenet imagenet neither
"""
# Pillow writes the text in these.
_LABELLED = """
sheet a.pack -o cat.png --class cat
sheet a.pack -o ships.svg --class ship --source imagenet --split train+test --seed 3
sheet a.pack -o classes.png
sheet a.pack -o two.png --class cat,dog --seed 1
sheet a.pack -o augmented.png --class cat --augment 7
audit a.pack --sheet double.png
"""
_WRONG = """

nope
pack
pack tree
pack tree a.pack --format zarr
pack tree a.pack --workers two
pack tree a.pack --shard-rows 0
pack tree a.pack --expect cifar10
info
verify a.pack --json
verify a.pack --work 1
bench a.pack --batch-size 0
demo now
unpack a.pack
cifar10 a.pack b --layout zip
shift a.pack labels.npy --confidence 95
compile made
download a b
stats a.pack --by colour
contributors
sheet a.pack
sheet a.pack -o a.png --seed -1
histogram a.pack
audit
"""


def collect_commands() -> Found:
    """Run commands in a folder with what `write_sources` writes, which is the current one."""
    found: Found = {"commands": {}, "written": {}}
    for line in _PACKS.strip().splitlines():
        if line.startswith("verify damaged"):
            _damage(Path("a.pack"), Path("damaged.pack"), Path("damaged.pack/valid/labels.npy"))
            _damage(Path("a.h5"), Path("damaged.h5"), Path("damaged.h5"))
        _run_and_look(line, found["commands"])
    for line in _WRITTEN.strip().splitlines():
        _run_and_look(line, found["written"])
    labelled = found[f"labelled pictures with Pillow {PIL.__version__}"] = {}
    for line in _LABELLED.strip().splitlines():
        _run_and_look(line, labelled)
    deflate = f"deflate {importlib.metadata.version('deflate')}"
    found[f"bytes of PNG files with {deflate}"] = {"whole": _digest_files(Path("whole"), raw=True)}
    # argparse says things otherwise in other versions.
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    usage = found[f"usage with {python}"] = {"--version": _run("--version")}
    for line in _WRONG.splitlines()[1:]:
        usage[line] = _run(line)
    for line in ("--help", *(f"{command} --help" for command in COMMANDS)):
        usage[line] = _run(line)
    if importlib.util.find_spec("matplotlib"):
        version = importlib.metadata.version("matplotlib")
        histogram = found[f"histogram with matplotlib {version}"] = {}
        _run_and_look("histogram a.pack -o histogram.png --split train", histogram)
    return found


def _run_and_look(line: str, found: dict[str, Any]) -> None:
    """Run a command and add what it says, and what it wrote, changed or left behind."""
    before = {path: path.lstat().st_mtime_ns for path in Path().iterdir()}
    name = line if line not in found else f"{line} (again)"
    found[name] = _run(line)
    for path in sorted(Path().iterdir()):
        if path.lstat().st_mtime_ns != before.get(path) and not _is_pack(path):
            found[f"{name}: {path}"] = _digest_files(path)


def _is_pack(path: Path) -> bool:
    # Of packs there are golden files already, and `info` shows the fingerprint.
    return path.suffix in (".pack", ".h5")


def _run(line: str) -> str:
    """Return status and output: as they are if short, else their digest."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        warnings.catch_warnings(),
        _columns(80),
    ):
        warnings.simplefilter("always")
        try:
            status = main(line.split())
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else -1
    texts = [_mask(out.getvalue()), _mask(errors.getvalue())]
    whole = f"{status} {texts[0]}| {texts[1]}"
    return whole if len(whole) <= 160 else f"{status} {digest(*texts)}"


def _mask(text: str) -> str:
    text = text.replace(os.getcwd(), "FOLDER")
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return text


@contextlib.contextmanager
def _columns(count: int) -> Any:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(count)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _damage(pack: Path, copy: Path, file: Path) -> None:
    """Copy a pack and change a byte of it: the last label, or the middle of an HDF5 file."""
    if copy.exists():
        return
    copy_pack(pack, copy)
    content = bytearray(file.read_bytes())
    place = len(content) - 1
    if copy.is_file():
        pixels = np.array(cinicpack.open_pack(pack)["train"].images[0])
        place = content.index(np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes())
    content[place] ^= 1
    file.write_bytes(content)


def _digest_files(path: Path, *, raw: bool = False) -> str:
    """Digest names and contents of a file or of all in a folder; of pictures only the pixels."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    parts: list[bytes | str] = []
    for file in files:
        parts.append(file.as_posix())
        if file.is_symlink():
            parts.append(os.readlink(file))
        elif file.is_file():
            parts.append(file.read_bytes() if raw else _read(file))
    return f"{len(files)} files {digest(*parts)}"


def _read(file: Path) -> bytes:
    content = file.read_bytes()
    if file.suffix == ".svg":
        before, _, rest = content.partition(b"base64,")
        picture, _, after = rest.partition(b'"')
        return before + _read_pixels(binascii.a2b_base64(picture)) + after
    return _read_pixels(content) if file.suffix == ".png" else content


def _read_pixels(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        return f"{image.mode} {image.size} ".encode() + image.tobytes()
