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

from cinicpack.load.kernels import fill as kernels
from cinicpack.load.kernels.fill import (
    ALTERNATING_FLIP,
    NO_FLIP,
    RANDOM_FLIP,
    draw,
    fill_kernel,
)
from tests.load import twins
from tests.torchvision_here import import_torchvision

STORED = {"float32": np.float32, "float16": np.uint16, "bfloat16": np.uint16, "uint8": np.uint8}
MEAN, STD = np.array([0.479, 0.472, 0.43]), np.array([0.242, 0.238, 0.259])
SCALE = (1 / (255 * STD)).astype(np.float32)
SHIFT = (-MEAN / STD).astype(np.float32)
FLIPS = (NO_FLIP, RANDOM_FLIP, ALTERNATING_FLIP)

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
    crop_padding=4,
    reflect=False,
    flip=RANDOM_FLIP,
    cutout=0,
    scale=SCALE,
    shift=SHIFT,
    filler=(0, 0, 0),
    addresses=None,
):
    """Run a kernel on images (n, 3, H, W), with shuffled tables, and check what lies around."""
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
    kernel = fill_kernel(dtype, channels_last, height, width, scale, shift)
    kernel(
        order, *tables, np.uint64(seed), np.uint64(epoch), crop_padding, reflect, flip, cutout,
        height, width, scale, shift, np.array(filler, STORED[dtype]), out, labels, indices,
    )  # fmt: skip
    np.testing.assert_array_equal(labels, index % 10)
    np.testing.assert_array_equal(indices, index)
    assert (memory[:guard] == 77).all()
    assert (memory[guard + images.size :] == 77).all()
    return out


def check(images, dtype, channels_last, **options):
    """Compare a kernel with its twin, bit for bit."""
    found = fill(images, dtype, channels_last, **options)
    given_ = {
        "index": np.arange(len(images)), "seed": 0, "epoch": 0, "crop_padding": 4,
        "reflect": False, "flip": RANDOM_FLIP, "cutout": 0, "scale": SCALE, "shift": SHIFT,
        "filler": (0, 0, 0),
    } | options  # fmt: skip
    given_["filler"] = np.array(given_["filler"], STORED[dtype])
    expected = twins.fill(images, dtype=dtype, channels_last=channels_last, **given_)
    np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


def random_images(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), np.uint8)


@st.composite
def augmentations(draw_):
    height, width = draw_(st.just((32, 32)) | st.tuples(*(st.integers(1, 40),) * 2))
    reflect = draw_(st.booleans())
    most = min(height, width) - 1 if reflect else 45
    count = draw_(st.integers(0, 4))
    return {
        "size": (count, height, width),
        "index": draw_(st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count)),
        "seed": draw_(st.integers(0, 2**64 - 1)),
        "epoch": draw_(st.integers(0, 2**32 - 1)),
        "crop_padding": draw_(st.integers(0, min(8, most)) | st.integers(0, most)),
        "reflect": reflect,
        "flip": draw_(st.sampled_from(FLIPS)),
        "cutout": draw_(st.just(0) | st.integers(1, 50)),
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
    check(images, dtype, channels_last, crop_padding=3, filler=(9, 8, 7), cutout=4)
    check(images, dtype, channels_last, crop_padding=0, flip=NO_FLIP)


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("height", [63, 64, 65])
def test_a_size_that_has_a_kernel_of_its_own_and_those_beside_it(height, reflect):
    check(random_images(5, height, 64), "uint8", False, reflect=reflect, cutout=9)


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
            crop_padding=0, flip=NO_FLIP,
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
        t.check(images, "float16", False, scale=scale, shift=shift, crop_padding=0, flip=t.NO_FLIP)
