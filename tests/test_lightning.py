import contextlib
import copy
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections import defaultdict
from datetime import timedelta
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import cinicpack
from cinicpack import ArgumentError, Augment, CutMix, Loader, MixUp, SelectionError, StateError
from cinicpack.synthetic import write_tree
from tests.torchvision_here import import_torchvision

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("lightning") is None, reason="lightning is not installed"
    ),
    # Lightning 2.6 with torch 2.13.
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning"),
]

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def import_lightning() -> Any:
    # Lightning imports torchvision where it is installed.
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()
    import lightning.pytorch

    return lightning.pytorch


def make_module(pack, **options):
    import_lightning()
    from cinicpack.lightning import PackedDataModule

    options = {"batch_size": 20, "num_workers": 0, "return_index": True, **options}
    return PackedDataModule(pack, **options)


def make_model() -> Any:
    """A model that notes the batches of each stage: (index, sum of the pixels) of every image."""
    lightning = import_lightning()

    class Recorder(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen = defaultdict(list)

        def note(self, stage, batch):
            images, _, index = batch
            sums = images.double().sum((1, 2, 3)).tolist()
            self.seen[stage].append(list(zip(index.tolist(), sums, strict=True)))

        def training_step(self, batch, number):
            self.note("train", batch)
            self.seen["epochs"].append(self.trainer.current_epoch)
            return (self.weight * batch[0]).mean()

        def validation_step(self, batch, number):
            if not self.trainer.sanity_checking:
                self.note("valid", batch)

        def test_step(self, batch, number):
            self.note("test", batch)

        def predict_step(self, batch, number):
            self.note("predict", batch)
            return batch[1]

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Recorder()


def make_saver(folder: Path) -> Any:
    """A callback that saves a checkpoint at every moment at which Lightning's own does."""
    lightning = import_lightning()

    class Saver(lightning.Callback):  # type: ignore[name-defined, misc]
        def __init__(self):
            self.saved = []

        def save(self, trainer, model):
            if not trainer.sanity_checking:
                path = folder / f"{len(self.saved)}.ckpt"
                trainer.save_checkpoint(path)
                self.saved.append((path, len(model.seen["train"])))

        def on_train_batch_end(self, trainer, model, *rest):
            self.save(trainer, model)

        def on_train_epoch_end(self, trainer, model):
            self.save(trainer, model)

        def on_validation_end(self, trainer, model):
            self.save(trainer, model)

        def on_exception(self, trainer, model, exception):
            self.save(trainer, model)

    return Saver()


def fit(module, callbacks=(), checkpoint=None, model=None, **options):
    """Train; return the batches with the trainer's epoch of each."""
    model = model or make_model()
    trainer = import_lightning().Trainer(callbacks=list(callbacks), **{**QUIET, **options})
    trainer.fit(model, module, ckpt_path=checkpoint)
    return model.seen["train"]


def label(module, **options):
    """Train; return every batch with the trainer's epoch."""
    model = make_model()
    return list(zip(fit(module, model=model, **options), model.seen["epochs"], strict=True))


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """Three splits of ten classes of nine images of 32x32 pixels."""
    folder = tmp_path_factory.mktemp("lightning")
    write_tree(folder / "tree", 9)
    with pytest.warns(UserWarning, match="like CINIC-10, but"):
        return cinicpack.pack(folder / "tree", folder / "cinic.pack", progress=False)


def test_without_a_trainer_it_has_loaders(pack):
    mix: list[Any] = [MixUp(), CutMix()]
    module = make_module(pack.path, train="train+valid", dtype="float16", seed=3, mix=mix)
    expected = Loader(
        pack, "train+valid", batch_size=20, augment=Augment(), drop_last=True, dtype="float16",
        seed=3, return_index=True, mix=mix,
    )  # fmt: skip
    train = module.train_dataloader()
    for _ in range(2):
        for batch, other in zip(train, expected, strict=True):
            assert all(map(torch.equal, batch, other))
    for loader, split in (
        (module.val_dataloader(), "valid"),
        (module.test_dataloader(), "test"),
        (module.predict_dataloader(), "test"),
    ):
        expected = Loader(pack, split, batch_size=20, dtype="float16", shuffle=False)
        for (images, labels, _), (others, wanted) in zip(loader, expected, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, wanted)


def test_without_a_trainer_it_may_be_set_up(pack):
    module = make_module(pack)
    module.setup("fit")
    assert len(list(module.train_dataloader())) == 4


def test_a_trainer_runs_every_stage(pack):
    model = make_model()
    trainer = import_lightning().Trainer(max_epochs=2, **QUIET)
    module = make_module(pack, drop_last=False)
    trainer.fit(model, module)
    trainer.test(model, module, verbose=False)
    trainer.predict(model, module)
    train = [[row for row, _ in batch] for batch in model.seen["train"]]
    assert [len(batch) for batch in train] == [20, 20, 20, 20, 10] * 2
    for epoch in (train[:5], train[5:]):
        assert sorted(chain.from_iterable(epoch)) == list(range(90))
    assert train[:5] != train[5:]
    for stage, epochs in (("valid", 2), ("test", 1), ("predict", 1)):
        rows = [row for batch in model.seen[stage] for row, _ in batch]
        assert rows == list(range(90)) * epochs


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 2},
        {"max_epochs": 2, "limit_train_batches": 3, "val_check_interval": 2},
        {"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1},
        {"max_steps": 7, "num_sanity_val_steps": 0},
    ],
)
def test_training_goes_on_with_what_would_have_come(pack, tmp_path, options):
    saver = make_saver(tmp_path)
    whole = fit(make_module(pack), [saver], **options)
    assert len({tuple(batch) for batch in whole}) == len(whole)
    for path, steps in saver.saved:
        assert fit(make_module(pack), checkpoint=path, **options) == whole[steps:], path.name


