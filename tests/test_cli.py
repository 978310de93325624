import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cinicpack
from cinicpack.bench import Bench, format_bench
from cinicpack.cli import main
from cinicpack.demo import run_demo
from cinicpack.store.summary import describe_pack
from tests.packs import copy_pack

PROGRAM = (sys.executable, "-c", "import sys; from cinicpack.cli import main; sys.exit(main())")


def test_pack(tree, npy_pack, tmp_path, capsys):
    assert main(["pack", str(tree), str(tmp_path / "a.pack")]) == 0
    out, errors = capsys.readouterr()
    fingerprint = cinicpack.open_pack(npy_pack).fingerprint
    first, second, third = out.splitlines()
    assert re.fullmatch(r"packed 36 images in \d+\.\d s \([\d,]+ images/s\)", first)
    assert second == f"{tmp_path / 'a.pack'}: fingerprint {fingerprint}"
    assert third == f"{tree}: 1 image became RGB: 1 grey"
    assert errors == ""


def test_the_options_of_pack(tree, tmp_path, capsys):
    path = tmp_path / "a"
    command = ["pack", str(tree), str(path), "--format", "hdf5", "--splits", "test,train"]
    assert main([*command, "--workers", "0", "--shard-rows", "7"]) == 0
    pack = cinicpack.open_pack(path)
    assert pack.format == "hdf5"
    assert pack.splits == ("train", "test")
    assert pack.manifest.splits["test"].shards == (7, 5)
    assert main([*command, "--overwrite"]) == 0
    assert cinicpack.open_pack(path).manifest.splits["test"].shards == (12,)
    capsys.readouterr()
    assert main([*command, "--overwrite", "--expect", "cinic10"]) == 1
    assert "expected CINIC-10, found classes airplane, cat" in capsys.readouterr().err


def test_what_is_missing_is_accepted_on_request(tree, tmp_path, capsys):
    shutil.copytree(tree, tmp_path / "tree")
    (tmp_path / "tree" / "train" / "bee").mkdir()
    command = ["pack", str(tmp_path / "tree"), str(tmp_path / "a")]
    assert main(command) == 1
    assert "no images in 'train/bee', 'valid/bee', 'test/bee'" in capsys.readouterr().err
    assert main([*command, "--allow-missing"]) == 0
    assert cinicpack.open_pack(tmp_path / "a").classes == ("airplane", "bee", "cat")


def test_want_of_memory_is_told(monkeypatch, capsys):
    def fail(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("cinicpack.store.pack.open_pack", fail)
    assert main(["info", "a.pack"]) == 1
    assert capsys.readouterr().err == "cinicpack: error: not enough memory\n"


@pytest.mark.filterwarnings("default")
def test_bad_images_are_all_listed(tree, tmp_path, capsys):
    shutil.copytree(tree, tmp_path / "tree")
    for n in range(30):
        (tmp_path / f"tree/test/cat/{n:02}.png").write_bytes(b"")
    command = ["pack", str(tmp_path / "tree"), str(tmp_path / "a")]
    assert main(command) == 1
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith(f"cinicpack: error: {tmp_path / 'tree'}: 30 of 66 images cannot be")
    assert [line.split(":")[0] for line in lines] == [f"  test/cat/{n:02}.png" for n in range(30)]
    assert main([*command, "--skip-bad"]) == 0
    assert capsys.readouterr().err == (
        f"cinicpack: warning: {tmp_path / 'tree'}: 30 images that cannot be packed are left out; "
        "the manifest lists them\n"
    )
    assert main(["info", str(tmp_path / "a")]) == 0
    assert "left out when packing: 30 images" in capsys.readouterr().out


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("resize", [[], ["--resize", "7"]])
def test_images_that_were_no_rgb_are_counted(tmp_path, capsys, workers, resize):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8))
    kinds = {
        "a.png": "L", "b.png": "RGBA", "c.png": "LA", "d.png": "1", "e.png": "P", "f.png": "RGB",
        "g.jpg": "L", "h.jpg": "CMYK", "i.jpg": "RGB", "j.pgm": "L", "k.webp": "RGBA",
    }  # fmt: skip
    for number in range(2):
        folder = tmp_path / "tree" / f"class {number}"
        folder.mkdir(parents=True)
        for name, mode in kinds.items():
            picture = noise.convert(mode)
            if mode.endswith("A"):
                picture.putalpha(noise.getchannel(0))
            picture.save(folder / name)
    command = ["pack", str(tmp_path / "tree"), str(tmp_path / "a"), "--workers", workers, *resize]
    assert main(command) == 0
    assert capsys.readouterr().out.endswith(
        f"{tmp_path / 'tree'}: 16 images became RGB: 8 grey, 6 with transparency, 2 CMYK\n"
    )
    assert "grey" not in (tmp_path / "a" / "pack.json").read_text()
    command[1] = str(tmp_path / "tree" / "class 0")
    shutil.rmtree(tmp_path / "tree" / "class 1")
    (tmp_path / "tree" / "class 0" / "x").mkdir()
    for name in ("a.png", "f.png"):
        (tmp_path / "tree/class 0" / name).rename(tmp_path / "tree/class 0/x" / name)
    for name in kinds.keys() - {"a.png", "f.png"}:
        (tmp_path / "tree/class 0" / name).unlink()
    assert main([*command, "--overwrite"]) == 0
    assert capsys.readouterr().out.endswith(f"\n{command[1]}: 1 image became RGB: 1 grey\n")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--resize", "8"], ((8, 8), "box", "squash")),
        (["--resize", "8x6", "--filter", "lanczos"], ((8, 6), "lanczos", "squash")),
        (["--resize", "8", "--fit", "crop"], ((8, 8), "box", "crop")),
    ],
)
def test_images_are_resized(tree, tmp_path, capsys, options, expected):
    assert main(["pack", str(tree), str(tmp_path / "a"), *options]) == 0
    pack = cinicpack.open_pack(tmp_path / "a")
    assert pack.manifest.resize == expected
    assert pack["train"].images.shape == (12, *expected[0], 3)


