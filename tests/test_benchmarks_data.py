"""What benchmarks measure on: what is given is checked, what is made is whole, and this tree's."""

import argparse
import json
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

import cinicpack
from benchmarks import __main__ as everything
from benchmarks import bench_gpu, data
from benchmarks.data import add_arguments, make_archive, make_data, making
from cinicpack.convert.tree import Tree
from cinicpack.synthetic import write_tree


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def list_names(path):
    pack = cinicpack.open_pack(path)
    return sorted(name.decode() for split in pack.splits for name in pack[split].names.tolist())


def list_files(folder):
    return sorted(path.name for path in Path(folder).rglob("*.png"))


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


@pytest.fixture
def other(tmp_path):
    """Another tree than ``tree``."""
    write_tree(tmp_path / "other", 2, size=12)
    return tmp_path / "other"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tree", "no"], "no: expected a folder with train, valid, test in it, found no folder;"),
        (["--tree", "half"], "in it, found no valid, test; name another, or leave --tree out"),
        (["--archive", "no"], "no: expected a .tar.gz, found no file; name another, or leave"),
        (["--archive", "text"], "text: expected a .tar.gz, found another file; name another"),
    ],
)
def test_nothing_is_made_where_a_path_that_is_given_is_wrong(
    arguments, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half" / "train").mkdir(parents=True)
    (tmp_path / "text").write_text("text")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--work", "work", *arguments])
    with pytest.raises(SystemExit, match="2"):
        everything.main()
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pack_for_the_gpu_must_be_one(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench_gpu.main(["--quick", "--device", "cpu", "--pack", str(tmp_path)])
    assert "expected a pack, found none (" in capsys.readouterr().err


def test_real_images_for_the_gpu_must_be_there(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        bench_gpu.main(["--quick", "--device", "cpu", "--images", str(tmp_path / "no.tar")])
    assert "no.tar: expected an archive, found no file" in capsys.readouterr().err


def test_a_benchmark_that_fails_ends_the_others_with_its_status_and_no_traceback(
    tree, work, tmp_path, capfd
):
    archive = tmp_path / "a.tar.gz"
    tarfile.open(archive, "w:gz").close()
    with pytest.raises(SystemExit, match="1"):
        everything.run("bench_convert", "--archive", str(archive), "--work", str(work))
    assert capfd.readouterr().err == (
        f"--archive {archive}: expected --tree with it, found none; give the tree that the archive "
        "was made of too\n"
    )
    assert not work.exists()


def test_an_archive_must_hold_the_trees_images(tree, other, work, tmp_path):
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tree, "./CINIC-10")
    options = parse("--tree", tree, "--archive", archive, "--work", work)
    assert make_data(options).archive == archive
    shutil.rmtree(work)
    with pytest.raises(SystemExit, match="other, found 36, and test/airplane/"):
        make_data(parse("--tree", other, "--archive", archive, "--work", work))
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(SystemExit, match="expected a whole archive, found it damaged or cut off"):
        make_data(options)
    assert not work.exists()


@pytest.mark.filterwarnings("ignore:.*like CINIC-10, but")
def test_what_is_made_of_one_tree_is_not_used_for_another(tree, other, tmp_path, work):
    first = make_data(parse("--tree", tree, "--work", work))
    assert list_names(first.pack) == list_files(tree)
    assert make_data(parse("--tree", tree, "--work", work)) == first
    second = make_data(parse("--tree", other, "--work", work))
    make_archive(second)
    assert list_names(second.pack) == list_files(other)
    # Another at the same path.
    shutil.rmtree(other)
    write_tree(other, 3, size=12)
    third = make_data(parse("--tree", other, "--work", work))
    assert list_names(third.pack) == list_files(other)
    assert not third.archive.exists()
    assert len({first.work, second.work, third.work}) == 3


def test_results_of_few_images_do_not_replace_those_of_all(tree, work, tmp_path):
    places = make_data(parse("--tree", tree, "--work", work))
    assert places.output == places.work
    output = tmp_path / "results" / "few"
    assert make_data(parse("--tree", tree, "--work", work, "--output", output)).output == output
    assert output.is_dir()


def test_the_archive_that_is_made_is_the_trees(tree, work, tmp_path):
    linked = tmp_path / "linked"
    shutil.copytree(tree, linked)
    image = next((linked / "train" / "cat").iterdir())
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    places = make_data(parse("--tree", linked, "--work", work))
    make_archive(places)
    made = cinicpack.pack(places.archive, tmp_path / "a.pack", progress=False)
    assert made.fingerprint == cinicpack.open_pack(places.pack).fingerprint
    assert not list(places.work.glob(".*"))


@pytest.mark.filterwarnings("ignore:.*like CINIC-10, but")
def test_a_tree_that_is_made_by_half_is_not_taken_for_whole(work, monkeypatch):
    def make_tree(command):
        write_tree(command[2], 1, size=12)

    def make_half(command):
        make_tree(command)
        raise KeyboardInterrupt

    options = parse("--quick", "--work", work)
    monkeypatch.setattr(data, "_run", make_half)
    with pytest.raises(KeyboardInterrupt):
        make_data(options)
    assert not list((work / "data-quick").iterdir())
    monkeypatch.setattr(data, "_run", make_tree)
    places = make_data(options)
    assert len(list(Tree(places.tree).paths())) == 30
    assert len(list_names(places.pack)) == 30


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_run_has_left_is_made_anew(kind, tmp_path):
    def write(path, name):
        if kind == "folder":
            path.mkdir(exist_ok=True)
            path = path / name
        path.write_text(name)

    path = tmp_path / "made"
    with making(path) as unfinished:
        write(unfinished, "old")
        left = unfinished
    path.rename(left)
    with making(path) as unfinished:
        assert not unfinished.exists()
        write(unfinished, "new")
    assert not unfinished.exists()
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [
        "new" if kind == "folder" else "made"
    ]


def test_the_converter_is_measured_on_a_tree_alone(tree, work, tmp_path):
    everything.run(
        "bench_convert", "--tree", str(tree), "--work", str(work), "--rounds", "1",
        "--output", str(tmp_path))  # fmt: skip
    report = json.loads((tmp_path / "convert.json").read_text())
    assert report["images"] == 36
    assert [row["source"] for row in report["peak_memory"]] == ["tree", "archive"]
    assert {row["name"] for row in report["not_measured"]} >= {"pack the tree of JPEGs"}


def test_the_converter_is_measured_against_another_checkout(tree, work, tmp_path, capfd):
    here = Path(__file__).parents[1]
    everything.run(
        "bench_convert", "--tree", str(tree), "--work", str(work), "--rounds", "1",
        "--output", str(tmp_path), "--against", str(here / "tests" / ".."))  # fmt: skip
    out = capfd.readouterr().out
    report = json.loads(out[out.index("{") :])
    assert [row["name"] for row in report["times"]] == ["pack the tree", "pack the archive"]
    assert all(row["ratio"] > 0 for row in report["times"])
    assert not (tmp_path / "convert.json").exists()
