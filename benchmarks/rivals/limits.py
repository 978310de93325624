# /// script
# dependencies = []
#
# [tool.benchmark]
# kind = "limit"
#
# [[tool.benchmark.rows]]
# name = "limit: cinicpack's kernel alone, float32"
# batch_size = 512
#
# [[tool.benchmark.rows]]
# name = "limit: cinicpack's kernel alone, uint8"
# batch_size = 512
# dtype = "uint8"
#
# [[tool.benchmark.rows]]
# name = "plain loop: gather, multiply and add"
# batch_size = 512
# plain = true
# ///
"""The limits of `cinicpack.limit`, with as many threads as the loaders have."""

import os
from collections.abc import Iterator
from typing import Any

import cinicpack
from benchmarks.rivals.protocol import Data, serve
from cinicpack.limit import Limit, find_limit, make_plain


class Epochs:
    """All images as a loader of one batch, whose labels are as many as the images."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit

    def __iter__(self) -> Iterator[tuple[None, range]]:
        yield None, range(self.limit.run())


def open_limit(
    data: Data, batch_size: int, dtype: str = "float32", plain: bool = False, **_: Any
) -> Any:
    assert data.workers == len(os.sched_getaffinity(0))
    loader = cinicpack.Loader(
        data.pack, batch_size=batch_size, dtype=dtype, augment=cinicpack.Augment()
    )
    return Epochs((make_plain if plain else find_limit)(loader, data.workers))


if __name__ == "__main__":
    serve(open_limit)
