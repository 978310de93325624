import re
import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

import cinicpack
from cinicpack.synthetic import write_tree

pytestmark = pytest.mark.usefixtures("one_thread_of_torch")

EXAMPLES = Path(__file__).parents[1] / "examples"
FEDERATED = runpy.run_path(str(EXAMPLES / "federated.py"))
FIXMATCH = runpy.run_path(str(EXAMPLES / "fixmatch.py"))


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    write_tree(folder / "tree", per_class=20, splits=["train", "test"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cinicpack.pack(folder / "tree", folder / "small.pack", progress=False)


@pytest.fixture
def run(monkeypatch, capsys):
    def run(example, *arguments):
        monkeypatch.setattr(sys, "argv", ["example.py", *map(str, arguments)])
        example["main"]()
        return capsys.readouterr().out.splitlines()

    return run


def test_clients_train_together(pack, run):
    options = ["--clients", 5, "--per-round", 2, "--rounds", 3, "--epochs", 1]
    first, *rounds = run(FEDERATED, pack.path, *options)
    assert re.fullmatch(r"5 clients with \d+ to \d+ images", first)
    assert [re.sub(r"[\d.]+% \(.*", "", line) for line in rounds] == [
        f"round {number}: test accuracy " for number in (1, 2, 3)
    ]


def test_a_round_averages_what_each_client_alone_would_make(pack):
    def train_on(*clients):
        torch.manual_seed(0)
        network = FEDERATED["make_network"](10)
        loaders = [cinicpack.Loader(pack, client, batch_size=16) for client in clients]
        FEDERATED["train_round"](network, loaders, 1, 0.05)
        return parameters_to_vector(network.parameters()).detach()

    small, large = pack["train"].select(indices=range(40)), pack["train"].select(indices=range(160))
    together, alone, other = train_on(small, large), train_on(small), train_on(large)
    assert not torch.allclose(alone, other)
    torch.testing.assert_close(together, alone * 0.2 + other * 0.8, rtol=1e-4, atol=1e-6)


def test_few_labels_and_many_images_without_are_trained_on(pack, run):
    options = ["--labelled", 50, "--batch-size", 20, "--steps", 5, "--report", 2]
    first, *reports = run(FIXMATCH, pack.path, *options, "--threshold", 0.2)
    assert first == "50 images with a label, 150 without"
    assert [line.split(":")[0] for line in reports] == ["step 2", "step 4", "step 5"]


def test_only_images_that_the_weak_view_is_sure_of_count():
    weak = torch.tensor([[9.0, 0, 0], [0.1, 0, 0]], requires_grad=True)
    strong = torch.zeros(2, 3, requires_grad=True)
    loss, guesses, sure = FIXMATCH["compare_views"](weak, strong, 0.95)
    loss.backward()
    assert (guesses.tolist(), sure.tolist()) == ([0, 0], [True, False])
    assert loss.item() == pytest.approx(torch.tensor(3.0).log().item() / 2)
    assert weak.grad is None
    assert strong.grad is not None
    assert strong.grad[0].any()
    assert not strong.grad[1].any()
