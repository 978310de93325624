"""Runs: what they learn from, what they leave, and that they go on as if nothing had happened."""

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import cinicpack
from benchmarks.paper.__main__ import main
from benchmarks.paper.plan import Plan, choose_images
from benchmarks.paper.recipe import RECIPES, Recipe
from benchmarks.paper.train import train
from cinicpack.cinic10 import Origin
from tests.paper.killing import TIMES

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SHORT = Recipe(epochs=2, batch_size=16)


def make_options(pack, output, *more):
    few = ["--model", "resnet7", "--epochs", "2", "--batch-size", "16"]
    return ["train", str(pack), *few, "--output", str(output), *more]


def read_states(folder, name="resnet7-train-0"):
    state = torch.load(folder / f"{name}.pt", weights_only=True)
    return json.loads((folder / f"{name}.json").read_text()), state


def test_a_run_reports_the_last_epoch_and_the_best_in_validation(cinic, tmp_path):
    main(make_options(cinic, tmp_path))
    report, state = read_states(tmp_path)
    assert report["images"] == {"train": 90, "valid": 90, "test": 90}
    assert [entry["epoch"] for entry in report["history"]] == [1, 2]
    errors = [entry["valid_error"] for entry in report["history"]]
    assert report["best"]["valid_error"] == min(errors)
    assert report["best"]["epoch"] == 1 + errors.index(min(errors))
    for tested in (report["last"], report["best"]):
        assert tested["by_source"].keys() == {
            "cifar10",
            "cifar10 train",
            "cifar10 test",
            "imagenet",
        }
        assert [*tested["by_class"]] == list(cinicpack.open_pack(cinic).classes)
        assert tested["error"] == pytest.approx(sum(tested["by_class"].values()) / 10, abs=0.01)
    assert 0 <= report["waited_share"] < 1
    assert report["parameters"] == 1_161_666
    # The rate has come down to zero, half a cosine later.
    assert state["schedule"]["last_epoch"] == 2
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)


def test_the_authors_recipe_is_theirs():
    theirs = {"epochs": 300, "batch_size": 64, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
    recipe = dataclasses.asdict(RECIPES["paper"])
    assert recipe.items() >= theirs.items()
    assert (recipe["nesterov"], recipe["schedule"], recipe["label_smoothing"]) == (
        False,
        "cosine",
        0,
    )
    assert RECIPES["paper"].augment == cinicpack.Augment(crop_padding=4, flip="random")


def test_test_images_are_read_when_the_last_epoch_is_over(cinic, tmp_path, monkeypatch):
    read = []
    start = cinicpack.Loader.__iter__

    def note(loader):
        read.append(loader.split.name)
        return start(loader)

    monkeypatch.setattr(cinicpack.Loader, "__iter__", note)
    train(Plan("resnet7", recipe=SHORT), cinicpack.open_pack(cinic), CPU, tmp_path)
    # The weights of the last epoch are tested, then the best ones.
    assert read == ["train", "valid", "train", "valid", "test", "test"]


def test_what_is_held_out_is_not_trained_on(cinic):
    pack = cinicpack.open_pack(cinic)
    images = choose_images(pack, Plan("resnet7", hold_out=0.2))
    assert images.valid is not None
    assert (len(images.train), len(images.valid)) == (72, 18)
    assert not {*images.train.names.tolist()} & {*images.valid.names.tolist()}
    assert choose_images(pack, Plan("resnet7", "train+valid")).valid is None


def test_cifar10_itself_is_found_in_all_splits(cinic):
    pack = cinicpack.open_pack(cinic)
    images = choose_images(pack, Plan("resnet7", source="cifar10 train"))
    assert {*images.train.sources["origin"]} == {Origin.CIFAR10_TRAIN}
    # Two images in nine are CIFAR-10's; half of those in test are of its test set.
    assert (len(images.train), images.valid) == (50, None)
    part = choose_images(pack, Plan("resnet7", source="imagenet"))
    assert part.valid is not None
    assert {*part.train.sources["origin"], *part.valid.sources["origin"]} == {Origin.IMAGENET}


def test_an_interrupted_run_goes_on_bit_for_bit(cinic, tmp_path, monkeypatch):
    options = ["--recipe", "small", "--fast", "bf16", "channels_last", "--checkpoint-every", "2"]
    main(make_options(cinic, tmp_path / "whole", *options))
    step, steps = torch.optim.SGD.step, list[None]()

    def interrupt(optimizer, *arguments):
        steps.append(None)
        if len(steps) == 9:
            raise KeyboardInterrupt
        return step(optimizer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main(make_options(cinic, tmp_path / "broken", *options))
    main(make_options(cinic, tmp_path / "broken", *options))
    (ours, broken), (theirs, whole) = (read_states(tmp_path / name) for name in ("broken", "whole"))
    for entry in (*ours["history"], *theirs["history"]):
        for name in TIMES:
            del entry[name]
    assert ours["history"] == theirs["history"]
    assert ours["last"] == theirs["last"]
    for name, value in whole["network"].items():
        assert torch.equal(broken["network"][name], value), name


def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(cinic):
    command = [sys.executable, "-m", "tests.paper.killing", str(cinic), "6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("6 kills"), done.stderr


def test_two_ranks_see_the_samples_of_one(cinic):
    command = [sys.executable, "-m", "tests.paper.ranks", str(cinic)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("the same 12 batches\n"), done.stdout + done.stderr


def test_a_checkpoint_of_another_plan_is_refused(cinic, tmp_path):
    main(make_options(cinic, tmp_path))
    with pytest.raises(SystemExit, match=r"another plan: precision 'fp32' \(here 'bf16'\)"):
        main(make_options(cinic, tmp_path, "--precision", "bf16"))


@pytest.mark.parametrize(("ranks", "batch_size"), [(3, 16), (4, 12)])
def test_batches_that_ranks_cannot_share_are_refused(
    cinic, tmp_path, monkeypatch, ranks, batch_size
):
    monkeypatch.setattr("benchmarks.paper.training.count_ranks", lambda: ranks)
    message = f"expected batches that {ranks} ranks can share, found 90 images in batches of"
    with pytest.raises(SystemExit, match=message):
        main(make_options(cinic, tmp_path, "--batch-size", str(batch_size)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.pack"], "expected a pack, found none"),
        (["--device", "cuda"], "expected a GPU for --device cuda, found none"),
        (["--train-on", "train+more"], "expected a split out of train, valid, test"),
        (["--hold-out", "1.5"], "above 0 and below 1, found 1.5"),
        (["--tensorboard", "log"], "expected tensorboard for --tensorboard, found none"),
    ],
)
def test_what_is_missing_is_named(cinic, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    pack = options.pop(0) if options[0].endswith(".pack") else cinic
    with pytest.raises(SystemExit, match=message):
        main(make_options(pack, tmp_path, *options))


def test_tensorboard_gets_what_the_history_has(cinic, tmp_path, monkeypatch):
    scalars: dict[Any, Any] = {}

    class SummaryWriter:
        def __init__(self, folder):
            scalars["folder"] = folder

        def add_scalar(self, name, value, epoch):
            scalars[name, epoch] = value

        def flush(self):
            pass

    fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    main(make_options(cinic, tmp_path, "--tensorboard", str(tmp_path / "log")))
    history = read_states(tmp_path)[0]["history"]
    assert scalars.pop("folder") == str(tmp_path / "log" / "resnet7-train-0")
    assert scalars["loss", 2] == history[1]["loss"]
    assert scalars["valid_error", 1] == history[0]["valid_error"]
