"""A pack as a LightningDataModule: loaders for training, validation and test."""

from typing import Any, Final

from lightning.pytorch import LightningDataModule, Trainer

from cinicpack.errors import ArgumentError, StateError
from cinicpack.load.augment import Augment
from cinicpack.load.loader import Loader
from cinicpack.store.reader import Pack, PathLike, Split, open_pack

__all__ = ["PackedDataModule"]

_AUGMENT: Final = Augment()


class PackedDataModule(LightningDataModule):
    """The splits of a pack for a Lightning ``Trainer``, each through a `Loader`.

    Ranks share every epoch, in evaluation too without padding. A checkpoint of the trainer, saved
    at any batch, holds where the training loader is: training goes on with exactly the samples that
    would have come. Epochs of the training loader are those of the trainer.

    Args:
        pack: a path, or an open `Pack`.
        batch_size: images in a batch, per rank.
        augment: what is done to training images; None: nothing.
        train: split for training, as `Loader` takes it.
        valid: split for validation.
        test: split for test and prediction.
        drop_last: leave out the training images that do not fill a batch on every rank; else the
            last batch may be smaller on some ranks, or empty, of which a mean is not a number.
        options: of all loaders, as `Loader` takes them: ``dtype``, ``source``, ``seed``, ...;
            ``device`` is the trainer's if that is a GPU. Not ``shuffle``: training is in a new
            order every epoch, but for a trainer with ``overfit_batches``; all else is in order.

    Raises `ArgumentError` for ``shuffle``, and what `open_pack` raises.

    >>> from cinicpack.lightning import PackedDataModule
    >>> data = PackedDataModule("cinic10.pack", batch_size=512)  # doctest: +SKIP
    >>> lightning.Trainer(max_epochs=10).fit(model, data)  # doctest: +SKIP
    """

    def __init__(
        self,
        pack: PathLike | Pack,
        *,
        batch_size: int = 128,
        augment: Augment | None = _AUGMENT,
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
        self.pack = pack if isinstance(pack, Pack) else open_pack(pack)
        self.batch_size = batch_size
        self.augment = augment
        self.train, self.valid, self.test = train, valid, test
        self.drop_last = drop_last
        self.options = options

    def train_dataloader(self) -> Loader:
        """Make the loader of the training split: shuffled, augmented, resumable."""
        options = {"augment": self.augment, "drop_last": self.drop_last, **self._loader_options()}
        # Those are to be the same batches in every epoch. mypy does not see where it is set.
        shuffle = not getattr(self.trainer, "overfit_batches", 0)
        return _TrainLoader(self.trainer, self.pack, self.train, shuffle=shuffle, **options)

    def val_dataloader(self) -> Loader:
        """Make the loader of the validation split: in order, as the images are."""
        return Loader(self.pack, self.valid, shuffle=False, **self._loader_options())

    def test_dataloader(self) -> Loader:
        """Make the loader of the test split: in order, as the images are."""
        return Loader(self.pack, self.test, shuffle=False, **self._loader_options())

    def predict_dataloader(self) -> Loader:
        """Make the loader of the test split, likewise."""
        return self.test_dataloader()

    def _loader_options(self) -> dict[str, Any]:
        options = {"batch_size": self.batch_size, **self.options}
        if self.trainer is not None and self.trainer.strategy.root_device.type == "cuda":
            options.setdefault("device", self.trainer.strategy.root_device)
        return options


class _TrainLoader(Loader):
    """A loader that keeps step with a trainer, which saves its state in checkpoints and loads it.

    Its epochs are the trainer's, which loads no states from a checkpoint of an epoch's end. Once it
    has loaded one, they count on from there.
    """

    def __init__(self, trainer: Trainer | None, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._trainer = trainer
        self._is_loaded = False

    def __iter__(self) -> Any:
        # A generator: the epoch starts with its first batch, since the trainer calls iter() more
        # than once for some epochs.
        if self._trainer is not None and not self._is_loaded:
            self.set_epoch(self._trainer.current_epoch)
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self._trainer is not None and self._trainer.is_last_batch and state["samples"]:
            # The trainer stops before the end where its limit_train_batches says so.
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
        self._is_loaded = True

    def _images_per_step(self) -> int:
        return self.batch_size * (1 if self._trainer is None else self._trainer.world_size)
