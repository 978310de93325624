"""Mixing, compiled: what is drawn for a batch, and how its samples are mixed where they lie.

The partner of sample i of a batch is sample i - shift, where those before the first one are the
last. A batch is mixed once all of it is made, by the thread that makes the last piece.
"""

from math import sqrt
from typing import Any, Final

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from cinicpack.jit import jit
from cinicpack.load import draws
from cinicpack.load.batches import DTYPES
from cinicpack.load.engine import posix
from cinicpack.load.engine.posix import array_at, record_at
from cinicpack.load.kernels import random, task, vectors
from cinicpack.load.kernels.random import random_words
from cinicpack.load.kernels.vectors import blend_block, bytes_at, count_up, literal

__all__ = ["KINDS", "MIX", "PLAN", "draw_mixes", "run_mixed"]

_u64 = np.uint64

#: How a batch is mixed: how far its partners are; whether a box of theirs is cut in, and which,
#: or else whole images are mixed; the share that a sample and its partner have, in the label and,
#: without a box, in the image.
PLAN: Final = np.dtype(
    [
        *((name, "i8") for name in ("shift", "cuts", "top", "bottom", "left", "right")),
        *((name, "f4") for name in ("own", "other")),
    ]
)
#: What `run_mixed` needs beside a task:
#:
#:     plans        of `PLAN`         one for each batch
#:     first        of int64          the samples of the first batch
#:     step                           how many bytes further those of the next one are
#:     kind                           place of the pixels' type in `KINDS`
#:     channels_last                  whether a pixel's channels lie side by side
#:     height                         of the images
#:     width
#:     table        of float32 (M, K) labels, by what the task has as the label of a sample
#:     classes                        K
#:     out          of float32 (n, K) where labels are written
#:     done                           how many pieces of the batch are made; 0 before and after it
MIX: Final = np.dtype(
    [
        (name, "u8")
        for name in (
            "plans", "first", "step", "kind", "channels_last", "height", "width", "table",
            "classes", "out", "done",
        )
    ]
)  # fmt: skip
#: Types of pixels by their number.
KINDS: Final = tuple(DTYPES)

_TASK_BYTES: Final = _u64(task.TASK.itemsize)
_PLAN_BYTES: Final = _u64(PLAN.itemsize)
_DONE: Final = _u64(MIX.fields["done"][1])  # type: ignore[index]
_FLOAT32, _FLOAT16, _BFLOAT16 = 0, 1, 2
_LANES: Final = _u64(16)
# Powers beyond these of 2 are like 0, or like infinity, beside any other share.
_FAR: Final = 128


# ---- what is drawn ------------------------------------------------------------------------------


@register_jitable
def _log2(x: Any) -> Any:
    """Find the logarithm of a number above 0 and up to 1."""
    whole = 0.0
    while x < draws.ROOT:
        x *= 2.0
        whole -= 1.0
    s = (x - 1.0) / (x + 1.0)
    square, total = s * s, 0.0
    for k in range(len(draws.LOG2) - 1, -1, -1):
        total = total * square + draws.LOG2[k]
    return whole + total * s


@register_jitable
def _exp2(x: Any) -> Any:
    """Find a power of 2."""
    x = min(max(x, -1.0 * _FAR), 1.0 * _FAR)
    whole = int(x + _FAR + 0.5) - _FAR
    x -= whole
    power = 0.0
    for k in range(len(draws.EXP2) - 1, -1, -1):
        power = power * x + draws.EXP2[k]
    for _ in range(abs(whole)):
        power *= 2.0 if whole > 0 else 0.5
    return power


@register_jitable
def _try_share(u: Any, v: Any, alpha: Any) -> Any:
    """Find a share by two numbers between 0 and 1; below 0: there is none by these."""
    if alpha <= 1.0:
        first, second = _log2(u), _log2(v)
        if _exp2(first / alpha) + _exp2(second / alpha) > 1.0:
            return -1.0
        # Both powers may be too small for their quotient to be found.
        return 1.0 / (1.0 + _exp2((second - first) / alpha))
    w = 2.0 * v - 1.0
    s = u * u + w * w
    if s > 1.0:
        return -1.0
    return 0.5 + u * w / s * sqrt(1.0 - _exp2(_log2(s) * (2.0 / (2.0 * alpha - 1.0))))


