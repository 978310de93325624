"""Partitions: the rows of a split, cut into parts by their labels.

Rows are drawn with NumPy's legacy generator, whose streams are frozen, so a seed means the same
rows for ever. What is drawn for a seed, in this order, with classes in label order:

    iid           a permutation of all rows, cut into n parts whose sizes differ by one at most.
    dirichlet     for each class a permutation of its rows and the shares of the clients, drawn
                  from a Dirichlet distribution; with ``balance``, the shares of clients that have
                  N / n rows or more become 0, and the rest is divided by its sum. The rows are cut
                  at the cumulated shares, rounded down. All of it again until every client has
                  ``min_size`` rows; then each client's rows are shuffled. This is the scheme of
                  M. Yurochkin et al., "Bayesian nonparametric federated learning of neural
                  networks", ICML 2019, as FedML has it, with the same rows for the same seed; what
                  FedML calls "homo" is "iid".
    shards        a permutation of the rows of each class; all of them, one class after the other,
                  are cut into n * per_client shards, of which each client gets ``per_client``
                  (H. B. McMahan et al., AISTATS 2017). Then each client's rows are shuffled.
    pathological  for each client the ``per_client`` classes that fewest clients before it have,
                  equals in an order that is drawn; then a permutation of the rows of each class,
                  cut into as many parts as it has clients. Then each client's rows are shuffled.

Published code often leaves out the permutation within a class. In CINIC-10, where the rows of a
class are sorted by source and synset, clients would then differ in these as well.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from cinicpack.arguments import check_int, check_number
from cinicpack.errors import ArgumentError

__all__ = ["Scheme", "cut_rows", "fold_rows", "stratify_rows"]

Rows: TypeAlias = NDArray[np.int64]
Scheme: TypeAlias = Literal["iid", "dirichlet", "shards", "pathological"]

# How often shares are drawn from a Dirichlet distribution: 1 to 2 s for 90,000 rows.
_TRIES: Final = 1000


def cut_rows(
    labels: NDArray[Any],
    num_classes: int,
    n: int,
    how: Scheme,
    alpha: float = 0.5,
    per_client: int = 2,
    min_size: int = 10,
    balance: bool = True,
    seed: int = 0,
) -> list[Rows]:
    """Cut the rows of ``labels``, (N,) whole numbers below ``num_classes``, into ``n`` parts.

    `Split.partition` says what the other arguments mean. Returns the rows of every part, int64.

    Raises `ArgumentError` for arguments out of their domains, and where a client would get less
    than its minimum.

    >>> labels = np.repeat([0, 1], 6)
    >>> [rows.tolist() for rows in cut_rows(labels, 2, 2, "pathological", per_client=1, min_size=6)]
    [[6, 11, 9, 10, 8, 7], [5, 1, 3, 0, 2, 4]]
    """
    n, min_size = check_int("n", n, 1), check_int("min_size", min_size, 1)
    per_client = check_int("per_client", per_client, 1)
    alpha = check_number("alpha", alpha, 0, np.inf)
    if how not in get_args(Scheme):
        raise ArgumentError(
            f"expected how to be one of {', '.join(map(repr, get_args(Scheme)))}, found {how!r}"
        )
    if n * min_size > len(labels):
        raise ArgumentError(
            f"expected at least n * min_size = {n * min_size:,} images, found {len(labels):,}: "
            "lower n or min_size"
        )
    random = _seeded(seed)
    match how:
        case "iid":
            return np.array_split(random.permutation(len(labels)), n)
        case "dirichlet":
            return _draw_dirichlet(labels, num_classes, n, alpha, min_size, balance, random)
        case "shards":
            parts = _deal_shards(labels, n, per_client, random)
        case "pathological":
            parts = _deal_classes(labels, n, per_client, random)
    if (smallest := min(map(len, parts))) < min_size:
        raise ArgumentError(
            f"how={how!r} with n={n}, per_client={per_client} gives a client {smallest} images, "
            f"less than min_size={min_size}: lower one of the three"
        )
    return parts


def stratify_rows(labels: NDArray[Any], fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Draw a fraction of the rows of every class, and return them and the others, ascending.

    Both have every class in its share, to within one row, and together ``round(fraction * N)``.
    Raises `ArgumentError` for a fraction that leaves nothing on one side.

    >>> [rows.tolist() for rows in stratify_rows(np.array([0, 0, 0, 0, 1, 1]), 0.5, seed=0)]
    [[2, 3, 4], [0, 1, 5]]
    """
    fraction = check_number("fraction", fraction, 0, 1)
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise ArgumentError(
            f"fraction={fraction!r} of {len(labels)} images is {total or 'none'} of them, which "
            "leaves one part empty"
        )
    random = _seeded(seed)
    shares = fraction * np.unique(labels, return_counts=True)[1]
    wanted = np.floor(shares).astype(np.int64)
    # Rows that rounding down left over go to the classes that lost most by it.
    wanted[np.argsort(wanted - shares, kind="stable")[: total - wanted.sum()]] += 1
    chosen = np.zeros(len(labels), bool)
    for rows, count in zip(_shuffle_classes(labels, random), wanted, strict=True):
        chosen[rows[:count]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def fold_rows(labels: NDArray[Any], k: int, seed: int) -> list[tuple[Rows, Rows]]:
    """Deal the rows of every class to ``k`` folds; return all other rows and its own of each fold.

    Folds differ by one row at most, in all and in every class. Rows are ascending.

    >>> [fold.tolist() for _, fold in fold_rows(np.array([0, 0, 0, 0, 1, 1]), 2, seed=0)]
    [[1, 2, 4], [0, 3, 5]]
    """
    k = check_int("k", k, 2)
    if k > len(labels):
        raise ArgumentError(f"expected k to be at most the {len(labels)} images, found {k}")
    dealt = np.concatenate(list(_shuffle_classes(labels, _seeded(seed))))
    fold_of = np.empty(len(labels), np.int64)
    fold_of[dealt] = np.arange(len(labels)) % k
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(k)]


