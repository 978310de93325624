"""Every kind of source, packed, beside the usual way to read it once.

python -m benchmarks.bench_sources                          # all kinds; results/sources.json
python -m benchmarks.bench_sources tree_png arrays          # some; rows of the others stay
python -m benchmarks.bench_sources --jpegs jpegs.tar.xz     # CIFAR-10 as JPEG files, if at hand
"""

import argparse
import hashlib
import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import cinicpack
from benchmarks.bench_convert import extract_jpegs, race
from benchmarks.data import making
from benchmarks.machine import describe_machine, use_cores
from benchmarks.report import fill_between, format_json, say
from cinicpack import cinic10

__all__ = ["KINDS", "draw_page"]

_HERE = Path(__file__).parent
_PAGE = _HERE.parent / "docs" / "sources.md"
_PACK = "cinicpack pack"
_MEMORY = Path("/dev/shm")


class MissingError(Exception):
    """A package or a file that a kind of source needs is not there."""


class Pair(NamedTuple):
    """A source packed, and read in the usual way.

    Attributes:
        call: the command or the call, as the table has it.
        images: how many images the source has.
        pack: packs it.
        usual: what the table calls the usual way.
        read: reads it in that way.
    """

    call: str
    images: int
    pack: Callable[[], object]
    usual: str
    read: Callable[[], object]


class Bench:
    """Where data is made, and how much: a pair of each kind is a method named as the kind."""

    def __init__(self, work: Path, jpegs: Path | None, *, quick: bool) -> None:
        self.work, self.jpegs, self.quick = work, jpegs, quick
        self.place = work / "result"
        self.extracted = work / "extracted"

    def tree_png(self) -> Pair:
        tree = self._make_tree()
        return self._pair("CINIC-10", tree, *read_folders(sorted(tree.iterdir())))

    def tar_gz(self) -> Pair:
        tree, archive = self._make_tree(), self.work / "CINIC-10.tar.gz"
        if not archive.exists():
            with making(archive) as unfinished:
                command = ["tar", "-czf", str(unfinished), "-C", str(tree), *os.listdir(tree)]
                subprocess.run(command, check=True)
        return self._pair("CINIC-10.tar.gz", archive, *self._extract(archive, "-xzf"))

    def tree_jpeg(self) -> Pair:
        tree = extract_jpegs(self._find_jpegs(), self.work / "jpegs")
        folders = [folder for folder in tree.rglob("t*") if folder.name in ("train", "test")]
        return self._pair("JPEGS", tree, *read_folders(folders))

    def tar_xz(self) -> Pair:
        archive = self._find_jpegs()
        return self._pair("JPEGS.tar.xz", archive, *self._extract(archive, "-xJf"))

    def parquet(self) -> Pair:
        from benchmarks.parquet import prepare_decoding, write_parquet

        tree, folder = self._make_tree(), self.work / "hub"
        if not folder.exists():
            with making(folder) as unfinished:
                unfinished.mkdir()
                for split in cinic10.SPLITS:
                    write_parquet(tree / split, unfinished / f"{split}-00000-of-00001.parquet")
        decode = prepare_decoding(*sorted(folder.glob("*.parquet")))
        return self._pair("FOLDER_OF_PARQUET", folder, "`datasets`, iterated once", decode)

    def cifar10(self) -> Pair:
        archive = self._make_cifar10()

        def read() -> None:
            # Unpack anew each time, as on the day the archive was fetched.
            self.extracted.mkdir(exist_ok=True)
            root = Path(tempfile.mkdtemp(dir=self.extracted))
            (root / archive.name).symlink_to(archive)
            iterate(open_splits(root).values())

        open_splits = imitate_cifar10(archive)
        usual = "`torchvision.datasets.CIFAR10` of the archive, iterated"
        return self._pair("cifar-10-python.tar.gz", archive, usual, read)

    def imagenet32(self) -> Pair:
        folder = self.work / "imagenet32"
        files, rows = (2, 500) if self.quick else (2, 100_000)
        if not folder.exists():
            with making(folder) as unfinished:
                unfinished.mkdir()
                for number in range(1, files + 1):
                    images, labels = draw(rows, number, classes=1000)
                    content = {"data": images.reshape(rows, -1), "labels": (labels + 1).tolist()}
                    path = unfinished / f"train_data_batch_{number}"
                    path.write_bytes(pickle.dumps(content, protocol=3))

        def read() -> None:
            for file in folder.iterdir():
                data = pickle.loads(file.read_bytes())["data"]
                np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))

        return self._pair("Imagenet32_train", folder, "`pickle.load`, then NHWC", read)

    def arrays(self) -> Pair:
        images, labels = draw(1000 if self.quick else 90_000, 0)
        images = images.reshape(-1, 32, 32, 3)
        train = {"train": (images, labels)}

        def pack() -> None:
            cinicpack.pack_arrays(train, self.place, classes=cinic10.CLASSES, progress=False)

        def save() -> None:
            self.extracted.mkdir(exist_ok=True)
            np.save(self.extracted / "copy.npy", images)

        call = 'pack_arrays({"train": (images, labels)}, ...)'
        return Pair(call, len(labels), pack, "`numpy.save`", save)

    def dataset(self) -> Pair:
        archive, root = self._make_cifar10(), self.work / "torchvision"
        root.mkdir(exist_ok=True)
        if not (root / archive.name).exists():
            (root / archive.name).symlink_to(archive)
        splits = imitate_cifar10(archive)(root)

        def pack() -> None:
            cinicpack.pack_dataset(splits, self.place, progress=False)

        images = sum(map(len, splits.values()))
        call = 'pack_dataset({"train": dataset, ...}, ...)'
        return Pair(
            call, images, pack, "the dataset, iterated once", lambda: iterate(splits.values())
        )

    def _pair(self, name: str, source: Path, usual: str, read: Callable[[], object]) -> Pair:
        def pack() -> cinicpack.Pack:
            return cinicpack.pack(source, self.place, progress=False)

        shutil.rmtree(self.place, ignore_errors=True)
        made = pack()
        images = sum(len(made[split]) for split in made.splits)
        return Pair(f"{_PACK} {name}", images, pack, usual, read)

    def _make_tree(self) -> Path:
        tree = self.work / "tree"
        if not tree.exists():
            with making(tree) as unfinished:
                size = "20" if self.quick else "3000"
                tool = [sys.executable, "tools/make_tree.py", "--per-class", size]
                subprocess.run([*tool, str(unfinished)], cwd=_HERE.parent, check=True)
        return tree

    def _find_jpegs(self) -> Path:
        if self.jpegs is None:
            raise MissingError("no archive of JPEG files was given (--jpegs)")
        return self.jpegs

    def _extract(self, archive: Path, how: str) -> tuple[str, Callable[[], object]]:
        if not _MEMORY.is_dir():
            raise MissingError(f"no {_MEMORY} to unpack into")

        def extract() -> None:
            # Unpack into memory: a disk's file system takes up to ten times as long to make files
            # where as many were removed a moment ago.
            with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
                subprocess.run(["tar", how, archive, "-C", folder], check=True)

        return f"`tar {how}` into memory, and removing that", extract

    def _make_cifar10(self) -> Path:
        """Make CIFAR-10's archive with images of noise: its files, keys and rows."""
        archive = self.work / "cifar-10-python.tar.gz"
        if archive.exists():
            return archive
        rows = 100 if self.quick else 10_000
        with making(archive) as unfinished, tempfile.TemporaryDirectory(dir=self.work) as place:
            folder = Path(place) / "cifar-10-batches-py"
            folder.mkdir()
            names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
            contents: dict[str, Any] = {}
            for number, name in enumerate(names):
                images, labels = draw(rows, number)
                contents[name] = {"data": images.reshape(rows, -1), "labels": labels.tolist()}
            contents["batches.meta"] = {"label_names": [*cinic10.CLASSES], "num_vis": 3072}
            for name, content in contents.items():
                (folder / name).write_bytes(pickle.dumps(content, protocol=2))
            with tarfile.open(unfinished, "w:gz", compresslevel=6) as tar:
                tar.add(folder, folder.name)
        return archive


