"""The loader: epochs of augmented batches from a pack."""

import hashlib
import warnings
from collections.abc import Iterable
from typing import Any, Final, Self

from cinicpack.errors import ArgumentError, LoaderError
from cinicpack.load.augment import Augment
from cinicpack.load.makers import Maker, make_maker, make_samples, plan_pace
from cinicpack.load.options import Normalize, Options, check_int, check_options, resolve_ranks
from cinicpack.load.order import Share
from cinicpack.load.repeats import repeats
from cinicpack.load.samples import Samples
from cinicpack.load.state import identify, read_state, write_state
from cinicpack.load.stream import Epoch, Stream
from cinicpack.store.pack import Pack, PathLike, Split

__all__ = ["Loader"]

# All but the epoch, which goes on.
_OPTIONS: Final = tuple(name for name in Options.__dataclass_fields__ if name != "epoch")
# A copy is made of these as they were opened and read, since a path leads elsewhere tomorrow, and
# an iterator is used up; and of all else as it was given, to be decided anew where the copy is.
_OPENED: Final = ("pack", "split", "classes", "normalize")


class Loader:
    """Iterates over epochs of augmented batches of a split.

    The first ``iter()`` is epoch 0, each further one the next. What happens to a sample is a pure
    function of seed, epoch and index, and the order one of seed and epoch: any batch size, number
    of threads and number of ranks give the same samples with the same pixels. So a loader that is
    made anew gives epoch 0 again: make one for all epochs, or pass ``epoch`` or ``seed=None``. A
    process warns once, where it makes the third shuffled or augmented loader with the same options
    and each before gave epoch 0 only, more than a first batch of it, without ``epoch``, `set_epoch`
    or a loaded state.

    Batches are made ahead in slabs of one batch, or of several that make up 8 MiB (32 MiB for a
    device, 64 MiB of resident pixels): at most ``num_workers + 1`` slabs are under way or waiting
    (3 with resident pixels), towards the end of an epoch those that the next one starts with; the
    threads are there until `close`, or until nothing refers to the loader and its iterators any
    longer. The memory of a slab is used again when the images of none of its batches are referred
    to any longer; images that are held keep their slab, labels and index do not. In the first epoch
    one more thread reads the images ahead, in the order of the files. On a device the batches of a
    slab share a storage: to save one alone, ``clone()`` it.

    Several threads may take batches from one iterator: each batch goes to one of them.

    A copy, be it of `copy.copy`, `copy.deepcopy` or `pickle`, is a loader of its own with the same
    arguments, at the place that `state_dict` names, and closed if this one is. A pickle holds no
    images: where it is loaded the pack is opened again. Iterators cannot be copied.

    Args:
        pack: a path, or an open `Pack`.
        split: name of a split, several joined by ``+``, or a `Split`.
        batch_size: images in a batch, per rank.
        shuffle: draw a new order for every epoch; else rows in their order.
        augment: what is done to training images; None: nothing.
        normalize: True: with the pack's mean and std, whatever part of it is loaded; False: pixels
            in [0, 1]; or (mean, std).
        dtype: of the images: "float32", "float16", "bfloat16"; "uint8": pixels as they are, cropped
            and mirrored, but not normalised.
        channels_last: torch tensors keep their shape with that memory format; NumPy arrays are
            (B, H, W, 3).
        source: only images from "cifar10" or "imagenet".
        classes: only images of these classes; labels stay as they are.
        drop_last: leave out the images that do not fill a batch on every rank.
        seed: of order and augmentation, below 2**64; None: drawn anew, then a loaded state brings
            its own. Where torch.distributed is initialised all ranks have rank 0's, and all must
            make the loader.
        epoch: of the first ``iter()``, as `set_epoch` sets it; None: 0.
        num_workers: threads that make batches; None: the usable cores, divided among the ranks that
            torchrun started on this machine; 0: the one that iterates.
        device: where batches are given.
        augment_on: "cpu", or "device".
        resident: whether the split's pixels live on the device; implies ``augment_on="device"``.
        rank: of this process; None: torch.distributed's when an epoch starts, if that is
            initialised.
        world_size: number of processes that share an epoch, likewise.
        return_index: add the rows of the images in ``split``, before any narrowing.
        output: "torch" or "numpy".

    A batch is ``(images, labels)`` or ``(images, labels, index)``: images (B, 3, H, W) of
    ``dtype``, labels (B,) int64, index (B,) int64.

    Raises:
        ArgumentError: an argument is out of its domain.
        SelectionError: the pack has no such split, source or class.
        FileNotFoundError: there is no pack.
        PackError: the pack is damaged.
        LoaderError: memory for copies to a GPU cannot be pinned; from ``iter()`` and ``len()``, and
            at once where ``seed`` is None: WORLD_SIZE is above 1, but torch.distributed is not
            initialised; or it was initialised after a seed had been drawn.

    >>> import cinicpack
    >>> loader = cinicpack.Loader(
    ...     "cinic10.pack", "train", batch_size=128, augment=cinicpack.Augment()
    ... )
    >>> images, labels = next(iter(loader))
    >>> images.shape, images.dtype
    (torch.Size([128, 3, 32, 32]), torch.float32)
    >>> loader.close()
    """

    pack: Pack
    split: Split
    batch_size: int
    shuffle: bool
    augment: Augment | None
    normalize: Normalize
    dtype: str
    channels_last: bool
    source: str | None
    classes: list[str] | None
    drop_last: bool
    seed: int
    num_workers: int
    device: Any
    augment_on: str
    resident: bool
    rank: int | None
    world_size: int | None
    return_index: bool
    output: str
    _arguments: dict[str, Any]
    _draws_seed: bool
    _seed_is_own: bool
    _identity: dict[str, Any]
    _samples: Samples
    _maker: Maker
    _stream: Stream
    _repeat: bytes | None

    def __init__(
        self,
        pack: PathLike | Pack,
        split: str | Split = "train",
        *,
        batch_size: int = 128,
        shuffle: bool = True,
        augment: Augment | None = None,
        normalize: Normalize = True,
        dtype: str = "float32",
        channels_last: bool = False,
        source: str | None = None,
        classes: str | Iterable[str] | None = None,
        drop_last: bool = False,
        seed: int | None = 0,
        epoch: int | None = None,
        num_workers: int | None = None,
        device: Any = "cpu",
        augment_on: str = "cpu",
        resident: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        return_index: bool = False,
        output: str = "torch",
    ) -> None:
        given = {**locals()}
        del given["self"]
        options = check_options(given)
        vars(self).update({name: getattr(options, name) for name in _OPTIONS})
        self._arguments = given | {name: getattr(options, name) for name in _OPENED}
        self._draws_seed = seed is None
        # Whether ranks that come later would have other seeds.
        self._seed_is_own = self._draws_seed and resolve_ranks(rank, world_size)[1] == 1
        self._identity = identify(options)
        self._samples, pace = make_samples(options), plan_pace(options)
        self._maker = make_maker(options, self._samples, pace)
        self._stream = Stream(self._samples, self._maker, options, pace)
        self._repeat = None if self._draws_seed else _find_repeat(options, self._identity)
        self._warn_of_repeat(epoch)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what is not an option: these cannot be changed, for all else was made for them."""
        if name == "epoch":
            raise ArgumentError("epoch of a Loader is not assigned: call set_epoch()")
        if name in _OPTIONS and name in vars(self):
            raise ArgumentError(f"{name} of a Loader cannot be changed: make a new Loader")
        super().__setattr__(name, value)

    def __len__(self) -> int:
        """Count the batches of an epoch, the same on every rank."""
        return self._share().batches(len(self._samples))

    def __iter__(self) -> Epoch:
        """Start the next epoch, or go on where a loaded state stopped.

        An iterator of this loader that is still running is closed.
        """
        iterator = self._stream.start(self._share(), self._repeat)
        if iterator.number:
            self._vary()
        return iterator

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def epoch(self) -> int:
        """The epoch of the running iterator, else that of the next ``iter()``.

        An iterator runs until ``next()`` has found no further batch, or until it is closed or
        dropped.

        >>> import cinicpack
        >>> loader = cinicpack.Loader("cinic10.pack", epoch=3)
        >>> for images, labels in loader:
        ...     assert loader.epoch == 3
        >>> loader.epoch
        4
        """
        return self._stream.epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch; those after it count on from there.

        Where a state of that same epoch was loaded, it still goes on in the middle.
        """
        self._stream.set_epoch(check_int("epoch", epoch, 0, 2**32))
        self._vary()

    def state_dict(self) -> dict[str, Any]:
        """Return where the epoch is, as JSON can hold it, in less than 600 bytes.

        It counts what the consumer has received. After the last batch it is the start of the next
        epoch.
        """
        return write_state(self._identity, self._stream.position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state: the next ``iter()`` gives exactly what would have come.

        Batch size, world size and number of threads may be others than when it was saved. A loader
        made with ``seed=None`` takes the state's seed.

        Raises:
            StateError: the state is of another pack or other options; they are named.
            LoaderError: an iterator is running.
        """
        if self._stream.running():
            raise LoaderError(
                "expected a loader without a running iterator, found one in the middle of an "
                "epoch; load the state before iter(), or close() the iterator"
            )
        rows, any_seed = len(self._samples), self._draws_seed
        position, seed = read_state(state, self._identity, rows=rows, any_seed=any_seed)
        if seed != self.seed:
            self._stream.reseed(seed)
            vars(self)["seed"] = seed
            self._identity = {**self._identity, "seed": seed}
        self._seed_is_own = False
        self._stream.seek(position)
        self._vary()

    def close(self) -> None:
        """End the running iterator with its threads and give back the memory."""
        self._stream.close()

    def __getstate__(self) -> dict[str, Any]:
        """Collect what a copy is made of: no memory, but arguments and place."""
        return {
            "arguments": self._arguments | {"seed": self.seed},
            "draws_seed": self._draws_seed,
            "places": self._stream.places(),
            "closed": self._stream.is_closed,
            "others": {
                name: vars(self)[name] for name in vars(self).keys() - Loader.__annotations__
            },
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["others"])
        # Not that of a subclass, whose arguments are others.
        Loader.__init__(self, **state["arguments"])
        self._draws_seed = state["draws_seed"]
        self._stream.seek(*state["places"])
        if state["closed"]:
            self.close()

    def __repr__(self) -> str:
        return (
            f"Loader({str(self.pack.path)!r}, {self.split.name!r}, {len(self._samples)} images, "
            f"batch_size={self.batch_size})"
        )

    def _share(self) -> Share:
        rank, world_size = resolve_ranks(self.rank, self.world_size)
        if world_size > 1 and self._seed_is_own:
            raise LoaderError(
                "seed=None drew a seed before torch.distributed was initialised, so every rank has "
                "another: make the loader after init_process_group(), or pass seed="
            )
        return Share(self.batch_size, rank, world_size, self.drop_last)

    def _vary(self) -> None:
        """Note that whoever uses loaders with these options knows of epochs."""
        if self._repeat is not None:
            repeats.excuse(self._repeat)

    def _warn_of_repeat(self, epoch: int | None) -> None:
        if epoch is not None:
            self._vary()
        elif self._repeat is not None and repeats.is_next_due(self._repeat):
            warnings.warn(
                f"{self!r} is the third loader with these options in this process, and those "
                "before gave nothing but epoch 0, always in the same order with the same "
                "augmentation, as this one will: make one loader for all rounds, or pass "
                "epoch= (epoch=0 if that is meant), or seed=None for a fresh seed",
                stacklevel=3,
            )


def _find_repeat(options: Options, identity: dict[str, Any]) -> bytes | None:
    """Return what loaders that repeat each other have in common; None: another one differs."""
    if not options.shuffle and options.augment is None:
        return None
    others = [str(getattr(options, name)) for name in _OPTIONS if name not in ("pack", "split")]
    return hashlib.sha256(repr((identity, others)).encode()).digest()
