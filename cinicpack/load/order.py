"""Order: which samples, in which sequence, on which rank."""

import numpy as np
from numpy.typing import NDArray

from cinicpack.load.kernels import shuffle as _shuffle

__all__ = ["epoch_order", "rank_batches"]


def epoch_order(count: int, *, shuffle: bool, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch's samples: (count,) int64, a permutation of 0 to count - 1.

    A pure function of its arguments: drawn by Fisher and Yates' method from Philox4x32-10.
    """
    if not shuffle:
        return np.arange(count)
    return _shuffle(np.uint64(seed), np.uint64(epoch), count)


def rank_batches(
    order: NDArray[np.int64],
    consumed: int,
    batch_size: int,
    rank: int,
    world_size: int,
    drop_last: bool,
) -> tuple[NDArray[np.int64], int]:
    """Divide what is left of an epoch into the batches of one rank.

    Global batch k is positions [k * B * W, (k + 1) * B * W) of the order after the ``consumed``
    samples that all ranks have had together; rank r takes every W-th of it, from the r-th on. So
    runs with equal B * W see the same global batches, every rank has the same number of batches,
    and a rank without a share in the last one has an empty batch there.

    Returns:
        The samples of this rank, and how many batches they are: all full but for the last.
    """
    left = order[consumed:]
    share = batch_size * world_size
    mine = left[rank::world_size] if world_size > 1 else left
    full, rest = divmod(len(left), share)
    if drop_last:
        return np.ascontiguousarray(mine[: full * batch_size]), full
    return np.ascontiguousarray(mine), full + bool(rest)
