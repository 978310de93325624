"""Images whose pixels are exactly the same."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from cinicpack.store.split import Split
from cinicpack.study.planes import map_planes

__all__ = ["find_duplicates"]


def find_duplicates(splits: Sequence[Split]) -> list[NDArray[np.int64]]:
    """Find the images of some splits that have the same pixels as another one, by their SHA-256.

    Returns:
        For every picture that is there more than once its rows, ascending, counted through all
        splits; in the order of the first of them.

    >>> import cinicpack
    >>> pack = cinicpack.open_pack("cinic10.pack")
    >>> [rows.tolist() for rows in find_duplicates([pack["test"].select(indices=[3, 5, 3])])]
    [[0, 2]]
    """

    def digest_block(_: slice, planes: NDArray[np.uint8]) -> list[bytes]:
        return [sha256(image).digest() for image in planes]

    blocks = map_planes(splits, digest_block)
    rows_of: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digest for block in blocks for digest in block):
        rows_of[digest].append(row)
    return [np.array(rows) for rows in rows_of.values() if len(rows) > 1]