@register_jitable
def _draw_share(counters: Any, words: Any, seed: Any, alpha: Any) -> Any:
    share = -1.0
    while share < 0.0:
        counters[0, 3] += 1
        random_words(counters, seed, words)
        u, v = (2.0 * words[0, 0] + 1.0) / 2.0**33, (2.0 * words[0, 1] + 1.0) / 2.0**33
        share = _try_share(u, v, alpha)
    # A multiple that float32 holds, as it does what is left of 1.
    return int(share * 2.0**24 + 0.5) / 2.0**24


@register_jitable
def _below(word: Any, stop: Any) -> Any:
    return np.int64(_u64(word) * _u64(stop) >> _u64(32))


@jit(inlines=(draws, random))
def draw_mixes(
    seed: np.uint64,
    epoch: int,
    place: int,
    step: int,
    counts: NDArray[np.int64],
    shape: NDArray[np.int64],
    alphas: NDArray[np.float64],
    cuts: NDArray[np.bool_],
    out: NDArray[np.void],
) -> None:
    """Draw how batches are mixed.

    Args:
        seed: any 64 bits.
        epoch: below 2**32.
        place: in the epoch, of the first sample that any rank has of the first batch.
        step: how much further that of the next batch is.
        counts: (n,), how many samples this rank has of each batch.
        shape: (2,), height and width of the images.
        alphas: (m,), of each mix, of which one is drawn for a batch.
        cuts: (m,), which of them cut in a box.
        out: (n,) of `PLAN`.
    """
    counters, words = np.zeros((1, 4), np.uint32), np.empty((1, 4), np.uint32)
    counters[0, 1], counters[0, 2] = epoch, draws.MIX
    height, width = shape[0], shape[1]
    for number in range(len(out)):
        counters[0, 0], counters[0, 3] = place & 0xFFFFFFFF, place >> 32 << 16
        random_words(counters, seed, words)
        which, count = _below(words[0, 0], len(alphas)), counts[number]
        cx, cy = _below(words[0, 2], width), _below(words[0, 3], height)
        plan = out[number]
        plan.shift = 1 + _below(words[0, 1], count - 1) if count > 1 else 0
        plan.cuts = cuts[which]
        share = _draw_share(counters, words, seed, alphas[which])
        plan.top = plan.bottom = plan.left = plan.right = 0
        if cuts[which]:
            reach = 0.5 * sqrt(1.0 - share)
            half_width, half_height = int(reach * width), int(reach * height)
            plan.top, plan.bottom = max(cy - half_height, 0), min(cy + half_height, height)
            plan.left, plan.right = max(cx - half_width, 0), min(cx + half_width, width)
            area = (plan.bottom - plan.top) * (plan.right - plan.left)
            share = 1.0 - area / (width * height)
        plan.own, plan.other = np.float32(share), np.float32(1.0 - share)
        place += step


# ---- mixing -------------------------------------------------------------------------------------


@literal
def _blend(target, partner, count, own, other, dtype, item):
    """Mix ``count`` numbers side by side with those of a partner."""
    step = _LANES * _u64(item)
    whole = target + count // _LANES * step
    end = target + count * _u64(item)
    while target < whole:
        blend_block(target, partner, own, other, dtype, 16)
        target += step
        partner += step
    while target < end:
        blend_block(target, partner, own, other, dtype, 1)
        target += _u64(item)
        partner += _u64(item)