def make_stop(how: str, batches: int) -> Any:
    """A callback that has training end after that many batches."""
    lightning = import_lightning()

    class Stop(lightning.Callback):  # type: ignore[name-defined, misc]
        def on_train_batch_end(self, trainer, model, *rest):
            trainer.should_stop |= len(model.seen["train"]) == batches

    class Timer(lightning.callbacks.Timer):  # type: ignore[name-defined, misc]
        def time_elapsed(self, stage="train"):
            return len(model.seen["train"]) >= batches

    model = make_model()
    callbacks = {"should_stop": Stop, "max_time": lambda: Timer(timedelta(seconds=1))}
    return model, [callbacks[how]()] if how in callbacks else []


# What Lightning says of the state of a timer.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning")
@pytest.mark.parametrize(
    ("how", "options", "batches", "resumed"),
    [
        ("max_steps", {}, 2, {}),
        ("max_steps", {}, 2, {"max_steps": 8}),
        ("max_steps", {"limit_val_batches": 0}, 6, {}),
        ("max_steps", {"limit_val_batches": 0}, 2, {"reload_dataloaders_every_n_epochs": 1}),
        # At an epoch's end.
        ("max_steps", {"limit_val_batches": 0}, 4, {"max_steps": 8}),
        ("max_steps", {}, 4, {"max_steps": 8}),
        ("max_steps", {"limit_train_batches": 3, "check_val_every_n_epoch": 2}, 5, {}),
        ("should_stop", {"limit_val_batches": 0}, 2, {"max_steps": 8}),
        ("should_stop", {}, 3, {}),
        ("max_time", {"limit_val_batches": 0}, 1, {}),
    ],
)
def test_training_goes_on_where_fit_ended(pack, tmp_path, how, options, batches, resumed):
    lightning = import_lightning()
    whole = label(make_module(pack), max_epochs=2, **options)
    (model, callbacks), saver = make_stop(how, batches), make_saver(tmp_path)
    stop = {"max_steps": batches} if how == "max_steps" else {}
    trainer = lightning.Trainer(
        callbacks=[*callbacks, saver], **{**QUIET, "max_epochs": 2, **options, **stop}
    )
    trainer.fit(model, make_module(pack))
    assert len(model.seen["train"]) == batches
    saver.save(trainer, model)
    for path, steps in saver.saved[-3:]:
        resume = {"max_epochs": 2, **options, **resumed}
        assert label(make_module(pack), checkpoint=path, **resume) == whole[steps:], path.name


