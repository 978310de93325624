"""A split of an open pack: its images and what is known of them, selections and parts of it."""

import operator
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cinicpack.errors import SelectionError
from cinicpack.store.exclusion import find_excluded
from cinicpack.store.fingerprints import digest_images, fingerprint_images
from cinicpack.store.images import ScatteredImages, Shard, address_of
from cinicpack.store.partition import Scheme, cut_rows, fold_rows, stratify_rows
from cinicpack.store.selection import check_indices, drop_copies, find_labels, find_origins

if TYPE_CHECKING:
    from cinicpack.store.pack import Pack

__all__ = ["Split", "reselect"]

Names: TypeAlias = str | os.PathLike[str] | Iterable[str]


class Split:
    """Images of a pack with their labels, sources and names: a split, a union or a selection.

    ``split[i]`` is an image (H, W, 3) uint8 and its label; ``split[a:b]``, ``split[mask]`` and
    ``split[array]`` are `Split`, as is ``split + split``: one after the other.

    Attributes:
        pack: the pack they are in.
        name: what was asked for: "train", "train+valid".
        rows: of a selection, its rows in what ``name`` stands for; None: all.
        classes: class names of the pack, in label order.

    >>> import cinicpack
    >>> pack = cinicpack.open_pack("cinic10.pack")
    >>> image, label = pack["test"][-1]
    >>> image.shape, pack["test"].classes[label]
    ((32, 32, 3), 'truck')
    >>> pack["train"][:10] + pack["valid"][:5]
    Split('train+valid' of 'cinic10.pack', 15 images, a selection)
    """

    def __init__(
        self,
        pack: "Pack",
        name: str,
        shards: Sequence[Shard],
        fields: dict[str, NDArray[Any]],
        rows: NDArray[np.int64] | None,
        fingerprint: str | None,
    ) -> None:
        self.pack = pack
        self.name = name
        self.classes = pack.classes
        self._shards = tuple(shards)
        self._fields = fields
        self.rows = rows
        self._fingerprint = fingerprint

    @cached_property
    def labels(self) -> NDArray[Any]:
        """Label of every image: (N,) uint8, uint16 above 256 classes."""
        return self._field("labels")

    @cached_property
    def sources(self) -> NDArray[Any]:
        """Provenance of every image: (N,) records of origin, synset and number."""
        return self._field("sources")

    @cached_property
    def names(self) -> NDArray[Any]:
        """File name of every image: (N,) bytes."""
        return self._field("names")

    @cached_property
    def images(self) -> NDArray[np.uint8] | ScatteredImages:
        """The images, (N, H, W, 3) uint8, read-only.

        An ndarray (a view of the file) where they lie in one run, else `ScatteredImages`.
        """
        images = ScatteredImages(self._shards, self.rows)
        return images if (run := images.run()) is None else run

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the images, whatever their order; of a selection hashed when asked for."""
        if self._fingerprint is not None:
            return self._fingerprint
        classes = [os.fsencode(name) for name in self.classes]
        return fingerprint_images(digest_images(self.images, self.labels, self.names, classes))

    def __len__(self) -> int:
        return len(self._fields["labels"]) if self.rows is None else len(self.rows)

    def __repr__(self) -> str:
        part = "" if self.rows is None else ", a selection"
        plural = "" if len(self) == 1 else "s"
        return f"Split({self.name!r} of {str(self.pack.path)!r}, {len(self)} image{plural}{part})"

    @overload
    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> "Split": ...

    def __getitem__(self, index: Any) -> "tuple[NDArray[np.uint8], int] | Split":
        """Return an image and its label, or the selection of a slice, a mask or an array.

        Raises IndexError for a number out of range, so that a split can be iterated over, and
        `SelectionError` for everything else that is not in the split.
        """
        if isinstance(index, slice):
            return self.select(indices=np.arange(len(self))[index])
        try:
            row = operator.index(index)
        except TypeError:
            if hasattr(index, "__len__") and not isinstance(index, tuple | str | bytes):
                return self.select(indices=index)
            raise SelectionError(
                f"expected a row, a slice, a mask or an array of rows, found {index!r}"
            ) from None
        if not -len(self) <= row < len(self):
            raise IndexError(f"expected a row below {len(self)}, found {row}")
        return self.images[row], int(self.labels[row])

    def __add__(self, other: "Split") -> "Split":
        """Return the images of both, one after the other; raises `SelectionError` for other packs.

        An image that is in both is there twice.
        """
        if not isinstance(other, Split):
            return NotImplemented
        if self.pack.fingerprint != other.pack.fingerprint:
            raise SelectionError(
                f"expected two splits of one pack, found {self!r} and {other!r}: to train on both, "
                "pack them together"
            )
        name = "+".join(dict.fromkeys([*self.name.split("+"), *other.name.split("+")]))
        rows = np.concatenate([self._rows_in(name), other._rows_in(name)])
        return self.pack[name].select(indices=rows)

    def select(
        self,
        source: str | None = None,
        classes: str | Iterable[str] | None = None,
        indices: ArrayLike | None = None,
        *,
        exclude: Names | None = None,
        unique: bool = False,
    ) -> "Split":
        """Narrow to some of the images, without copying them.

        A loader normalises a selection as it does the whole: with the pack's mean and std.

        Args:
            source: "cifar10" or "imagenet".
            classes: one class name or several; labels stay as they are.
            indices: rows of this split (integers, in the order wanted, or a boolean mask).
            exclude: images to leave out: a CSV file with columns split, class and name, such as the
                one that ``cinicpack audit -o`` writes, or a list of names as SPLIT/CLASS/NAME. All
                must be in the pack, but not in this split. A NAME alone does where one image of
                the pack has it.
            unique: of images with exactly the same pixels, whatever their labels, keep the first in
                what is else selected.

        Raises `SelectionError` for a source, class, index or name that there is not, and where
        nothing is left, and `ArgumentError` for a file that is no such CSV.

        >>> import cinicpack
        >>> test = cinicpack.open_pack("cinic10.pack")["test"]
        >>> len(test.select(source="cifar10", unique=True))
        20
        >>> len(test.select(source="cifar10", exclude=["test/airplane/cifar10-test-4.png"]))
        19
        """
        rows = self.where(source=source, classes=classes, exclude=exclude)
        if indices is not None:
            chosen = check_indices(indices, len(self))
            rows = chosen if len(rows) == len(self) else chosen[np.isin(chosen, rows)]
        if unique:
            rows = self._drop_copies(rows)
        if not len(rows):
            given = {
                f"source={source!r}": source,
                f"classes={classes!r}": classes,
                "these indices": indices,
                "these images excluded": exclude,
            }
            said = [text for text, value in given.items() if value is not None]
            raise SelectionError(f"{self!r} has no images with {' and '.join(said)}")
        return self._take(rows)

    def where(
        self,
        *,
        source: str | None = None,
        classes: str | Iterable[str] | None = None,
        exclude: Names | None = None,
        unique: bool = False,
    ) -> NDArray[np.int64]:
        """Return the rows, ascending int64, that `select` would choose.

        Raises what `select` raises, but nothing where no row is left.
        """
        chosen = np.ones(len(self), bool)
        if source is not None:
            chosen &= np.isin(self.sources["origin"], find_origins(source))
        if classes is not None:
            chosen &= np.isin(self.labels, find_labels(classes, self.pack.class_to_idx))
        if exclude is not None:
            splits = {name: (split.labels, split.names) for name, split in self.pack.items()}
            found = find_excluded(exclude, splits, self.classes)
            excluded = [start + found[name] for name, start in self._starts(self.name).items()]
            chosen &= ~np.isin(self._rows_in(self.name), np.concatenate(excluded))
        rows = np.flatnonzero(chosen)
        return self._drop_copies(rows) if unique else rows

    def partition(
        self,
        n: int,
        how: Scheme = "iid",
        *,
        alpha: float = 0.5,
        per_client: int = 2,
        min_size: int = 10,
        balance: bool = True,
        seed: int = 0,
    ) -> "list[Split]":
        """Cut into the parts of ``n`` clients, as federated learning does.

        Every image is in one part. The same arguments give the same parts on every machine;
        `store.partition` says how they are drawn.

        Args:
            n: how many clients.
            how: "iid": any images; "dirichlet": each class in shares drawn from a Dirichlet
                distribution, row for row as FedML draws them from the same seed; "shards": images
                sorted by class and cut into n * ``per_client`` shards, of which each client gets
                ``per_client``; "pathological": each client has ``per_client`` classes.
            alpha: of "dirichlet": the smaller, the more clients differ.
            per_client: shards or classes of a client.
            min_size: how many images each client has at least; "dirichlet" is drawn again until
                this is so, up to 1,000 times.
            balance: of "dirichlet": clients that have their N / n images get no more.
            seed: of what is drawn, below 2**32.

        Raises `ArgumentError` for arguments out of their domains, and where some client would get
        less than its minimum.

        >>> import cinicpack
        >>> train = cinicpack.open_pack("cinic10.pack")["train"]
        >>> clients = train.partition(6, "dirichlet", alpha=0.5, min_size=5, seed=1)
        >>> [len(client) for client in clients]
        [10, 15, 16, 13, 15, 21]
        """
        parts = cut_rows(
            self.labels, len(self.classes), n, how, alpha, per_client, min_size, balance, seed
        )
        return list(map(self._take, parts))

    def stratified(self, fraction: float, *, seed: int = 0) -> "tuple[Split, Split]":
        """Draw a fraction of the images of every class; return them and the rest.

        Both have each class in its share, to within one image, and keep the order of the images.
        Raises `ArgumentError` for a fraction that is not between 0 and 1, or leaves a part empty.

        >>> import cinicpack
        >>> train = cinicpack.open_pack("cinic10.pack")["train"]
        >>> [len(part) for part in train.stratified(0.1)]
        [9, 81]
        """
        part, rest = stratify_rows(self.labels, fraction, seed)
        return self._take(part), self._take(rest)

    def folds(self, k: int, *, seed: int = 0) -> "list[tuple[Split, Split]]":
        """Cut into ``k`` folds for cross-validation; return (all others, the fold) for each.

        Folds differ by one image at most, in all and in every class, and keep the order of the
        images. Raises `ArgumentError` for a ``k`` below 2 or above the number of images.

        >>> import cinicpack
        >>> train = cinicpack.open_pack("cinic10.pack")["train"]
        >>> [(len(others), len(fold)) for others, fold in train.folds(4)]
        [(67, 23), (67, 23), (68, 22), (68, 22)]
        """
        pairs = fold_rows(self.labels, k, seed)
        return [(self._take(others), self._take(fold)) for others, fold in pairs]

    def addresses(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.uint64]:
        """Return where images lie in memory: (N,) uint64, valid while the pack is referenced.

        At each address are 3 * H * W bytes: the planes of the image. ``rows``, (N,) of this split,
        says which images; None: all.
        """
        rows = np.arange(len(self)) if rows is None else rows
        rows = rows if self.rows is None else self.rows[rows]
        ends = np.cumsum([len(shard) for shard in self._shards])
        shard = np.searchsorted(ends, rows, side="right") if len(ends) > 1 else 0
        size = self._shards[0].itemsize * int(np.prod(self._shards[0].shape[1:]))
        # Where each shard would start if it went on to the left down to row 0.
        starts = np.array([address_of(each) for each in self._shards], np.int64)
        starts[1:] -= ends[:-1] * size
        return (starts[shard] + rows * size).view(np.uint64)

    def __reduce__(self) -> tuple[Any, ...]:
        return reselect, (self.pack, self.name, self.rows)

    def _field(self, name: str) -> NDArray[Any]:
        field = self._fields[name]
        if self.rows is None:
            return field
        field = field[self.rows]
        field.flags.writeable = False
        return field

    def _take(self, rows: NDArray[np.int64]) -> "Split":
        """Select rows of this split; all of them in order are the split itself."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        rows = rows if self.rows is None else self.rows[rows]
        return Split(self.pack, self.name, self._shards, self._fields, rows, None)

    def _drop_copies(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows[drop_copies(self.addresses()[rows], self._shards[0][0].nbytes)]

    def _rows_in(self, name: str) -> NDArray[np.int64]:
        """Return the rows of these images in a union that has all splits they are of."""
        rows = np.arange(len(self)) if self.rows is None else self.rows
        before, after = self._starts(self.name), self._starts(name)
        shifts = np.array([after[split] - start for split, start in before.items()], np.int64)
        shifted: NDArray[np.int64] = (
            rows + shifts[np.searchsorted(list(before.values()), rows, "right") - 1]
        )
        return shifted

    def _starts(self, name: str) -> dict[str, int]:
        """Return the row at which each split of a union starts."""
        splits = name.split("+")
        ends = np.cumsum([self.pack.manifest.splits[split].rows for split in splits])
        return dict(zip(splits, [0, *ends.tolist()], strict=False))


def reselect(pack: "Pack", name: str, rows: NDArray[np.int64] | None) -> Split:
    """Make a split anew from what its pickle holds."""
    return pack[name] if rows is None else pack[name].select(indices=rows)