def _seeded(seed: int) -> np.random.RandomState:
    return np.random.RandomState(check_int("seed", seed, 0, 2**32))


def _shuffle_classes(labels: NDArray[Any], random: np.random.RandomState) -> Iterator[Rows]:
    """Iterate over the rows of every class that there is, shuffled."""
    for label in np.unique(labels):
        yield random.permutation(np.flatnonzero(labels == label))


def _draw_dirichlet(
    labels: NDArray[Any],
    num_classes: int,
    n: int,
    alpha: float,
    min_size: int,
    balance: bool,
    random: np.random.RandomState,
) -> list[Rows]:
    # Shares are drawn for classes without rows too, as FedML does.
    rows_of = [np.flatnonzero(labels == label) for label in range(num_classes)]
    most = 0
    for _ in range(_TRIES):
        sizes = np.zeros(n, np.int64)
        rows, clients = [], []
        for of_class in rows_of:
            shuffled = random.permutation(of_class)
            shares = random.dirichlet(np.repeat(alpha, n))
            if not len(of_class):
                continue
            if balance:
                shares = shares * (sizes < len(labels) / n)
                with np.errstate(invalid="ignore"):
                    shares = shares / shares.sum()
            if not np.isfinite(shares).all():
                # With a tiny alpha, all shares but those of clients that have enough are 0.
                sizes[:] = 0
                break
            cuts = (np.cumsum(shares) * len(of_class)).astype(np.int64)[:-1]
            counts = np.diff(cuts, prepend=0, append=len(of_class))
            rows.append(shuffled)
            clients.append(np.repeat(np.arange(n), counts))
            sizes += counts
        most = max(most, int(sizes.min()))
        if most >= min_size:
            order = np.argsort(np.concatenate(clients), kind="stable")
            parts = np.split(np.concatenate(rows)[order], np.cumsum(sizes)[:-1])
            for part in parts:
                random.shuffle(part)
            return parts
    raise ArgumentError(
        f"none of {_TRIES:,} tries with n={n}, alpha={alpha} gave every client min_size={min_size} "
        f"images; the best gave one {most}: raise alpha, or lower n or min_size"
    )


def _deal_shards(
    labels: NDArray[Any], n: int, per_client: int, random: np.random.RandomState
) -> list[Rows]:
    if n * per_client > len(labels):
        raise ArgumentError(
            f"expected at least n * per_client = {n * per_client:,} images, found "
            f"{len(labels):,}: lower n or per_client"
        )
    rows = np.concatenate(list(_shuffle_classes(labels, random)))
    shards = np.array_split(rows, n * per_client)
    dealt = random.permutation(n * per_client).reshape(n, per_client)
    return [random.permutation(np.concatenate([shards[i] for i in mine])) for mine in dealt]


def _deal_classes(
    labels: NDArray[Any], n: int, per_client: int, random: np.random.RandomState
) -> list[Rows]:
    counts = np.unique(labels, return_counts=True)[1]
    if not per_client <= len(counts) <= n * per_client:
        raise ArgumentError(
            f"expected per_client={per_client} to be at most the {len(counts)} classes there are, "
            f"and n * per_client = {n * per_client} to be no fewer, since rows would be lost"
        )
    taken = np.zeros(len(counts), np.int64)
    chosen = []
    for _ in range(n):
        chosen.append(np.lexsort((random.permutation(len(counts)), taken))[:per_client])
        taken[chosen[-1]] += 1
    if (taken > counts).any():
        raise ArgumentError(
            f"n={n} with per_client={per_client} cuts a class of {counts.min()} images into "
            f"{taken.max()}: lower n or per_client"
        )
    pieces = [
        iter(np.array_split(rows, parts))
        for rows, parts in zip(_shuffle_classes(labels, random), taken, strict=True)
    ]
    return [
        random.permutation(np.concatenate([next(pieces[place]) for place in mine]))
        for mine in chosen
    ]
