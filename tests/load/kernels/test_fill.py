import ctypes
import hashlib
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cinicpack.load.augment import Augment
from cinicpack.load.draws import COLUMNS, plan_draws
from cinicpack.load.engine.threads import Queue
from cinicpack.load.kernels.fill import fill_kernel
from cinicpack.load.kernels.task import Inputs, Tables, Tasks, begin
from cinicpack.load.transform import Transform, to_parameters
from tests.load import twins
from tests.torchvision_here import import_torchvision

STORED = {"float32": np.float32, "float16": np.uint16, "bfloat16": np.uint16, "uint8": np.uint8}
MEAN, STD = np.array([0.479, 0.472, 0.43]), np.array([0.242, 0.238, 0.259])
SCALE = (1 / (255 * STD)).astype(np.float32)
SHIFT = (-MEAN / STD).astype(np.float32)
FLIPS = (None, "random", "alternating")
DEFAULT = Augment()
NOTHING = Augment(crop_padding=0, flip=None)

variants = pytest.mark.parametrize(
    ("dtype", "channels_last"), [(dtype, last) for dtype in STORED for last in (False, True)]
)


def fill(
    images,
    dtype="float32",
    channels_last=False,
    *,
    index=None,
    seed=0,
    epoch=0,
    augment=DEFAULT,
    scale=SCALE,
    shift=SHIFT,
    filler=(0, 0, 0),
    addresses=None,
    piece=3,
    streamed=False,
):
    """Make a batch of images (n, 3, H, W), with shuffled tables, and check what lies around."""
    count, _, height, width = images.shape
    index = np.arange(count) if index is None else np.asarray(index)
    order = np.random.default_rng(count).permutation(count)
    if addresses is None:
        addresses = images.ctypes.data + np.arange(count) * images[:1].nbytes
    tables = np.zeros(count, np.uint64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    tables[0][order], tables[1][order], tables[2][order] = addresses, index, index % 10
    guard = 64
    memory = np.full(2 * guard + images.size, 77, STORED[dtype])
    out = memory[guard : guard + images.size]
    labels, indices = np.full(count, -1), np.full(count, -1)
    transform = Transform(
        height, width, augment.crop_padding, augment.padding_mode == "reflect", augment.cutout,
        plan_draws(augment, height, width), scale, shift, np.zeros(3, np.float32),
    )  # fmt: skip
    parameters = to_parameters(transform, seed, dtype)
    parameters["filler"] = filler
    kernel = fill_kernel(dtype, channels_last, height, width, scale, shift, streamed)
    tasks = Tasks(kernel, Inputs([parameters], Tables(*tables)), epoch, 0, piece, 1)
    tasks.aim(0, labels, indices)
    queue = Queue(tasks.function, tasks.addresses, 0)
    [job] = queue.jobs
    begin(queue.engine, job, order.ctypes.data, count, out.ctypes.data, queue.is_shared)
    queue.wait(0)
    np.testing.assert_array_equal(labels, index % 10)
    np.testing.assert_array_equal(indices, index)
    assert (memory[:guard] == 77).all()
    assert (memory[guard + images.size :] == 77).all()
    return out


def check(images, dtype, channels_last, **options):
    """Compare a kernel with its twin, bit for bit."""
    found = fill(images, dtype, channels_last, **options)
    given_ = {
        "index": np.arange(len(images)), "seed": 0, "epoch": 0, "augment": DEFAULT,
        "scale": SCALE, "shift": SHIFT, "filler": (0, 0, 0),
    } | options  # fmt: skip
    given_["filler"] = np.array(given_["filler"], STORED[dtype])
    expected = twins.fill(images, dtype=dtype, channels_last=channels_last, **given_)
    np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


def random_images(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), np.uint8)