def test_info(any_pack, capsys):
    assert main(["info", str(any_pack)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{any_pack}: ")
    assert main(["info", "--json", str(any_pack)]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = describe_pack(cinicpack.open_pack(any_pack))
    assert found == json.loads(json.dumps(expected))
    assert found["fingerprint"] in text


@pytest.mark.parametrize("options", [[], ["--workers", "1"]])
def test_verify(any_pack, tmp_path, capsys, options):
    path = tmp_path / any_pack.name
    copy_pack(any_pack, path)
    assert main(["verify", str(path), *options]) == 0
    out, errors = capsys.readouterr()
    assert re.fullmatch(
        rf"{path}: [\d,]+ bytes in \d+\.\d\d s \(\d+\.\d GB/s\), all as recorded\n", out
    )
    assert errors == ""
    split = cinicpack.open_pack(path)["valid"]
    where = bytes(np.array(split.images[-1]).transpose(2, 0, 1))
    name = "images-00002.npy" if "sharded" in str(any_pack) else "images-00000.npy"
    file = path / "valid" / name if path.is_dir() else path
    file.write_bytes(file.read_bytes().replace(where, where[::-1]))
    assert main(["verify", str(path), *options]) == 1
    out, errors = capsys.readouterr()
    assert out.endswith(" GB/s), 1 problem\n")
    assert errors.startswith(f"cinicpack: error: {file}")
    assert errors.count("\n") == 1


def test_verify_counts_what_differs(npy_pack, tmp_path, capsys):
    copy_pack(npy_pack, tmp_path / "a")
    for split in ("train", "test"):
        with open(tmp_path / "a" / split / "labels.npy", "rb+") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x07")
    assert main(["verify", str(tmp_path / "a")]) == 1
    assert capsys.readouterr().out.endswith(" GB/s), 2 problems\n")


def test_bench(npy_pack, tree, monkeypatch, capsys):
    def run_bench(pack: cinicpack.Pack, files: str | None, *, batch_size: int) -> Bench:
        assert str(pack.path) == str(npy_pack)
        return Bench("train", 12, batch_size, 2, 1e6, 2e6, "X", None if files is None else 5e3)

    monkeypatch.setattr("cinicpack.bench.run_bench", run_bench)
    assert main(["bench", str(npy_pack)]) == 0
    assert (
        capsys.readouterr().out
        == format_bench(Bench("train", 12, 128, 2, 1e6, 2e6, "X", None)) + "\n"
    )
    assert main(["bench", str(npy_pack), "--tree", str(tree), "--batch-size", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == Bench("train", 12, 5, 2, 1e6, 2e6, "X", 5e3)._asdict()


@pytest.mark.parametrize(
    ("command", "work", "message"),
    [
        ("histogram {pack} -o a.png", "histogram.count_intensities", "expected matplotlib, which"),
        ("histogram {pack} -o no/a.png", "histogram.count_intensities", "does not exist; create"),
        ("histogram {pack} -o folder.png", "histogram.count_intensities", "found a directory"),
        ("audit {pack} -o no/a.csv", "audit.audit_pack", "does not exist; create it first"),
        ("audit {pack} --sheet no/a.png", "audit.audit_pack", "does not exist; create it first"),
        ("audit {pack} --against {pack} -o no/a.csv", "overlap.compare_packs", "does not exist"),
        ("sheet {pack} -o no/a.png", "sheet.draw_classes", "does not exist; create it first"),
        ("sheet {pack} -o folder.png", "sheet.draw_classes", "found a directory"),
        ("contributors {pack} -o no/a.csv", "contributors.count_synsets", "does not exist; create"),
        ("cifar10 {pack} tree", "recovery.extract_cifar10", "expected nothing there, or an empty"),
        ("cifar10 {pack} no/a", "recovery.extract_cifar10", "does not exist; create it first"),
        ("unpack {pack} no/a", "unpack.write_files", "does not exist; create it first"),
        ("unpack {pack} a --link tree", "unpack._link", "expected SPLIT/CLASS/NAME of every"),
        ("pack {tree} a --expect cinic10", None, "expected CINIC-10, found classes airplane, cat"),
        ("bench {pack} --tree no", None, "no: expected a directory, .* found nothing"),
        ("bench {pack} --tree tree", None, "tree: expected the tree that .* found no split 'train"),
        ("demo --keep tree", None, "tree: already exists"),
        ("demo --keep no/a", None, "does not exist; create it first"),
        ("demo --keep a.h5", None, "format 'npy' makes a directory, the name says HDF5"),
    ],
)
def test_what_can_be_refused_is_refused_before_the_work(
    npy_pack, tree, tmp_path, monkeypatch, capsys, command, work, message
):
    def fail(*_: object, **__: object) -> None:
        pytest.fail("the work began")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    shutil.copytree(tree / "train", tmp_path / "tree" / "other")
    for name in ("bench.Loader", "convert.conversion.decode_images", "demo.write_tree"):
        monkeypatch.setattr(f"cinicpack.{name}", fail)
    if work is not None:
        monkeypatch.setattr(f"cinicpack.study.{work}", fail)
    if "matplotlib" in message:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(command.format(pack=npy_pack, tree=tree).split()) == 1
    assert re.search(message, capsys.readouterr().err)
    assert sorted(os.listdir()) == ["folder.png", "tree"]


def test_warnings_that_are_errors_are_told_in_a_line(tree, tmp_path, capsys):
    shutil.copytree(tree, tmp_path / "tree")
    (tmp_path / "tree" / "train" / "cat" / "notes.txt").write_text("")
    assert main(["pack", str(tmp_path / "tree"), str(tmp_path / "a")]) == 1
    assert capsys.readouterr().err == (
        f"cinicpack: error: {tmp_path / 'tree'}: 1 file that is no image is ignored\n"
    )
    assert not (tmp_path / "a").exists()


def test_a_download_is_not_begun_for_a_pack_that_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cinicpack.fetch.download.download", lambda *_, **__: pytest.fail("begun"))
    for destination, pack in ((".", "CINIC-10.pack"), ("a.tgz", "a.pack"), ("b.tar.gz", "b.pack")):
        (tmp_path / pack).mkdir()
        assert main(["download", str(tmp_path / destination), "--pack"]) == 1
        assert f"{pack}: already exists" in capsys.readouterr().err


# What Python 3.12 and later say when a DataLoader starts its processes.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_demo(tmp_path, monkeypatch, capsys):
    short = partial(run_demo, per_class=2, round_seconds=0.01, file_seconds=0.01)
    monkeypatch.setattr("cinicpack.demo.run_demo", short)
    kept = tmp_path / "kept.pack"
    assert main(["demo", "--keep", str(kept)]) == 0
    assert len(cinicpack.open_pack(kept)["train"]) == 20
    out = capsys.readouterr().out
    assert f'cinicpack.Loader("{kept}", "train"' in out
    assert "making 60 synthetic PNG files" in out
    assert "files, ImageFolder's way" in out
    assert "cinicpack Loader" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pack", "no", "a"], r"no: expected a directory, .* or \.parquet, found nothing"),
        (["pack", ".", "a"], r"\.: expected all images at .*; found no image at all"),
        (["pack", ".", "no/a"], r"the folder .*/no does not exist; create it first"),
        (["pack", ".", "a.h5"], r"a\.h5: format 'npy' makes a directory, the name says HDF5"),
        (["info", "no"], r"no: there is no such pack; make one with 'cinicpack pack SOURCE no'"),
        (["info", "."], r"\.: expected a pack, found a directory without pack\.json; make one"),
        (["verify", "no"], r"no: there is no such pack"),
        (["info", "file"], r"file: expected .*a pack, found "),
    ],
)
def test_errors_are_one_message(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("text")
    assert main(arguments) == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"cinicpack: error: .*{message}.*\n", errors)
    assert os.listdir() == ["file"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nope"],
        ["pack"],
        ["pack", "a"],
        ["pack", "a", "b", "--format", "zarr"],
        ["pack", "a", "b", "--workers", "two"],
        ["pack", "a", "b", "--expect", "cifar10"],
        ["pack", "a", "b", "--resize", "0"],
        ["pack", "a", "b", "--resize", "3x4x3"],
        ["pack", "a", "b", "--resize", "3x"],
        ["pack", "a", "b", "--resize", "-3"],
        ["pack", "a", "b", "--resize", "32", "--filter", "nearest"],
        ["info"],
        ["verify", "a", "--json"],
        ["verify", "a", "--work", "2"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: cinicpack")


@pytest.mark.parametrize(
    ("command", "expected", "values"),
    [
        ("pack a b --workers", "a whole number of at least 0", ["-1", "1.5", "two", ""]),
        ("pack a b --shard-rows", "a whole number of at least 1", ["0"]),
        ("verify a --workers", "a whole number of at least 0", ["-1"]),
        ("bench a --batch-size", "a whole number of at least 1", ["0", "-3"]),
        ("unpack a b --workers", "a whole number of at least 0", ["-1"]),
        ("sheet a -o b.png --augment", "a whole number of at least 0", ["-1"]),
        (
            "sheet a -o b.png --seed",
            "a whole number of at least 0 and below 18446744073709551616",
            ["-1", "18446744073709551616"],
        ),
        ("shift a b --confidence", "a number between 0 and 1", ["0", "95", "nan", "high"]),
    ],
)
def test_numbers_out_of_their_domain_are_wrong_usage(command, expected, values, capsys):
    *_, option = command.split()
    for value in values:
        with pytest.raises(SystemExit) as caught:
            main([*command.split(), value])
        assert caught.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.endswith(f"error: argument {option}: expected {expected}, found {value!r}")


def test_options_that_list_have_both_spellings(npy_pack, tree, tmp_path, capsys):
    command = ["pack", str(tree), str(tmp_path / "a"), "--overwrite"]
    for option in ("--splits", "--split"):
        assert main([*command, option, "test,train"]) == 0
        assert cinicpack.open_pack(tmp_path / "a").splits == ("train", "test")
    for number, (split, classes) in enumerate([("--split", "--class"), ("--splits", "--classes")]):
        made = tmp_path / f"tree{number}"
        options = [split, "train,test", classes, "cat"]
        assert main(["unpack", str(npy_pack), str(made), *options]) == 0
        assert sorted(str(path.relative_to(made)) for path in made.glob("*/*")) == [
            "test/cat",
            "train/cat",
        ]
        assert main(["sheet", str(npy_pack), "-o", str(tmp_path / "a.png"), *options]) == 0
        assert main(["stats", str(npy_pack), split, "train+test"]) == 0
    predictions = tmp_path / "predictions.npy"
    np.save(predictions, np.zeros(24, np.uint8))
    capsys.readouterr()
    for split in ("train+test", "train,test"):
        assert main(["shift", str(npy_pack), str(predictions), "--splits", split]) == 0
        assert "24" in capsys.readouterr().out


def test_the_package_can_be_run(npy_pack):
    command = [sys.executable, "-m", "cinicpack", "info", str(npy_pack)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{npy_pack}: ")


def test_version_and_help(capsys):
    for arguments in (["--version"], ["--help"], ["pack", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    version, *_ = lines = capsys.readouterr().out.splitlines()
    assert version == f"cinicpack {cinicpack.__version__}"
    assert any(line.strip().startswith("cinicpack pack CINIC-10.tar.gz") for line in lines)


def test_every_command_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    commands = re.findall(r"^    ([a-z0-9-]+)  ", text, re.MULTILINE)
    assert {"pack", "info", "verify", "bench", "demo"} <= set(commands)
    for command in commands:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = capsys.readouterr().out
        assert re.search(rf"Examples?:\n +cinicpack {command}\b", shown), command


def test_names_in_no_encoding_can_be_shown(tree, tmp_path):
    shutil.copytree(tree / "train", tmp_path / "tree")
    (tmp_path / "tree/cat").rename(tmp_path / "tree/\udcff")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for command in (["pack", "tree", "\udcfe.pack"], ["info", "\udcfe.pack"]):
        done = subprocess.run(
            [*PROGRAM, *command], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"\\udcfe.pack" in done.stdout
    assert b"\\udcff" in done.stdout


@pytest.mark.parametrize("container", ["npy", "hdf5"])
def test_names_in_no_encoding_come_through(tree, tmp_path, container):
    for split in ("train", "valid", "test"):
        shutil.copytree(tree / split, tmp_path / "tree" / split)
        folder = tmp_path / "tree" / split / "cat"
        first = min(folder.iterdir())
        shutil.copy(first, first.with_name(f"\udcfe{split}.png"))
        folder.rename(folder.with_name("\udcff"))
    pack, findings, listed, again = (tmp_path / name for name in ("a", "b.csv", "c.csv", "tree 2"))
    predictions = tmp_path / "predictions.npy"
    np.save(predictions, np.zeros(13, np.uint8))
    for command in (
        ["pack", tmp_path / "tree", pack, "--format", container],
        ["verify", pack],
        ["info", "--json", pack],
        ["audit", pack, "-o", findings, "--sheet", tmp_path / "sheet.png"],
        ["contributors", pack, "-o", listed],
        ["stats", pack],
        ["shift", pack, predictions],
        ["unpack", pack, again],
        ["unpack", pack, tmp_path / "links", "--link", tmp_path / "tree", "--merge-train-valid"],
    ):
        assert main([*map(os.fspath, command)]) == 0
    assert b"train,\xff,\xfetrain.png" in findings.read_bytes()
    assert b"train, \xff\n" in listed.read_bytes()

    opened = cinicpack.open_pack(pack)
    assert opened.classes == ("airplane", "\udcff")
    packed_again = cinicpack.pack(again, tmp_path / "d", progress=False)
    assert packed_again.fingerprint == opened.fingerprint
    loader = cinicpack.Loader(pack, "train", classes="\udcff", batch_size=4, num_workers=0)
    _, labels = next(iter(loader))
    assert labels.tolist() == [1] * 4
    state = json.loads(json.dumps(loader.state_dict()))
    other = cinicpack.Loader(again.with_name("d"), "train", classes="\udcff", batch_size=7)
    other.load_state_dict(state)
    [(_, labels)] = other
    assert labels.tolist() == [1] * 3


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_had_enough(npy_pack, unbuffered):
    with subprocess.Popen(
        [*PROGRAM, "info", npy_pack],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (1, b"")


def test_ctrl_c(npy_pack, tmp_path):
    os.mkfifo(tmp_path / "predictions.npy")
    command = [*PROGRAM, "shift", npy_pack, tmp_path / "predictions.npy"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE) as process,
        # Opening a pipe waits for its reader: the command is running from here on.
        open(tmp_path / "predictions.npy", "wb"),
    ):
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, b"cinicpack: interrupted\n")


def test_progress_is_for_terminals(tree, tmp_path):
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [*PROGRAM, "pack", tree, tmp_path / "a"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    shown = b""
    # Linux ends the stream of a terminal that is gone with an error.
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as stream:
        while chunk := stream.read(1000):
            shown += chunk
    assert b"packed 36 images" in done.stdout
    assert re.search(rb"decode: 100%.* 36\.0/36\.0 \[.*(images/s|s/ images)\]", shown)
    done = subprocess.run([*command, "--overwrite"], capture_output=True, check=True)
    assert done.stderr == b""


@pytest.mark.parametrize(
    "where", ["argparse.ArgumentParser.parse_args", "cinicpack.store.pack.open_pack"]
)
def test_an_interrupt_is_told_in_a_line_with_what_is_left(npy_pack, monkeypatch, capsys, where):
    def interrupt(*_: object) -> None:
        error = KeyboardInterrupt()
        error.add_note("something stays")
        raise error

    monkeypatch.setattr(where, interrupt)
    assert main(["info", str(npy_pack)]) == 130
    assert capsys.readouterr().err == "cinicpack: interrupted\nsomething stays\n"