@pytest.mark.parametrize(
    ("error", "batches"),
    [(KeyboardInterrupt, 1), (KeyboardInterrupt, 3), (RuntimeError, 0), (RuntimeError, 5)],
)
def test_a_batch_that_was_not_trained_on_comes_again(pack, tmp_path, error, batches):
    saver, model, lightning = make_saver(tmp_path), make_model(), import_lightning()
    whole = label(make_module(pack), max_epochs=2, limit_val_batches=0)

    class Fail(lightning.Callback):  # type: ignore[name-defined, misc]
        def on_before_backward(self, trainer, model, loss):
            if len(model.seen["train"]) > batches:
                raise error

    handler = signal.getsignal(signal.SIGINT)
    try:
        # At an interrupt Lightning ends the program.
        with pytest.raises((RuntimeError, SystemExit)):
            fit(make_module(pack), [Fail(), saver], model=model, max_epochs=2, limit_val_batches=0)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(model.seen["train"]) == batches + 1
    (checkpoint, _) = saver.saved[-1]
    resumed = label(make_module(pack), checkpoint=checkpoint, max_epochs=2, limit_val_batches=0)
    assert resumed == whole[batches:]


def make_scheduled_model() -> Any:
    """A model that asks for the number of steps, as a schedule over all of them needs it."""
    model = make_model()

    def configure_optimizers():
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        steps = model.trainer.estimated_stepping_batches
        return [optimizer], [torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=steps)]

    model.configure_optimizers = configure_optimizers
    return model


@pytest.mark.parametrize("seed", [4, None])
@pytest.mark.parametrize("reload", [0, 1])
def test_a_loader_that_was_asked_for_early_goes_on_too(pack, tmp_path, seed, reload):
    options = {"max_epochs": 2, "reload_dataloaders_every_n_epochs": reload}
    saver = make_saver(tmp_path)
    whole = fit(make_module(pack, seed=seed), [saver], model=make_scheduled_model(), **options)
    for path, steps in saver.saved:
        model = make_scheduled_model()
        resumed = fit(make_module(pack, seed=seed), checkpoint=path, model=model, **options)
        # A loader that is made for a new epoch draws anew.
        same = (4 - steps) % 4 if seed is None and reload else len(resumed)
        assert resumed[:same] == whole[steps:][:same], path.name
        assert len(resumed) == len(whole) - steps
    module = make_module(pack, seed=seed, augment=None)
    with pytest.raises(StateError, match="augment"):
        fit(module, checkpoint=saver.saved[0][0], model=make_scheduled_model(), **options)


def test_fit_without_a_checkpoint_says_what_it_leaves_out(pack):
    trainer = import_lightning().Trainer(max_steps=2, **QUIET)
    model, module = make_model(), make_module(pack)
    trainer.fit(model, module)
    trainer.fit_loop.epoch_loop.max_steps = 4
    with pytest.warns(UserWarning, match="after 2 batches .* epoch 1 comes next"):
        trainer.fit(model, module)
    assert model.seen["epochs"] == [0, 0, 1, 1]
    # Two whole epochs are none that was left.
    trainer = import_lightning().Trainer(max_epochs=1, **QUIET)
    trainer.fit(make_model(), module)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(make_model(), module)


@pytest.mark.parametrize("options", [{"max_steps": 4}, {"max_epochs": 2}])
def test_a_module_without_its_setup_says_what_it_leaves_out(pack, tmp_path, options):
    trainer = import_lightning().Trainer(max_steps=2, **QUIET)
    trainer.fit(make_model(), make_module(pack))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    module = make_module(pack)
    module.setup = lambda stage: None
    refused = pytest.raises(StateError, match=r"middle of epoch 0, .* finished.*super\(\).setup")
    with (
        pytest.warns(UserWarning, match="after 2 batches .* epoch 1 comes next"),
        refused if "max_steps" in options else contextlib.nullcontext(),
    ):
        fit(module, checkpoint=tmp_path / "end.ckpt", **options)


def test_the_checkpoint_of_another_data_module_is_gone_on_from_with_the_next_epoch(pack, tmp_path):
    trainer = import_lightning().Trainer(max_steps=2, **QUIET)
    options: dict[str, Any] = {"batch_size": 30, "return_index": True, "num_workers": 0}
    trainer.fit(make_model(), Loader(pack, **options), Loader(pack, "valid", **options))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    with pytest.warns(UserWarning, match="after 2 batches .* epoch 1 comes next"):
        batches = label(make_module(pack), checkpoint=tmp_path / "end.ckpt", max_epochs=2)
    assert batches == label(make_module(pack), max_epochs=2)[4:]


def test_epochs_are_those_of_the_trainer(pack):
    module = make_module(pack)
    whole = fit(module, max_epochs=2)
    assert fit(module, max_epochs=2) == whole
    expected = Loader(pack, batch_size=20, drop_last=True, return_index=True)
    rows = [batch[2].tolist() for _ in range(2) for batch in expected]
    assert [[row for row, _ in batch] for batch in whole] == rows