@st.composite
def augmentations(draw):
    height, width = draw(st.just((32, 32)) | st.tuples(*(st.integers(1, 40),) * 2))
    reflect = draw(st.booleans())
    most = min(height, width) - 1 if reflect else 45
    count = draw(st.integers(0, 4))
    return {
        "size": (count, height, width),
        "index": draw(st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count)),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "epoch": draw(st.integers(0, 2**32 - 1)),
        "augment": Augment(
            crop_padding=draw(st.integers(0, min(8, most)) | st.integers(0, most)),
            padding_mode="reflect" if reflect else "constant",
            flip=draw(st.sampled_from(FLIPS)),
            cutout=draw(st.just(0) | st.integers(1, 50)),
            vertical_flip=draw(st.booleans()),
        ),
    }


@variants
@settings(max_examples=60, deadline=None)
@given(options=augmentations())
def test_kernels_are_their_twins_bit_for_bit(dtype, channels_last, options):
    images = random_images(*options.pop("size"))
    options["index"] = np.array(options["index"], np.int64)
    check(images, dtype, channels_last, filler=(1, 2, 3), **options)


@pytest.mark.parametrize("width", [32, 64, 31, 28, 7, 1])
@variants
def test_sizes_that_blocks_do_and_do_not_divide(dtype, channels_last, width):
    images = random_images(5, 9, width)
    check(images, dtype, channels_last, augment=Augment(3, cutout=4), filler=(9, 8, 7))
    check(images, dtype, channels_last, augment=NOTHING)


@pytest.mark.parametrize("padding_mode", ["constant", "reflect"])
@pytest.mark.parametrize("height", [63, 64, 65])
def test_a_size_that_has_a_kernel_of_its_own_and_those_beside_it(height, padding_mode):
    check(random_images(5, height, 64), "uint8", False, augment=Augment(4, padding_mode, cutout=9))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("scale", "shift"),
    [
        ([1, 1, 1], [256, 512, -1024]),  # in the middle between two bfloat16
        ([2, 4, 8], [2048, -4096, 8192]),  # and between two float16
        ([300, 300, -300], [0, 65000, 0]),  # beyond the largest float16
        ([1e-8, 3e-7, -1e-6], [0, 6e-8, 2e-5]),  # subnormal, and 0 from either side
        ([2.0**-24, 2.0**-25, 2.0**-26], [0, 0, -(2.0**-27)]),
        ([1e38, 1, 1], [0, 3e38, -3e38]),  # beyond the largest bfloat16 and float32
        ([0, 0, -0.0], [-0.0, 1, 0]),
    ],
)
def test_half_precision_rounds_to_nearest_even(dtype, channels_last, scale, shift):
    images = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 1, 4, 64), (1, 3, 4, 64))
    scale, shift = np.array(scale, np.float32), np.array(shift, np.float32)
    with np.errstate(over="ignore"):
        check(
            np.ascontiguousarray(images), dtype, channels_last, scale=scale, shift=shift,
            augment=NOTHING,
        )  # fmt: skip


GENERIC = """
import numpy as np
from tests.load.kernels import test_fill as t
assert "+f16c" not in str(__import__("numba.core.registry").core.registry.cpu_target.target_context
    .codegen()._tm_features)
images = np.ascontiguousarray(np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 1, 4, 64),
    (1, 3, 4, 64)))
for scale, shift in (
    ([2, 4, 8], [2048, -4096, 8192]), ([300, 300, -300], [0, 65000, 0]),
    ([1e-8, 3e-7, -1e-6], [0, 6e-8, 2e-5]), ([2**-24, 2**-25, 2**-26], [0, 0, -(2**-27)]),
    ([1e38, 1, 1], [0, 3e38, -3e38]), ([0.017, 0.016, 0.015], [-2, -1.9, -1.7]),
):
    scale, shift = np.array(scale, np.float32), np.array(shift, np.float32)
    with np.errstate(over="ignore"):
        t.check(images, "float16", False, scale=scale, shift=shift, augment=t.NOTHING)
"""


def test_float16_does_not_need_a_processor_that_has_it():
    subprocess.run(
        [sys.executable, "-c", GENERIC],
        check=True,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    )


