"""Several views of an image."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch

from cinicpack import ArgumentError, Augment, Loader, Repeated, StateError
from cinicpack.load.draws import COLUMNS
from tests.load import twins
from tests.load.philox import philox

WEAK = Augment()
STRONG = Augment(crop_padding=8, padding_mode="reflect", cutout=12, vertical_flip=True)
VIEWS = [WEAK, STRONG, None, WEAK]
WAYS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 3, "batch_size": 5},
    {"batch_size": 500},
    {"augment_on": "device", "batch_size": 7},
    {"resident": True},
]


def load(pack, **options) -> Any:
    defaults: dict[str, Any] = {"views": VIEWS, "batch_size": 16, "return_index": True}
    return Loader(pack, **defaults | options)


def join(batches) -> list[torch.Tensor]:
    """Join the batches of an epoch, member by member."""
    return [torch.cat(members) for members in zip(*batches, strict=True)]


def equal(first, second) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_views_are_the_same_however_they_are_loaded(pack, dtype, channels_last):
    form = {"dtype": dtype, "channels_last": channels_last}
    loader = load(pack, **form)
    expected = [join(loader), join(loader)]
    assert len(expected[0]) == len(VIEWS) + 2
    for way in WAYS:
        again = load(pack, **form | way)
        for epoch in expected:
            batches = list(again)
            assert equal(join(batches), epoch)
            assert batches[0][1].stride() == batches[0][0].stride()
    ranks = [join(load(pack, batch_size=8, rank=rank, world_size=2, **form)) for rank in (0, 1)]
    for members, whole in zip(zip(*ranks, strict=True), expected[0], strict=True):
        assert all(torch.equal(part, whole[rank::2]) for rank, part in enumerate(members))


@pytest.mark.parametrize("way", WAYS)
def test_the_first_view_is_what_augment_makes_it(pack, way):
    for augment in (WEAK, STRONG, None):
        plain = join(load(pack, views=None, augment=augment, **way))
        alone = join(load(pack, views=[augment], **way))
        first, _, *rest = join(load(pack, views=(augment, WEAK), **way))
        assert equal(plain, alone)
        assert equal(plain, [first, *rest])


def test_a_view_without_augmentation_is_the_image(pack):
    _, _, third, _, _, index = join(load(pack, dtype="uint8"))
    pixels = np.asarray(pack["train"].images)[index.numpy()].transpose(0, 3, 1, 2)
    assert np.array_equal(third.numpy(), pixels)


def test_views_alike_differ_and_each_draws_by_its_number(pack):
    augment = Augment(cutout=9)
    loader = load(
        pack, views=[augment] * 3, order=Repeated(2), dtype="uint8", seed=2**40 + 7, epoch=5
    )
    *views, _, index = join(loader)
    rows = index.numpy()
    images = np.ascontiguousarray(np.asarray(pack["train"].images).transpose(0, 3, 1, 2))
    filler = np.round(255 * np.array(pack.mean)).astype(np.uint8)
    for view, found in enumerate(views):
        for place in (0, 1, 58, 59):
            # Of a row that comes twice, side by side.
            use = view + (place % 2 << 16)
            key = [(2**40 + 7) % 2**32, (2**40 + 7) >> 32]
            crop, cut = (
                philox([int(rows[place]), 5, purpose, use], key).tolist() for purpose in (0, 1)
            )
            drawn = dict.fromkeys(COLUMNS, 0) | {
                "dy": crop[0] * 9 >> 32, "dx": crop[1] * 9 >> 32, "mirror": crop[2] >> 31,
            }  # fmt: skip
            expected = twins.augment_pixels(images[rows[place]], augment, drawn).copy()
            top, left = (cut[0] * 32 >> 32) - 4, (cut[1] * 32 >> 32) - 4
            square = (slice(max(top, 0), top + 9), slice(max(left, 0), left + 9))
            expected[:, *square] = filler[:, None, None]
            assert np.array_equal(found[place].numpy(), expected)
    assert not any(torch.equal(*pair) for pair in zip(views[0], views[1], strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_an_epoch_goes_on_exactly_from_its_middle_with_everything_on(pack, way):
    labels = np.arange(180).reshape(90, 2) / 2
    options: dict[str, Any] = {"labels": labels, "order": np.arange(90) % 5 + 0.5, "seed": None}
    loader = load(pack, **options, **way | {"batch_size": 8})
    iterator = iter(loader)
    next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    assert len(json.dumps(state)) < 600
    copied = copy.deepcopy(loader)
    resumed = load(pack, **options, batch_size=3)
    resumed.load_state_dict(state)
    for _ in range(2):
        expected = join(iterator)
        assert equal(join(resumed), expected)
        assert equal(join(copied), expected)
        iterator = iter(loader)


def test_views_of_a_batch_of_rows(pack):
    loader = load(pack, views=[WEAK, STRONG])
    weak, strong, _, index = loader.batch([7, 3], epoch=1)
    list(loader)
    *views, _, rows = join(loader)
    for view, found in zip(views, (weak, strong), strict=True):
        assert torch.equal(found, view[[rows.tolist().index(row) for row in index.tolist()]])


def test_numpy_views(pack):
    arrays = list(load(pack, output="numpy"))
    for batch, tensors in zip(arrays, load(pack), strict=True):
        assert all(type(member) is np.ndarray for member in batch)
        assert all(map(np.array_equal, batch, tensors))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_held_views_keep_their_values_and_each_its_memory(pack, num_workers):
    loader = load(pack, views=[WEAK, STRONG], num_workers=num_workers, batch_size=10)
    held = [(view, view.clone()) for batch in loader for view in batch[:2]]
    assert all(view.untyped_storage().nbytes() == view.nbytes for view, _ in held)
    for _ in range(3):
        list(loader)
    assert all(torch.equal(view, clone) for view, clone in held)
    del held
    places = set()
    for _ in range(30):
        for first, second, *_ in loader:
            places |= {first.data_ptr(), second.data_ptr()}
    # Memory is used again: 540 views were made.
    assert len(places) < 60


def test_a_state_of_other_views_is_refused(pack):
    state = load(pack).state_dict()
    others: list[Any] = [None, [WEAK], VIEWS[::-1]]
    for views in others:
        with pytest.raises(StateError, match="another loader: views"):
            load(pack, views=views).load_state_dict(state)
    assert load(pack, views=[None, WEAK]).state_dict()["views"] == [None, {}]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"augment": WEAK}, "expected no augment beside them"),
        ({"views": []}, r"list of 1 to 65536 of Augment or None, found \[\]"),
        ({"views": WEAK}, "expected views to be a list"),
        ({"views": [WEAK, "strong"]}, "'strong'"),
        ({"views": [None] * (2**16 + 1)}, "1 to 65536"),
        ({"views": [WEAK, Augment(40, "reflect")]}, "to reflect images of 32x32"),
    ],
)
def test_bad_views_are_refused(pack, options, text):
    with pytest.raises(ArgumentError, match=text):
        load(pack, **options)
