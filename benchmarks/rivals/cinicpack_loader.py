# /// script
# dependencies = []
#
# [tool.benchmark]
# kind = "cinicpack"
#
# [[tool.benchmark.rows]]
# name = "cinicpack, float32"
# batch_size = 512
#
# [[tool.benchmark.rows]]
# name = "cinicpack, float32, batch 128"
# batch_size = 128
#
# [[tool.benchmark.rows]]
# name = "cinicpack, bfloat16"
# batch_size = 512
# dtype = "bfloat16"
#
# [[tool.benchmark.rows]]
# name = "cinicpack, float16"
# batch_size = 512
# dtype = "float16"
#
# [[tool.benchmark.rows]]
# name = "cinicpack, uint8"
# batch_size = 512
# dtype = "uint8"
#
# [[tool.benchmark.rows]]
# name = "cinicpack, float32, channels_last"
# batch_size = 512
# channels_last = true
# ///
"""cinicpack itself, through the same pipes as its rivals, in the environment of the runner."""

from typing import Any

import cinicpack
from benchmarks.rivals.protocol import Batches, Data, serve


def open_loader(data: Data, **options: Any) -> Batches:
    return cinicpack.Loader(
        data.pack, "train", augment=cinicpack.Augment(), num_workers=data.workers, **options
    )


if __name__ == "__main__":
    serve(open_loader)