@register_jitable
def _cut_in(m: Any, p: Any, target: Any, partner: Any, item: Any) -> None:
    """Copy the box of a partner's image."""
    pixel, planes = (_u64(3) * item, 1) if m.channels_last else (item, 3)
    size = _u64(p.right - p.left) * pixel
    for plane in range(planes):
        for y in range(p.top, p.bottom):
            row = (_u64(plane) * m.height + _u64(y)) * m.width + _u64(p.left)
            to, read_from = (
                bytes_at(target + row * pixel, size), bytes_at(partner + row * pixel, size),
            )  # fmt: skip
            for byte in range(size):
                to[byte] = read_from[byte]


@register_jitable
def _mix_image(m: Any, p: Any, target: Any, partner: Any, item: Any) -> None:
    numbers = _u64(3) * m.height * m.width
    if p.cuts:
        _cut_in(m, p, target, partner, item)
    elif m.kind == _FLOAT32:
        _blend(target, partner, numbers, p.own, p.other, "float32", 4)
    elif m.kind == _FLOAT16:
        _blend(target, partner, numbers, p.own, p.other, "float16", 2)
    elif m.kind == _BFLOAT16:
        _blend(target, partner, numbers, p.own, p.other, "bfloat16", 2)
    else:
        _blend(target, partner, numbers, p.own, p.other, "uint8", 1)


@register_jitable
def _mix_images(m: Any, p: Any, images: Any, count: Any) -> None:
    """Mix ``count`` images where they lie, each before the one whose partner it is.

    From an image to its partner, and so on, leads round to the first one, of which a copy is kept.
    There are as many rounds as the greatest number that divides both count and shift.
    """
    item = _u64(4 if m.kind == _FLOAT32 else 2 if m.kind in (_FLOAT16, _BFLOAT16) else 1)
    nbytes = _u64(3) * m.height * m.width * item
    kept, rounds, rest = np.empty(nbytes, np.uint8), count, p.shift
    while rest:
        rounds, rest = rest, rounds % rest
    for first in range(rounds):
        start = bytes_at(images + _u64(first) * nbytes, nbytes)
        for byte in range(nbytes):
            kept[byte] = start[byte]
        place, partner = first, (first - p.shift) % count
        while partner != first:
            _mix_image(m, p, images + _u64(place) * nbytes, images + _u64(partner) * nbytes, item)
            place, partner = partner, (partner - p.shift) % count
        # The address is taken here, since numba frees an array after its last use.
        _mix_image(m, p, images + _u64(place) * nbytes, _u64(kept.ctypes.data), item)
    kept[0] = 0


@register_jitable
def _mix_labels(m: Any, p: Any, labels: Any, count: Any) -> None:
    """Look up the labels of ``count`` samples, and write them mixed."""
    found, classes = array_at(labels, count, np.int64), np.int64(m.classes)
    out = array_at(m.out, count * classes, np.float32)
    for i in range(count):
        j = (i - p.shift) % count
        row = _u64(4) * m.classes
        mine = array_at(m.table + _u64(found[i]) * row, classes, np.float32)
        theirs = array_at(m.table + _u64(found[j]) * row, classes, np.float32)
        for k in range(classes):
            out[i * classes + k] = theirs[k] * p.other + mine[k] * p.own


@jit(inlines=(draws, posix, task, vectors))
def run_mixed(address: Any, piece: Any) -> int:
    """Make a piece of all views of a task, and mix the batch if no other piece is left to make.

    Returns 1, or 0 where it failed; a batch of which a piece failed is not mixed.
    """
    if not task.run_views(address, piece):
        return 0
    t = record_at(address, task.TASK)
    m = record_at(t.mix, MIX)
    if count_up(t.mix + _DONE) * t.piece >= t.count:
        m.done = 0
        number = (t.samples - m.first) // m.step
        p, count = record_at(m.plans + number * _PLAN_BYTES, PLAN), np.int64(t.count)
        for view in range(t.views):
            images = record_at(address + _u64(view) * _TASK_BYTES, task.TASK).out
            _mix_images(m, p, images, count)
        _mix_labels(m, p, t.out_labels, count)
    return 1
