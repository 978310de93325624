"""The loader: epochs of augmented batches from a pack."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

from numpy.typing import ArrayLike

from cinicpack.arguments import check_int
from cinicpack.errors import LoaderError
from cinicpack.load.attributes import OPTIONS, Attributes
from cinicpack.load.augment import Augment
from cinicpack.load.batches import Batch
from cinicpack.load.choice import Repeated, Weighted
from cinicpack.load.epoch import Epoch
from cinicpack.load.makers import Maker, make_maker, make_samples
from cinicpack.load.mix import Mix
from cinicpack.load.options import Normalize, check_options, resolve_ranks
from cinicpack.load.order import Share
from cinicpack.load.repeats import find_repeat, repeats
from cinicpack.load.samples import Samples
from cinicpack.load.state import identify, read_state, write_state
from cinicpack.load.stream import Stream
from cinicpack.store.pack import Pack, PathLike
from cinicpack.store.split import Split

__all__ = ["Loader"]

# Arguments that a copy gets as they were opened and read: a path may lead elsewhere tomorrow, and
# an iterator is used up. Others are as they were given: the number of threads is decided anew.
_OPENED: Final = ("pack", "split", "classes", "labels", "order", "views", "mix", "normalize")


class Loader(Attributes):
    """Iterates over epochs of augmented batches of a split.

    The first ``iter()`` is epoch 0, each further one the next. What happens to a sample is a pure
    function of seed, epoch, index, view and how often its row came in the epoch before, and the
    order of samples one of seed and epoch: any batch size, number of threads and number of ranks
    give the same samples with the same pixels. So a loader that is made anew gives epoch 0 again:
    make one loader for all epochs, or pass ``epoch`` or ``seed=None``. A process warns once, of the
    third loader with the same options that is to repeat epoch 0.

    Threads that all loaders of the process share make batches ahead: 2 MiB for each thread, or for
    a device 3 slabs of 32 MiB (96 MiB where that augments). A thread that iterates helps them while
    its batch is not ready. The memory of a batch is used again when nothing refers to its images
    any longer. On a device the batches of a slab share a storage, and labels that of their epoch:
    ``clone()`` a batch to save it alone.

    Several threads may take batches from one iterator, each its own. ``with Loader(...) as loader``
    closes it at the end. Every option is a read-only attribute of its name; `epoch` counts on.

    Images that do not fit in memory are read shortly before they are needed; ``shuffle="blocks"``
    lets them be read in larger pieces. The loader's rows are cut into blocks of 128, blocks come in
    an order that is drawn, and 16,384 samples at a time are shuffled: they are from 128 places, so
    that the parts of the classes vary a little where the rows of a class lie together.

    A copy, by `copy` or `pickle`, is a loader of its own with the same arguments, at the place that
    `state_dict` names, closed if its original is; a pickle holds no images, and opens the pack.

    Args:
        pack: a path, or an open `Pack`.
        split: name of a split, several joined by ``+``, or a `Split`.
        batch_size: images in a batch, per rank.
        shuffle: draw a new order for every epoch, or of "blocks", see above; False: samples come in
            the order of their rows. None: True, unless there is ``order``, with which ``shuffle``
            is refused.
        augment: how training images are varied; None: not at all.
        views: instead of ``augment``: how each of several views of an image is varied, drawn
            independently; None: not at all. The first view is what ``augment`` would make it.
        mix: `MixUp` or `CutMix` of each batch, all its views alike, or several, one of which is
            drawn for a batch; labels become (B, K) float32, by class or column of ``labels``.
            Batches, and so states, then depend on ``batch_size`` and ``world_size``.
        normalize: True: with mean and std of the whole pack, whatever part of it is loaded; False:
            pixels stay in [0, 1]; or (mean, std), three numbers each.
        dtype: of the images: "float32", "float16", "bfloat16"; "uint8": pixels as they are, cropped
            and mirrored, but not normalised.
        channels_last: the channels of a pixel lie side by side in memory: torch tensors have the
            memory format ``torch.channels_last``, NumPy arrays the shape (B, H, W, 3).
        source: only images from "cifar10" or "imagenet".
        classes: only images of these classes; labels stay as they are.
        unique: of images with exactly the same pixels, only the first that is else chosen.
        labels: instead of those of the pack: integers or floats, (N,) or (N, K), a label for every
            row of ``split``, whatever ``source``, ``classes`` and ``unique`` leave of that. Batches
            have integers as int64, floats as float32.
        order: other samples than every one once: `Weighted`, or its weights (N,) of floats;
            `Repeated`; "balanced": as many as there are, each label as often as any other; rows of
            ``split``, (n,) of integers, or a function of the number of an epoch that returns them,
            the same ones on every rank. A row that comes again in an epoch is augmented anew.
        drop_last: leave out the images that do not fill a batch on every rank.
        seed: of order and augmentation, below 2**64. None: one is drawn, and a loaded state brings
            another; where torch.distributed is initialised, rank 0 draws for all ranks, so that
            each of them must make the loader.
        epoch: number of the first epoch, below 2**32; None: 0, which may be warned of, see above.
        num_workers: the most threads that work on this loader's batches at once, the one that
            iterates included while it waits; None: one for each usable core, divided among the
            ranks that torchrun started on this machine; 0: only the one that iterates.
        device: torch device of the batches: "cpu", "cuda", "cuda:1", or a `torch.device`.
        augment_on: where images are augmented and normalised: "cpu", or "device".
        resident: keep all pixels of the split on the device, which then augments.
        rank: number of this process among those that share an epoch; None: at every start of an
            epoch that of torch.distributed, or 0 if there is no process group.
        world_size: number of processes that share an epoch; None: likewise, or 1.
        return_index: add the index of each image: its row in ``split``, as for ``labels``.
        output: kind of the arrays of a batch: "torch" or "numpy".

    A batch is ``(images, labels)`` or ``(images, labels, index)``, with several views as many
    images first, for example ``(weak, strong, labels)``: images (B, 3, H, W) of ``dtype``, labels
    (B,) int64 unless ``labels`` or ``mix`` make others, index (B,) int64.

    Raises:
        ArgumentError: an argument is out of its domain.
        SelectionError: the pack has no such split, source or class.
        FileNotFoundError: there is no pack.
        PackError: the pack is damaged.
        LoaderError: memory for copies to a GPU cannot be pinned. ``iter()`` and ``len()``, and with
            ``seed=None`` the loader itself, raise it also where WORLD_SIZE is above 1 and
            torch.distributed is not initialised, or was initialised after a seed had been drawn.

    >>> import cinicpack
    >>> loader = cinicpack.Loader(
    ...     "cinic10.pack", "train", batch_size=64, augment=cinicpack.Augment()
    ... )
    >>> images, labels = next(iter(loader))
    >>> images.shape, images.dtype
    (torch.Size([64, 3, 32, 32]), torch.float32)
    >>> loader.close()
    """

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
        shuffle: bool | str | None = None,
        augment: Augment | None = None,
        views: Sequence[Augment | None] | None = None,
        mix: Mix | Sequence[Mix] | None = None,
        normalize: Normalize = True,
        dtype: str = "float32",
        channels_last: bool = False,
        source: str | None = None,
        classes: str | Iterable[str] | None = None,
        unique: bool = False,
        labels: ArrayLike | None = None,
        order: Weighted | Repeated | str | ArrayLike | Callable[[int], ArrayLike] | None = None,
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
        vars(self).update({name: getattr(options, name) for name in OPTIONS})
        self._arguments = given | {name: getattr(options, name) for name in _OPENED}
        self._draws_seed = seed is None
        # Whether each rank of a process group that is made later would have drawn another seed.
        self._seed_is_own = self._draws_seed and resolve_ranks(rank, world_size)[1] == 1
        self._samples = make_samples(options)
        self._maker = make_maker(options, self._samples)
        # Last, since the images of a selection are hashed for it.
        self._identity = identify(options)
        self._stream = Stream(self._samples, self._maker, options)
        self._repeat = None if self._draws_seed else find_repeat(options, self._identity)
        if epoch is not None:
            self._vary()
        elif self._repeat is not None:
            repeats.warn(self._repeat, self)

    def __len__(self) -> int:
        """Count the batches of the next epoch, the same on every rank."""
        return self._share().batches(self._stream.count(self._stream.following.epoch))

    def __iter__(self) -> Epoch:
        """Start the next epoch, or go on from where a loaded state is.

        A running iterator of this loader is closed. Raises `PackError` if a file with images of the
        split was written to since the pack was opened.
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

    def batch(self, rows: ArrayLike, epoch: int = 0) -> Batch:
        """Return what an iterator of an epoch gives for these rows, as one batch.

        Args:
            rows: (n,) of integers, rows of ``split`` as ``return_index`` has them, in any order and
                any number; a row that comes again is augmented anew.
            epoch: whose augmentation it is; the order of that epoch does not matter.

        What iterates goes on as if nothing had been asked. Raises `ArgumentError` for rows that the
        loader does not have, and `LoaderError` after `close`.

        >>> import cinicpack
        >>> loader = cinicpack.Loader("cinic10.pack", augment=cinicpack.Augment())
        >>> images, labels = loader.batch([5, 3, 5], epoch=2)
        >>> images.shape, bool((images[0] == images[2]).all())
        (torch.Size([3, 3, 32, 32]), False)
        """
        return self._stream.make(rows, check_int("epoch", epoch, 0, 2**32))

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch; later epochs count on from there.

        Where a state of that same epoch was loaded, the epoch still starts from where the state is.
        Raises `ArgumentError` for what is no whole number of at least 0 and below 2**32.
        """
        self._stream.set_epoch(check_int("epoch", epoch, 0, 2**32))
        self._vary()

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader is, as a dict that takes less than 600 bytes of JSON.

        A state counts what the consumer has received, not what was made ahead. After the last batch
        of an epoch it names the start of the next one. `cinicpack.load.state` lists its keys.

        >>> import cinicpack
        >>> loader = cinicpack.Loader("cinic10.pack", batch_size=32, epoch=3)
        >>> batch = next(iter(loader))
        >>> state = loader.state_dict()
        >>> state["epoch"], state["samples"]
        (3, 32)
        """
        return write_state(self._identify(), self._stream.position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state: the next ``iter()`` gives exactly what would have come.

        Number of threads and, without ``mix``, batch size and world size may differ from those of
        the loader that the state is of. A loader made with ``seed=None`` takes the state's seed.

        Raises:
            StateError: the state is of another pack or other options, which the message names; or
                it is damaged, or of a newer version of cinicpack.
            LoaderError: an iterator is running.
        """
        if self._stream.running():
            raise LoaderError(
                "expected a loader without a running iterator, found one in the middle of an "
                "epoch; load the state before iter(), or close() the iterator"
            )
        count, any_seed = self._stream.count, self._draws_seed
        position, seed = read_state(state, self._identify(), count=count, any_seed=any_seed)
        if seed != self.seed:
            self._stream.reseed(seed)
            vars(self)["seed"] = seed
            self._identity = {**self._identity, "seed": seed}
        self._seed_is_own = False
        self._stream.seek(position)
        self._vary()

    def close(self) -> None:
        """End the running iterator, and free memory that no batch needs.

        Batches that were received stay as they are. ``iter()`` raises `LoaderError` from now on.
        """
        self._stream.close()

    def __getstate__(self) -> dict[str, Any]:
        """Collect what a copy is made of: no memory, but arguments and place."""
        return {
            "arguments": self._arguments | {"seed": self.seed},
            "draws_seed": self._draws_seed,
            "seed_is_own_in": os.getpid() if self._seed_is_own else None,
            "places": self._stream.places(),
            "closed": self._stream.is_closed,
            "others": {name: vars(self)[name] for name in vars(self).keys() - _OWN},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["others"])
        # The `__init__` of a subclass may take other arguments, so it is not called.
        Loader.__init__(self, **state["arguments"])
        self._draws_seed = state["draws_seed"]
        # A copy in another process is what one process gives to all ranks, which share its seed.
        self._seed_is_own = state["seed_is_own_in"] == os.getpid()
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

    def _identify(self) -> dict[str, Any]:
        mixed = () if self.mix is None else ("batch_size", "world_size")
        return self._identity | {name: getattr(self._share(), name) for name in mixed}

    def _vary(self) -> None:
        """Note, once, that these options give other epochs than 0, or are not meant to."""
        if self._repeat is not None:
            repeats.excuse(self._repeat)
            self._repeat = None


# What `__init__` makes anew in a copy.
_OWN: Final = {*OPTIONS, *Loader.__annotations__, *Attributes.__annotations__}
