import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: where JAX is imported, no later test could fork without a warning.
PROGRAM = """
import sys
import jax
import numpy as np
from cinicpack import Augment, Loader

shape = {False: (16, 3, 32, 32), True: (16, 32, 32, 3)}
for dtype in ("float32", "float16", "uint8"):
    for channels_last in (False, True):
        loader = Loader(
            sys.argv[1], batch_size=16, augment=Augment(), drop_last=True, output="numpy",
            dtype=dtype, channels_last=channels_last,
        )
        held = []
        for images, labels in loader:
            array = jax.device_put(images)
            assert array.unsafe_buffer_pointer() == images.ctypes.data, "images were copied"
            assert array.shape == shape[channels_last] and array.dtype == dtype
            held.append((array, jax.device_put(labels)))
        del images, labels
        # The batches of another epoch are not written where those arrays still are.
        for _ in loader:
            pass
        loader.set_epoch(0)
        for (array, numbers), (images, labels) in zip(held, loader, strict=True):
            assert np.array_equal(array, images) and np.array_equal(numbers, labels)
assert "torch" not in sys.modules
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_jax_takes_batches_without_a_copy(pack):
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(pack.path)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