KINDS = {
    "tree_png": "tree of PNG",
    "tar_gz": "tar.gz of PNG",
    "tree_jpeg": "tree of JPEG",
    "tar_xz": "tar.xz of JPEG",
    "parquet": "parquet",
    "cifar10": "CIFAR-10's archive",
    "imagenet32": "ImageNet32's pickles",
    "arrays": "arrays",
    "dataset": "torchvision's dataset",
}


def main() -> None:
    options = parse_arguments()
    use_cores(options.cores)
    options.work.mkdir(parents=True, exist_ok=True)
    output = options.output or (options.work if options.quick else _HERE / "results")
    output.mkdir(parents=True, exist_ok=True)
    path, report = (
        output / "sources.json",
        {"machine": describe_machine(), "rounds": options.rounds},
    )
    rows = read_rows(path, report)
    bench = Bench(options.work.resolve(), options.jpegs, quick=options.quick)
    # An interrupted run may have left its folder.
    shutil.rmtree(bench.extracted, ignore_errors=True)
    for kind in options.kinds or KINDS:
        rows[kind] = {"kind": KINDS[kind], **measure(bench, kind, options.rounds)}
        ordered = [rows[name] for name in KINDS if name in rows]
        path.write_text(format_json({**report, "rows": ordered}))
    print(path.read_text())
    if output == _HERE / "results":
        _PAGE.write_text(draw_page(_PAGE.read_text("utf-8"), json.loads(path.read_text())), "utf-8")
    say(f"written to {path}; now what was extracted is removed")
    shutil.rmtree(bench.extracted, ignore_errors=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_sources", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    add("--jpegs", type=lambda text: Path(text).resolve(strict=True), metavar="ARCHIVE",
        help="CIFAR-10 as a .tar.xz of train/CLASS/NAME.jpg and test/CLASS/NAME.jpg")  # fmt: skip
    add("--work", type=Path, default=_HERE / ".rivals" / "sources",
        help="where data is made, of one size: --quick needs another (%(default)s)")  # fmt: skip
    add("--output", type=Path, help="the folder of the results (benchmarks/results)")
    add("--cores", type=int, default=2, help="cores to use (%(default)s)")
    add("--rounds", type=int, default=5, help="interleaved rounds (%(default)s)")
    add("--quick", action="store_true", help="few images: does everything work?")
    options = parser.parse_args()
    if unknown := set(options.kinds) - KINDS.keys():
        parser.error(f"expected kinds of {', '.join(KINDS)}, found {', '.join(sorted(unknown))}")
    return options