def test_overfitting_is_on_the_same_batches_in_every_epoch(pack):
    seen = fit(make_module(pack, augment=None), max_epochs=3, overfit_batches=2)
    assert seen[:2] == seen[2:4] == seen[4:]
    assert len({tuple(batch) for batch in seen}) == 2


def test_another_batch_size_is_refused_in_the_middle_of_an_epoch(pack, tmp_path):
    saver = make_saver(tmp_path)
    fit(make_module(pack), [saver], max_epochs=1, limit_val_batches=0)
    (first, _), *_, (last, _), (end, _) = saver.saved
    for checkpoint in (first, last):
        with pytest.raises(StateError, match=r"expected 20 images per step .*; found 10"):
            fit(make_module(pack, batch_size=10), checkpoint=checkpoint, max_epochs=2)
    assert len(fit(make_module(pack, batch_size=10), checkpoint=end, max_epochs=2)) == 9


def test_other_options_are_refused_by_name(pack, tmp_path):
    saver = make_saver(tmp_path)
    fit(make_module(pack), [saver], max_epochs=1, limit_val_batches=0)
    with pytest.raises(StateError, match="seed 0"):
        fit(make_module(pack, seed=1), checkpoint=saver.saved[0][0], max_epochs=1)


def test_bad_arguments_are_refused_by_name(pack, tmp_path):
    with pytest.raises(SelectionError, match="dev"):
        make_module(pack, valid="dev").val_dataloader()
    with pytest.raises(ArgumentError, match="no shuffle"):
        make_module(pack, shuffle=False)
    with pytest.raises(ArgumentError, match="no epoch"):
        make_module(pack, epoch=3)
    with pytest.raises(TypeError, match="shards"):
        make_module(pack, shards=2).train_dataloader()
    with pytest.raises(FileNotFoundError, match="no such pack"):
        make_module(tmp_path / "none")


def test_loaders_are_on_the_trainers_gpu(pack):
    def make_loader(**options):
        module = make_module(pack, **options)
        # More than any machine has, so that this is refused everywhere.
        module.trainer = SimpleNamespace(
            strategy=SimpleNamespace(root_device=torch.device("cuda", 99)), world_size=1
        )
        return module.val_dataloader()

    with pytest.raises(ArgumentError, match="'cuda:99' is not there"):
        make_loader()
    assert next(iter(make_loader(device="cpu")))[0].device.type == "cpu"


def test_two_ranks_share_epochs_and_resume(pack, tmp_path):
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, __file__, str(pack.path), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    alone = fit(make_module(pack), max_epochs=2)
    steps = zip(*(rank["train"] for rank in ranks), strict=True)
    for (first, second), expected in zip(steps, alone, strict=True):
        assert [tuple(sample) for pair in zip(first, second, strict=True) for sample in pair] == (
            expected
        )
    for rank in ranks:
        assert rank["resumed"] == rank["train"][rank["steps"] :]
    rows = [row for rank in ranks for batch in rank["valid"] for row, _ in batch]
    assert sorted(rows) == list(range(90))


def train_on_two_ranks(path: str, folder: Path) -> None:
    """What the program run by that test does, on both ranks."""
    options = {"devices": 2, "strategy": "ddp", "max_epochs": 2}
    saver, model = make_saver(folder), make_model()
    trainer = import_lightning().Trainer(callbacks=[saver], **QUIET, **options)
    trainer.fit(model, make_module(path, batch_size=10))
    checkpoint, steps = saver.saved[1]
    result = {
        "train": model.seen["train"],
        "steps": steps,
        "resumed": fit(make_module(path, batch_size=10), checkpoint=checkpoint, **options),
    }
    trainer.validate(model, make_module(path, batch_size=10), verbose=False)
    result["valid"] = model.seen["valid"][-5:]
    (folder / f"rank-{trainer.global_rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    train_on_two_ranks(sys.argv[1], Path(sys.argv[2]))


@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]
)
def test_the_module_and_its_loaders_can_be_copied(pack, way):
    module = make_module(pack)
    loader = module.train_dataloader()
    iterator = iter(loader)
    next(iterator)
    resumed, fresh = way(loader), way(module).train_dataloader()
    expected = list(iterator)
    for other in (resumed, list(fresh)[1:]):
        for batch, wanted in zip(other, expected, strict=True):
            assert all(map(torch.equal, batch, wanted))
    with pytest.raises(TypeError, match="generator"):
        way(iterator)
