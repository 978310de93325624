"""The commands of many runs: what they train, and what they draw."""

import json
from xml.etree import ElementTree

import pytest
import torch

import cinicpack
from benchmarks.paper.__main__ import main
from benchmarks.paper.plan import SOURCES, Plan
from benchmarks.paper.recipe import Recipe
from benchmarks.paper.table import draw_table, summarise
from benchmarks.paper.train import train
from cinicpack.cinic10 import CLASSES

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=2, batch_size=32)
OPTIONS = ["--epochs", "2", "--batch-size", "32"]


class BrokenError(Exception):
    """Stands for whatever ends a run."""


def train_here(pack, output, **plan):
    """Train in this process, as the commands do in others."""
    train(Plan("resnet7", recipe=RECIPE, **plan), cinicpack.open_pack(pack), CPU, output)


def test_the_table_trains_what_is_missing_and_goes_on_with_what_broke_off(
    cinic, tmp_path, monkeypatch, capfd
):
    train_here(cinic, tmp_path, train_on="train")
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.paper.train._report", break_off)
        with pytest.raises(BrokenError):
            train_here(cinic, tmp_path, train_on="train+valid")
    options = [*OPTIONS, "--models", "resnet7", "--seeds", "1", "--output", str(tmp_path)]
    main(["table", str(cinic), *options])
    out, err = capfd.readouterr()
    assert "2 runs, of which 1 are to be done" in err
    assert "resnet7-train+valid-0: goes on after 1 epochs" in err
    table = (tmp_path / "table.md").read_text()
    assert out == table + "\n"
    assert "Trained on train;" in table
    assert "Trained on train+valid;" in table
    assert table.count("| ResNet-7 (small) | 1,161,666 | ") == 2
    for name in ("table.svg", "curves.svg"):
        assert ElementTree.parse(tmp_path / name).getroot().tag.endswith("svg")
    # Everything is there now: nothing is trained, and the same is drawn.
    main(["table", str(cinic), *options])
    assert "2 runs, of which 0 are to be done" in capfd.readouterr().err
    assert (tmp_path / "table.md").read_text() == table


def break_off(*_):
    raise BrokenError


def test_results_of_another_recipe_are_refused(cinic, tmp_path):
    train_here(cinic, tmp_path)
    with pytest.raises(SystemExit, match="expected the results of this plan, found those of ano"):
        main(["table", str(cinic), "--models", "resnet7", "--output", str(tmp_path)])


def make_report(model, train_on, seed, error, best=None):
    return {
        "plan": {"model": model, "train_on": train_on, "seed": seed},
        "parameters": 11_173_962,
        "last": {"error": error},
        "best": best and {"error": best},
    }


def test_a_table_has_the_published_errors_and_differences():
    one = summarise([make_report("resnet18", "train", 0, 12.5, 12.6)], is_cinic10=True)
    five = [make_report("resnet18", "train+valid", seed, 9.5 + seed / 10) for seed in range(5)]
    lines = draw_table("train", [one]).splitlines()
    assert lines[4] == "| ResNet-18 | 11,173,962 | 12.50 | 12.60 | 12.42 | +0.08 |"
    row = draw_table("train+valid", [summarise(five, is_cinic10=True)]).splitlines()[4]
    assert row == "| ResNet-18 | 11,173,962 | 9.70 ± 0.16 (5 seeds) | - | 9.73 ± 0.05 | -0.03 |"
    # Nothing was published of other data sets.
    row = draw_table("train", [summarise(five[:1], is_cinic10=False)]).splitlines()[4]
    assert row == "| ResNet-18 | 11,173,962 | 9.50 | - | - | - |"


def test_shift_keeps_apart_what_was_trained_on(cinic, tmp_path, capsys):
    for source in (None, *SOURCES):
        train_here(cinic, tmp_path, source=source)
    main(["shift", str(cinic), "--model", "resnet7", *OPTIONS, "--output", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].startswith("| all | 90 |")
    assert lines[5].startswith("| CIFAR-10's part | 20 |")
    assert lines[6].startswith("| ImageNet's part | 70 |")
    itself = lines[7].split(" | ")
    assert itself[:2] == ["| CIFAR-10 itself", "50"]
    report = json.loads((tmp_path / "resnet7-train-cifar10_train-0.json").read_text())
    errors = report["last"]["by_source"]
    assert itself[2:4] == [f"{errors['cifar10 test']:.2f}", f"({errors['cifar10 train']:.2f})"]
    assert "".join(lines).count("| (") == 1
    assert ElementTree.parse(tmp_path / "shift-resnet7.svg").getroot().tag.endswith("svg")


@pytest.fixture
def cifar(tmp_path):
    """A folder in which CIFAR-10, or 20 images for it, is ready."""
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 32, 32, 3) * 20
    splits = dict.fromkeys(("train", "test"), (images, range(10)))
    folder = tmp_path / "cifar"
    folder.mkdir()
    cinicpack.pack_arrays(splits, folder / "cifar10.pack", classes=CLASSES)
    return folder


def test_cifar10_has_tables_of_its_own(cifar, tmp_path, capsys):
    options = [str(cifar), "--cifar10", *OPTIONS, "--output", str(tmp_path)]
    main(["train", *options, "--model", "resnet7"])
    main(["table", *options, "--models", "resnet7"])
    table = capsys.readouterr().out
    assert "Trained on train;" in table
    # CIFAR-10 has no valid, and the authors have no figures of it.
    assert "train+valid" not in table
    assert table.splitlines()[4].endswith(" | - | - | - |")


def test_shift_wants_cinic10(cifar):
    with pytest.raises(SystemExit, match="expected a pack of CINIC-10"):
        main(["shift", str(cifar / "cifar10.pack"), "--model", "resnet7"])