def read_rows(path: Path, report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Read the rows of an earlier run, unless that was on another machine or had other rounds."""
    if not path.exists():
        return {}
    old = json.loads(path.read_text())
    if {**report, "rows": old["rows"]} != old:
        return {}
    names = {title: kind for kind, title in KINDS.items()}
    return {names[row["kind"]]: row for row in old["rows"]}


def measure(bench: Bench, kind: str, rounds: int) -> dict[str, Any]:
    """Time a pair in turns, after one round that warms up."""
    try:
        pair: Pair = getattr(bench, kind)()
    except (MissingError, ImportError) as error:
        say(f"{kind}: {error}")
        return {"not_measured": str(error)}
    times = race({"pack": pair.pack, "usual": pair.read}, rounds, bench.place)
    row: dict[str, Any] = {"call": pair.call, "images": pair.images, "usual": pair.usual}
    for name, values in times.items():
        row[f"{name}_s"] = round(statistics.median(values), 3)
        row[f"{name}_range_s"] = [round(min(values), 3), round(max(values), 3)]
    ratios = [one / other for one, other in zip(times["usual"], times["pack"], strict=True)]
    return {**row, "times_as_fast": round(statistics.median(ratios), 2)}


def draw(count: int, seed: int, classes: int = 10) -> tuple[Any, Any]:
    """Draw images of noise, (count, 3, 32, 32) uint8, and labels."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3, 32, 32), np.uint8), np.arange(count) % classes


def read_folders(folders: Iterable[Path]) -> tuple[str, Callable[[], object]]:
    """Read all images once with ImageFolder, in as many processes as cores are used."""
    from torch.utils.data import ConcatDataset, DataLoader

    from benchmarks.rivals.torchvision_here import datasets, transforms

    def read() -> None:
        data: Any = ConcatDataset([datasets.ImageFolder(folder, to_tensor) for folder in folders])
        iterate([DataLoader(data, batch_size=512, num_workers=workers)])

    to_tensor = transforms.PILToTensor()
    workers = len(os.sched_getaffinity(0))
    return f"`ImageFolder`, `DataLoader` of {workers} processes", read


def imitate_cifar10(archive: Path) -> Callable[[Path], dict[str, Any]]:
    """Return what opens an archive of noise as torchvision opens CIFAR-10's, digests and all."""
    from benchmarks.rivals.torchvision_here import datasets

    with tarfile.open(archive) as tar:
        digests = {
            Path(member.name).name: hashlib.md5(tar.extractfile(member).read()).hexdigest()  # type: ignore[union-attr]
            for member in tar
            if member.isfile()
        }

    official = datasets.CIFAR10
    facts = {
        "tgz_md5": hashlib.md5(archive.read_bytes()).hexdigest(),
        "train_list": [[name, digests[name]] for name, _ in official.train_list],
        "test_list": [[name, digests[name]] for name, _ in official.test_list],
        "meta": {**official.meta, "md5": digests["batches.meta"]},
    }
    noise = type("Noise", (official,), facts)
    return lambda root: {
        split: noise(str(root), train=split == "train", download=True)
        for split in ("train", "test")
    }


def iterate(datasets: Iterable[Iterable[object]]) -> None:
    for dataset in datasets:
        for _ in dataset:
            pass


def draw_page(page: str, report: dict[str, Any]) -> str:
    """Put the table of a report between the page's marks."""
    lines = [
        "| source | command or call | images | seconds | usual way | seconds | times as fast |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for row in report["rows"]:
        if "not_measured" in row:
            lines.append(f"| {row['kind']} | | | not measured | {row['not_measured']} | | |")
            continue
        lines.append(
            f"| {row['kind']} | `{row['call']}` | {row['images']:,} | {row['pack_s']:.2f} "
            f"| {row['usual']} | {row['usual_s']:.2f} | {row['times_as_fast']:.1f} |"
        )
    machine = report["machine"]
    note = (
        f"Medians of {report['rounds']} interleaved rounds on {machine['cores_used']} cores of "
        f"{machine['processor']}, {machine['memory_gb']} GB, {machine['system']}, Python "
        f"{machine['python']}; all files in the page cache "
        "([sources.json](../benchmarks/results/sources.json))."
    )
    lines += ["", textwrap.fill(note, 100)]
    begin, end = "<!-- sources: python -m benchmarks.bench_sources -->\n", "<!-- /sources -->\n"
    return fill_between("docs/sources.md", page, begin, end, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