def test_a_sample_does_not_depend_on_its_batch():
    images = random_images(6, 32, 32)
    augment = Augment(cutout=8)
    whole = fill(images, augment=augment).reshape(6, -1)
    for i in range(6):
        alone = fill(images[i : i + 1], index=[i], augment=augment)
        np.testing.assert_array_equal(alone, whole[i])


@pytest.mark.parametrize("padding_mode", ["constant", "reflect"])
@pytest.mark.parametrize("flip", [None, "random"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (5, 40), (40, 9), (3, 3)])
def test_no_page_is_touched_that_the_image_is_not_on(height, width, flip, padding_mode):
    """Between two pages that must not be read, at either end of the one that may."""
    page = mmap.PAGESIZE
    size = 3 * height * width
    room = 2 * -(-size // page) * page
    memory = mmap.mmap(-1, room + 2 * page)
    view = np.frombuffer(memory, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    pixels = random_images(1, height, width)
    for start in (page, page + room - size):
        view[start : start + size] = pixels.ravel()
    for fence in (0, page + room):
        address = ctypes.c_void_p(view.ctypes.data + fence)
        assert libc.mprotect(address, ctypes.c_size_t(page), 0) == 0
    augment = Augment(min(2, width - 1), padding_mode, flip)
    for start in (page, page + room - size):
        for index in range(30):
            expected = fill(pixels, "uint8", index=[index], augment=augment)
            addresses = [view.ctypes.data + start]
            found = fill(pixels, "uint8", index=[index], augment=augment, addresses=addresses)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("padding_mode", ["constant", "reflect"])
def test_the_same_offsets_give_what_torchvision_gives(padding_mode):
    functional = import_torchvision().transforms.functional
    images = random_images(12, 32, 20)
    augment = Augment(padding_mode=padding_mode, vertical_flip=True)
    found = fill(images, augment=augment).reshape(images.shape)
    rows = twins.draw(np.arange(12), 0, 0, augment, 32, 20).tolist()
    samples = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    assert {drawn["mirror"] for drawn in samples} == {0, 1}
    for image, drawn, values in zip(images, samples, found, strict=True):
        padded = functional.pad(torch.from_numpy(image), [4] * 4, padding_mode=padding_mode)
        expected = functional.crop(padded, drawn["dy"], drawn["dx"], 32, 20)
        if drawn["mirror"]:
            expected = functional.hflip(expected)
        if drawn["upside_down"]:
            expected = functional.vflip(expected)
        expected = functional.convert_image_dtype(expected, torch.float32)
        expected = functional.normalize(expected, MEAN.tolist(), STD.tolist())
        np.testing.assert_allclose(values, expected.numpy(), rtol=0, atol=1e-6)


DIGESTS = {
    ("float32", False): "bdd6cef275077e11a115ac1df8beee6e",
    ("float16", True): "d74b423b838515f3ca13936755231dc6",
    ("bfloat16", False): "51a508c4c39503d6e712c5fd594f8821",
    ("uint8", True): "fe36b4e9659e43a5bd2feff76dac9987",
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("dtype", "channels_last"), DIGESTS)
def test_batches_never_change(dtype, channels_last, streamed):
    images = (np.arange(8 * 3 * 32 * 32) * 7 % 251).astype(np.uint8).reshape(8, 3, 32, 32)
    batch = fill(
        images, dtype, channels_last, seed=2018, epoch=10, augment=Augment(cutout=8),
        filler=(1, 2, 3), index=np.arange(8) * 1000, streamed=streamed,
    )  # fmt: skip
    digest = hashlib.sha256(batch.astype(batch.dtype.newbyteorder("<")).tobytes()).hexdigest()
    assert digest[:32] == DIGESTS[dtype, channels_last]


def test_unknown_types_have_no_kernel():
    with pytest.raises(KeyError):
        fill_kernel("float64", False, 32, 32, SCALE, SHIFT, False)
