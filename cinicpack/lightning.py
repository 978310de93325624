"""A pack as a LightningDataModule: loaders for training, validation and test."""

import warnings
from collections.abc import Sequence
from typing import Any, Final

from lightning.pytorch import Callback, LightningDataModule, LightningModule

from cinicpack.errors import ArgumentError, StateError
from cinicpack.load.augment import Augment
from cinicpack.load.loader import Loader
from cinicpack.load.mix import Mix
from cinicpack.store.pack import Pack, PathLike, open_pack
from cinicpack.store.split import Split

__all__ = ["PackedDataModule"]

_AUGMENT: Final = Augment()


class PackedDataModule(LightningDataModule):
    """The splits of a pack for a Lightning ``Trainer``, each through a `Loader`.

    Ranks share every epoch, in evaluation too, without padding. A checkpoint of the trainer, saved
    at any moment, holds where training is: training goes on with exactly the samples that would
    have come, in their epoch. That is so after ``fit`` too, and where ``max_steps``, ``max_time``,
    ``should_stop`` or an exception ended ``fit`` in the middle of an epoch. The training loader has
    the epochs of the trainer.

    Args:
        pack: a path, or an open `Pack`.
        batch_size: images in a batch, per rank.
        augment: how training images are varied; None: not at all.
        mix: how training batches are mixed, as `Loader` takes it; None: not at all.
        train: split for training, as `Loader` takes it.
        valid: split for validation.
        test: split for test and prediction.
        drop_last: leave out the training images that do not fill a batch on every rank; else the
            last batch may be smaller on some ranks, or empty, and the mean of an empty batch is not
            a number.
        options: of all loaders, as `Loader` takes them: ``dtype``, ``source``, ``seed``, ...;
            ``device`` is the trainer's if that is a GPU. Not ``shuffle``: training images come in a
            new order every epoch, unless the trainer has ``overfit_batches``, and all others in
            order. Not ``epoch``, which is the trainer's, nor ``labels``, ``order``
            and ``views``, which are for one split.

    Raises `ArgumentError` for any of these, and what `open_pack` raises. ``fit`` raises
    `StateError` for a checkpoint in mid-epoch of other data or options. ``fit`` warns where it is
    called again without a checkpoint after it ended in mid-epoch, and starts the next epoch.

    >>> from cinicpack.lightning import PackedDataModule
    >>> data = PackedDataModule("cinic10.pack", batch_size=32)
    >>> data.setup("fit")
    >>> for images, labels in data.train_dataloader():  # as ``Trainer.fit(model, data)`` does
    ...     assert images.shape[1:] == (3, 32, 32)
    """

    def __init__(
        self,
        pack: PathLike | Pack,
        *,
        batch_size: int = 128,
        augment: Augment | None = _AUGMENT,
        mix: Mix | Sequence[Mix] | None = None,
        train: str | Split = "train",
        valid: str | Split = "valid",
        test: str | Split = "test",
        drop_last: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if "shuffle" in options:
            raise ArgumentError(
                "expected no shuffle: training batches are shuffled, validation and test are not"
            )
        for name in options.keys() & {"labels", "order", "views"}:
            raise ArgumentError(f"expected no {name}: that is for one split, and here are three")
        if "epoch" in options:
            raise ArgumentError("expected no epoch: the training loader's is that of the trainer")
        self.pack = pack if isinstance(pack, Pack) else open_pack(pack)
        self.batch_size = batch_size
        self.augment = augment
        self.mix = mix
        self.train, self.valid, self.test = train, valid, test
        self.drop_last = drop_last
        self.options = options
        self._state: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Prepare to go on from a checkpoint; a subclass that overrides this must call it."""
        self._state = None
        callbacks = getattr(self.trainer, "callbacks", None)
        if stage != "fit" or callbacks is None:
            return
        if not any(isinstance(callback, _Resumption) for callback in callbacks):
            callbacks.insert(0, _Resumption())

    def train_dataloader(self) -> Loader:
        """Make the loader of the training split: shuffled, augmented, resumable."""
        options = {"augment": self.augment, "mix": self.mix, "drop_last": self.drop_last}
        options |= self._loader_options()
        # A trainer with `overfit_batches` expects the same batches in every epoch. mypy takes
        # `self.trainer` for None here.
        shuffle = not getattr(self.trainer, "overfit_batches", 0)
        if self.trainer is not None:
            _warn_of_left_epoch(self.trainer)
        return _TrainLoader(self, self.pack, self.train, shuffle=shuffle, **options)

    def val_dataloader(self) -> Loader:
        """Make the loader of the validation split: in order, as the images are."""
        return Loader(self.pack, self.valid, shuffle=False, **self._loader_options())

    def test_dataloader(self) -> Loader:
        """Make the loader of the test split: in order, as the images are."""
        return Loader(self.pack, self.test, shuffle=False, **self._loader_options())

    def predict_dataloader(self) -> Loader:
        """Make the loader of the test split: in order, as the images are."""
        return self.test_dataloader()

    def _loader_options(self) -> dict[str, Any]:
        options = {"batch_size": self.batch_size, **self.options}
        if self.trainer is not None and self.trainer.strategy.root_device.type == "cuda":
            options.setdefault("device", self.trainer.strategy.root_device)
        return options


class _Resumption(Callback):
    """Makes training go on where a checkpoint is, in mid-epoch or at the end of an epoch.

    When ``max_steps`` or ``should_stop`` end ``fit``, the trainer counts the epoch as finished even
    in its middle, and from a checkpoint that is saved then it would go on with the next epoch. At
    the end of an epoch ``max_steps`` makes the trainer count it as unfinished, and it would go on
    with a single batch of the next epoch.
    """

    def on_load_checkpoint(
        self,
        trainer: Any,
        pl_module: LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Correct what the checkpoint says of the epoch, before the trainer sees it."""
        module, loops = trainer.datamodule, checkpoint.get("loops")
        if trainer.state.fn != "fit" or not isinstance(module, PackedDataModule) or loops is None:
            return
        fit = loops["fit_loop"]
        states = fit["state_dict"].get("combined_loader", [])
        if not states or not all("images_per_step" in state for state in states):
            # The checkpoint is of another data module: its place in an epoch means nothing here.
            return
        batches, epochs = fit["epoch_loop.batch_progress"], fit["epoch_progress"]
        current = epochs["current"]
        if current["ready"] == current["started"] == current["processed"]:
            is_left = _is_left(batches["current"]["completed"], batches["is_last_batch"])
            for counts in epochs.values():
                counts["processed"] -= is_left
                counts["completed"] = counts["processed"]
            if not is_left:
                batches["current"] = dict.fromkeys(batches["current"], 0)
                batches["is_last_batch"] = False
        # The state is kept for the loader to load, since the trainer does not load it into a loader
        # that was made earlier, for its `estimated_stepping_batches`.
        if len(states) == 1:
            (module._state,) = states


class _TrainLoader(Loader):
    """A loader that has the epochs of a trainer, which saves the loader's state and loads it."""

    def __init__(self, module: PackedDataModule, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._module = module
        self._trainer: Any = module.trainer

    def __iter__(self) -> Any:
        # This is a generator, so that an epoch starts with its first batch: the trainer calls
        # iter() more than once for some epochs, and before it has loaded a checkpoint.
        if self._trainer is not None:
            self._resume()
            self._check_epoch(self._trainer.current_epoch)
            self.set_epoch(self._trainer.current_epoch)
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self._trainer is not None:
            batches = self._trainer.fit_loop.epoch_loop.batch_progress
            done = batches.current.processed
            if done < batches.current.ready:
                # The trainer has not finished its latest batch, so that this comes again: the model
                # has not been trained on it.
                samples = done * self._images_per_step()
                state |= {"epoch": self._trainer.current_epoch, "samples": samples}
            elif batches.is_last_batch and state["samples"]:
                # A trainer with `limit_train_batches` ends an epoch before the loader does.
                state |= {"epoch": state["epoch"] + 1, "samples": 0}
        return {**state, "images_per_step": self._images_per_step()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        here = self._images_per_step()
        state = {"images_per_step": here, **state}
        if (saved := state.pop("images_per_step")) != here:
            raise StateError(
                f"expected {saved} images per step (batch_size * world_size), as in the epoch that "
                f"the checkpoint is in the middle of, since the trainer counts steps; found {here}"
            )
        super().load_state_dict(state)

    def _resume(self) -> None:
        """Load the loader's state of a checkpoint; at an epoch's end only the seed is needed."""
        state, self._module._state = self._module._state, None
        if state is not None and state["samples"]:
            self.load_state_dict(state)
        elif state is not None and self._draws_seed:
            super().load_state_dict({**super().state_dict(), "seed": state["seed"]})

    def _check_epoch(self, epoch: int) -> None:
        here, samples = self._stream.following
        if samples and here != epoch:
            raise StateError(
                f"the checkpoint is in the middle of epoch {here}, which the trainer counts as "
                f"finished: it is at epoch {epoch}, and the rest of epoch {here} would be lost; "
                "call super().setup(stage) where setup() of the data module is overridden"
            )

    def _images_per_step(self) -> int:
        return self.batch_size * (1 if self._trainer is None else self._trainer.world_size)


def _is_left(batches: int, is_last_batch: bool) -> bool:
    """Say whether an epoch of which there were that many batches is not at its end."""
    return batches > 0 and not is_last_batch


def _warn_of_left_epoch(trainer: Any) -> None:
    epochs, batches = trainer.fit_loop.epoch_progress, trainer.fit_loop.epoch_loop.batch_progress
    is_finished = epochs.current.started == epochs.current.processed
    if is_finished and _is_left(batches.current.completed, batches.is_last_batch):
        warnings.warn(
            f"fit ended after {batches.current.completed} batches of an epoch, which the trainer "
            f"counts as finished: epoch {epochs.current.processed} comes next, and the rest is "
            "lost; save a checkpoint and pass ckpt_path= to go on in mid-epoch",
            stacklevel=2,
        )