"""


def test_float16_does_not_need_a_processor_that_has_it():
    subprocess.run(
        [sys.executable, "-c", GENERIC],
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    )


@given(
    st.lists(st.integers(0, 2**32 - 1), max_size=6), st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**30 - 1),
    st.sampled_from(FLIPS), st.integers(0, 40),
)  # fmt: skip
def test_draws_are_those_of_the_twin(index, seed, epoch, height, width, padding, flip, cutout):
    indices = np.array(index, np.int64)
    out = np.full((len(index), 5), -1, np.int32)
    draw(indices, np.uint64(seed), np.uint64(epoch), height, width, padding, flip, cutout, out)
    expected = twins.draw(indices, seed, epoch, height, width, padding, flip, cutout)
    if not padding and flip != RANDOM_FLIP:
        assert not expected[:, :2].any()
    np.testing.assert_array_equal(out, expected)


def draw_many(count, flip=RANDOM_FLIP, epoch=0, cutout=8):
    out = np.zeros((count, 5), np.int32)
    draw(np.arange(count), np.uint64(7), np.uint64(epoch), 32, 24, 4, flip, cutout, out)
    return out


def test_draws_are_uniform_and_reach_every_value():
    draws = draw_many(90_000)
    # Quantiles 0.999 of chi-square with 8, 8, 1, 31 and 23 degrees of freedom.
    for column, (values, limit) in enumerate(
        [(9, 26.12), (9, 26.12), (2, 10.83), (32, 61.1), (24, 49.73)]
    ):
        seen = np.bincount(draws[:, column], minlength=values)
        assert len(seen) == values
        expected = 90_000 / values
        assert ((seen - expected) ** 2 / expected).sum() < limit


def test_an_alternating_flip_mirrors_every_other_epoch():
    first, second, third = (draw_many(1000, ALTERNATING_FLIP, epoch)[:, 2] for epoch in range(3))
    assert 400 < first.sum() < 600
    np.testing.assert_array_equal(second, 1 - first)
    np.testing.assert_array_equal(third, first)


def test_a_sample_does_not_depend_on_its_batch():
    images = random_images(6, 32, 32)
    whole = fill(images, cutout=8).reshape(6, -1)
    for i in range(6):
        alone = fill(images[i : i + 1], index=[i], cutout=8)
        np.testing.assert_array_equal(alone, whole[i])


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("flip", [NO_FLIP, RANDOM_FLIP])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (5, 40), (40, 9), (3, 3)])
def test_no_page_is_touched_that_the_image_is_not_on(height, width, flip, reflect):
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
    options = {"crop_padding": min(2, width - 1), "flip": flip, "reflect": reflect}
    for start in (page, page + room - size):
        for index in range(30):
            expected = fill(pixels, "uint8", index=[index], **options)
            found = fill(
                pixels, "uint8", index=[index], addresses=[view.ctypes.data + start], **options
            )
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("padding_mode", ["constant", "reflect"])
def test_the_same_offsets_give_what_torchvision_gives(padding_mode):
    functional = import_torchvision().transforms.functional
    images = random_images(12, 32, 20)
    found = fill(images, reflect=padding_mode == "reflect").reshape(images.shape)
    draws = np.zeros((12, 5), np.int32)
    draw(np.arange(12), np.uint64(0), np.uint64(0), 32, 20, 4, RANDOM_FLIP, 0, draws)
    assert set(draws[:, 2].tolist()) == {0, 1}
    for image, (dy, dx, mirror, *_), values in zip(images, draws.tolist(), found, strict=True):
        padded = functional.pad(torch.from_numpy(image), [4] * 4, padding_mode=padding_mode)
        expected = functional.crop(padded, dy, dx, 32, 20)
        if mirror:
            expected = functional.hflip(expected)
        expected = functional.convert_image_dtype(expected, torch.float32)
        expected = functional.normalize(expected, MEAN.tolist(), STD.tolist())
        np.testing.assert_allclose(values, expected.numpy(), rtol=0, atol=1e-6)


DIGESTS = {
    ("float32", False): "bdd6cef275077e11a115ac1df8beee6e",
    ("float16", True): "d74b423b838515f3ca13936755231dc6",
    ("bfloat16", False): "51a508c4c39503d6e712c5fd594f8821",
    ("uint8", True): "fe36b4e9659e43a5bd2feff76dac9987",
}


@pytest.mark.parametrize(("dtype", "channels_last"), DIGESTS)
def test_batches_never_change(dtype, channels_last):
    images = (np.arange(8 * 3 * 32 * 32) * 7 % 251).astype(np.uint8).reshape(8, 3, 32, 32)
    batch = fill(
        images, dtype, channels_last, seed=2018, epoch=10, cutout=8, filler=(1, 2, 3),
        index=np.arange(8) * 1000,
    )  # fmt: skip
    digest = hashlib.sha256(batch.astype(batch.dtype.newbyteorder("<")).tobytes()).hexdigest()
    assert digest[:32] == DIGESTS[dtype, channels_last]


def test_unknown_types_have_no_kernel():
    with pytest.raises(KeyError):
        kernels.fill_kernel("float64", False, 32, 32, SCALE, SHIFT)
