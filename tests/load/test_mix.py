"""Batches whose samples are mixed with each other."""

import copy
import hashlib
import json
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cinicpack
from cinicpack import (
    ArgumentError,
    Augment,
    CutMix,
    Loader,
    LoaderError,
    MixUp,
    StateError,
    Weighted,
)  # fmt: skip
from cinicpack.load.kernels import task
from cinicpack.load.kernels.mix import PLAN, draw_mixes, run_mixed
from cinicpack.load.mix import Mix
from tests.load import twins
from tests.load.pieces import address_of_python
from tests.torchvision_here import import_torchvision

BOTH: list[Mix] = [MixUp(0.4), CutMix(), MixUp(3)]
WAYS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 3},
    {"augment_on": "device"},
    {"resident": True},
]


def load(pack, mix, **options) -> Any:
    defaults: dict[str, Any] = {
        "augment": Augment(cutout=5),
        "batch_size": 16,
        "return_index": True,
        "seed": 2**63 + 9,
    }
    return Loader(pack, mix=mix, **defaults | options)


def equal(first, second) -> bool:
    return len(first) == len(second) and all(
        one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
        for one, other in zip(first, second, strict=True)
    )


def equal_batches(first, second) -> bool:
    return all(equal(*pair) for pair in zip(first, second, strict=True))


def mix_again(loader, plain, epoch, start=0):
    """Mix the batches of a loader without ``mix`` in plain NumPy, as those of ``loader``."""
    step = loader.batch_size * (loader.world_size or 1)
    for number, (*views, labels, index) in enumerate(plain):
        height, width = views[0].shape[2:]
        drawn = twins.draw_mix(
            loader.mix, loader.seed, epoch, start + number * step, len(index), height, width
        )
        columns = torch.nn.functional.one_hot(labels, 10) if labels.ndim == 1 else labels
        mixed = [twins.mix_batch(view, columns.float(), drawn) for view in views]
        images = [
            one.contiguous(memory_format=torch.channels_last) if loader.channels_last else one
            for one, _ in mixed
        ]
        yield (*images, mixed[0][1], index)


def draw(mixes, seed, epoch, place, step, counts, shape) -> Any:
    plans = np.zeros(len(counts), PLAN)
    draw_mixes(
        np.uint64(seed), epoch, place, step, np.array(counts), np.array(shape),
        np.array([mix.alpha for mix in mixes], np.float64),
        np.array([isinstance(mix, CutMix) for mix in mixes]), plans,
    )  # fmt: skip
    return plans


# ---- what is drawn ------------------------------------------------------------------------------


alphas = st.floats(0.01, 20) | st.floats(0, 1e308, exclude_min=True)


@settings(max_examples=100)
@given(
    st.lists(st.builds(MixUp, alphas) | st.builds(CutMix, alphas), min_size=1, max_size=3),
    st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**48 - 1),
    st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(2, 40),
)  # fmt: skip
def test_the_kernel_draws_as_its_twin(mixes, seed, epoch, place, count, height, width):
    plan = draw(mixes, seed, epoch, place, 0, [count], (height, width))[0]
    drawn = twins.draw_mix(mixes, seed, epoch, place, count, height, width)
    assert (plan["shift"], plan["cuts"]) == (drawn.shift, isinstance(drawn.mix, CutMix))
    if not plan["cuts"]:
        assert (plan["own"], plan["other"]) == (drawn.share, 1 - drawn.share)
    image = torch.zeros(2, 1, height, width)
    image[1] = 1
    mixed, _ = twins.mix_batch(image, image[:, 0, 0], drawn._replace(shift=1))
    if plan["cuts"]:
        box = mixed[0, 0, plan["top"] : plan["bottom"], plan["left"] : plan["right"]]
        assert box.sum() == mixed[0].sum() == box.numel()


# Multiples of 2**-24.
GOLDEN = {
    0.1: [5023479, 16777211, 2208043, 2610657],
    0.2: [6632287, 16767742, 4701210, 5039004],
    0.4: [6877602, 16387677, 86, 6641127],
    1: [13326641, 13705920, 127528, 16699941],
    1.5: [10592928, 6597360, 10157453, 12194658],
    8: [9206462, 7727919, 9043417, 9849387],
    100: [8613662, 8206956, 8568738, 8792572],
}


def test_what_is_drawn_never_changes():
    for alpha, shares in GOLDEN.items():
        own = draw([MixUp(alpha)], 7, 3, 0, 64, [64] * 4, (32, 32))["own"]
        assert (own * 2**24).tolist() == shares
    mixes = [kind(alpha) for kind in (MixUp, CutMix) for alpha in GOLDEN]
    plans = draw(mixes, 2**40 + 7, 3, 2**31, 640, [64] * 3000, (32, 32))
    assert plans["shift"][:6].tolist() == [56, 40, 60, 8, 5, 17]
    digest = hashlib.sha256(plans.tobytes()).hexdigest()
    assert digest[:32] == "027fa36cbb9050562ab7be3e86624406"


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1, 1.0001, 2, 30])
def test_shares_are_of_the_beta_distribution(alpha):
    number = 4000
    own = draw([MixUp(alpha)], 11, 0, 0, 1, [8] * number, (32, 32))["own"]
    theirs = np.rint(np.random.default_rng(5).beta(alpha, alpha, 40 * number) * 2**24) / 2**24
    points = np.sort(np.concatenate([own, theirs[::40]]))
    below = [
        np.searchsorted(np.sort(values), points, "right") / len(values) for values in (own, theirs)
    ]
    # Kolmogorov's distance, which one sample in a thousand is beyond.
    assert np.abs(below[0] - below[1]).max() < 1.95 / np.sqrt(number)


def test_partners_and_mixes_are_drawn_evenly():
    plans = draw([MixUp(), CutMix(), CutMix(2)], 3, 1, 0, 5, [5] * 6000, (8, 8))
    assert abs(plans["cuts"].sum() - 4000) < 150
    assert all(abs(count - 1500) < 150 for count in np.bincount(plans["shift"], minlength=5)[1:])
    assert not (plans["shift"] == 0).any()
    assert not draw([MixUp()], 3, 1, 0, 5, [1, 0], (8, 8))["shift"].any()


# ---- what is made -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_batch_is_mixed_as_its_twin_however_it_is_made(pack, dtype, channels_last):
    form: dict[str, Any] = {"dtype": dtype, "channels_last": channels_last}
    form |= {"views": [Augment(), None], "augment": None}
    # The last batches have 10 samples, and 1.
    for size in (16, 89):
        plain = load(pack, None, batch_size=size, **form)
        loaders = [load(pack, BOTH, batch_size=size, **form, **way) for way in WAYS]
        for epoch in (0, 1):
            expected = list(mix_again(loaders[0], plain, epoch))
            assert all(equal_batches(loader, expected) for loader in loaders)


def test_images_of_odd_sizes_are_mixed_to_their_last_pixel(odd_pack):
    for dtype in ("float32", "float16", "bfloat16", "uint8"):
        plain = load(odd_pack, None, dtype=dtype, augment=None, epoch=0)
        loader = load(odd_pack, BOTH, dtype=dtype, augment=None)
        assert equal_batches(loader, mix_again(loader, plain, 0))


@pytest.mark.parametrize("mix", [MixUp(), CutMix(0.8)])
def test_torchvision_mixes_alike_by_the_same_draws(pack, mix, monkeypatch):
    import_torchvision()
    from torchvision.transforms import v2

    theirs = getattr(v2, type(mix).__name__)(alpha=mix.alpha, num_classes=10)
    # Of 13 samples every shift leads round all, so that they can be put into torchvision's order.
    plain, loader = load(pack, None, batch_size=13, drop_last=True), load(pack, mix, batch_size=13)
    for number, ((images, labels, _), (mixed, shares, _)) in enumerate(
        zip([*plain, *plain], [*loader][:6] + [*loader][:6], strict=True)
    ):
        epoch, place = number // 6, number % 6 * 13
        drawn = twins.draw_mix([mix], loader.seed, epoch, place, 13, 32, 32)
        theirs._dist = SimpleNamespace(sample=lambda _, share=drawn.share: torch.tensor([share]))
        centre = iter([torch.tensor([drawn.cx]), torch.tensor([drawn.cy])])
        monkeypatch.setattr(torch, "randint", lambda *_, size, found=centre: next(found))
        order = np.arange(13) * drawn.shift % 13
        found_images, found_shares = theirs(images[order], labels[order])
        assert torch.equal(found_images, mixed[order])
        assert torch.equal(found_shares, shares[order])
        monkeypatch.undo()


@pytest.mark.parametrize("way", WAYS)
def test_each_rank_mixes_its_own_batch_by_the_draw_of_all(pack, way):
    for rank in range(3):
        ranks: dict[str, Any] = {"rank": rank, "world_size": 3, "batch_size": 8}
        loader, plain = load(pack, BOTH, **ranks, **way), load(pack, None, **ranks)
        for epoch in range(2):
            assert equal_batches(loader, mix_again(loader, plain, epoch))


LABELS: dict[str, Any] = {
    "the pack's": None,
    "integers": np.arange(90) % 10,
    "columns": np.arange(180).reshape(90, 2),
    "shares": np.arange(270).reshape(90, 3) / 7,
    "floats": np.arange(90) / 7,
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("way", WAYS)
def test_labels_of_any_kind_are_mixed(pack, name, way):
    labels = LABELS[name]
    loader = load(pack, BOTH, labels=labels, source="imagenet", **way)
    plain = load(pack, None, labels=None if labels is None else labels[:], source="imagenet")
    columns = {"columns": 2, "shares": 3, "floats": 1}.get(name, 10)
    given = (
        (images, found.reshape(len(found), -1) if columns < 10 else found, index)
        for images, found, index in plain
    )
    batches = list(loader)
    assert equal_batches(batches, mix_again(loader, given, 0))
    assert all(found.shape == (len(index), columns) for _, found, index in batches)
    assert all(found.untyped_storage().nbytes() >= found.nbytes for _, found, _ in batches)


def test_numpy_batches(pack):
    for batch, tensors in zip(load(pack, BOTH, output="numpy"), load(pack, BOTH), strict=True):
        assert all(type(member) is np.ndarray for member in batch)
        assert all(map(np.array_equal, batch, tensors))


def test_batches_that_are_held_keep_their_values(pack):
    loader = load(pack, BOTH, batch_size=7)
    held = [[(member, member.clone()) for member in batch] for batch in loader]
    for _ in range(3):
        list(loader)
    assert all(torch.equal(*pair) for batch in held for pair in batch)


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_are_asked_for_are_mixed_as_the_first_batches_of_an_epoch(pack, way):
    loader = load(pack, BOTH, **way)
    loader.set_epoch(2)
    expected = list(loader)
    rows = torch.cat([batch[-1] for batch in expected]).numpy()
    again = loader.batch(rows, epoch=2)
    assert all(map(torch.equal, again, map(torch.cat, zip(*expected, strict=True))))
    assert equal(loader.batch(rows[:16], epoch=2), expected[0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_of_which_a_piece_failed_is_an_error(pack, monkeypatch, num_workers):
    find, fails = task.address_of, address_of_python(lambda *_: False)
    monkeypatch.setattr(task, "address_of", lambda one: find(one) if one is run_mixed else fails)
    iterator = iter(load(pack, BOTH, num_workers=num_workers))
    with pytest.raises(LoaderError, match="kernel failed"):
        next(iterator)


# ---- states -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_an_epoch_goes_on_exactly_from_its_middle_with_everything_on(pack, way):
    options: dict[str, Any] = {
        "labels": np.arange(180).reshape(90, 2) / 2,
        "order": Weighted(np.arange(90) % 5 + 0.5, num_samples=111),
        "views": [Augment(), Augment(8, "reflect", cutout=12, vertical_flip=True), None],
        "augment": None,
        "source": "imagenet",
        "unique": True,
        "drop_last": True,
        "seed": None,
        "dtype": "bfloat16",
        "channels_last": True,
        "rank": 1,
        "world_size": 2,
    }
    options["seed"] = 5
    loader = load(pack, BOTH, **options, **way)
    list(loader)
    iterator = iter(loader)
    next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    assert len(json.dumps(state)) < 600
    copied, other = copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))
    resumed = load(pack, BOTH, **options, num_workers=1)
    resumed.load_state_dict(state)
    for _ in range(2):
        expected = list(iterator)
        assert expected
        for again in (resumed, copied, other):
            assert equal_batches(again, expected)
        iterator = iter(loader)


def test_a_seed_of_a_state_is_that_of_the_mixes_too(pack):
    loader = load(pack, BOTH, seed=None)
    resumed = load(pack, BOTH, seed=None)
    resumed.load_state_dict(loader.state_dict())
    assert equal_batches(resumed, loader)


def test_a_state_of_other_batches_is_refused_by_name(pack):
    ranks: dict[str, Any] = {"batch_size": 8, "rank": 0, "world_size": 2}
    state = load(pack, [MixUp(0.2), CutMix()], **ranks).state_dict()
    assert state["mix"] == [{"MixUp": 0.2}, {"CutMix": 1.0}]
    others: list[tuple[dict[str, Any], str]] = [
        ({"batch_size": 4}, r"batch_size 8 \(here 4\)$"),
        ({"rank": None, "world_size": None}, r"world_size 2 \(here 1\)$"),
        ({"mix": MixUp(0.2)}, "mix .*CutMix.* \\(here "),
        ({"mix": None}, r"mix .* \(here None\), batch_size 8 \(here None\)"),
    ]
    for change, text in others:
        options: dict[str, Any] = {"mix": [MixUp(0.2), CutMix()]} | ranks | change
        with pytest.raises(StateError, match=text):
            load(pack, **options).load_state_dict(state)
    without = load(pack, None).state_dict()
    assert not {"mix", "batch_size", "world_size"} & without.keys()
    with pytest.raises(StateError, match="another loader: mix None"):
        load(pack, MixUp()).load_state_dict(without)


# ---- bad use ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mix": []}, r"MixUp, a CutMix or a list of these, found \[\]; None mixes nothing"),
        ({"mix": "mixup"}, "found 'mixup'"),
        ({"mix": [MixUp(), MixUp]}, "found .*class"),
        ({"labels": np.arange(90) % 11}, r"labels from 0 to 9 to mix, found 10: .*\(N, K\)"),
        ({"labels": np.arange(90) % 10 - 1}, "found -1"),
    ],
)
def test_bad_mixes_are_refused(pack, options, text):
    with pytest.raises(ArgumentError, match=text):
        Loader(pack, **{"mix": MixUp()} | options)


def test_labels_of_rows_that_are_left_out_do_not_matter(pack):
    labels = np.full(90, -1)
    labels[pack["train"].where(source="imagenet")] = 3
    [(_, found)] = Loader(pack, mix=MixUp(), labels=labels, source="imagenet", batch_size=90)
    assert set(found.argmax(1).tolist()) == {3}


@pytest.mark.parametrize("kind", [MixUp, CutMix])
@pytest.mark.parametrize("alpha", [0, -1, np.inf, np.nan, 10**400, "1", None, True])
def test_a_bad_alpha_is_refused(kind, alpha):
    with pytest.raises(ArgumentError, match=r"alpha to be a number above 0, found .*mix=None"):
        kind(alpha)


def test_no_box_is_cut_out_of_one_pixel(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(4, 1, 2, 3)
    pack = cinicpack.pack_arrays(
        {"train": (images, [0, 1, 0, 1])}, tmp_path / "a.pack", classes=["a", "b"]
    )
    mixes: list[Any] = [CutMix(), [MixUp(), CutMix()]]
    for mix in mixes:
        with pytest.raises(ArgumentError, match=r"CutMix .* 1x2: pass mix=cinicpack.MixUp\(\)"):
            Loader(pack, mix=mix)
    assert Loader(pack, mix=MixUp()).mix == [MixUp()]


def test_public_names():
    assert (cinicpack.MixUp, cinicpack.CutMix) == (MixUp, CutMix)
    assert repr(MixUp(np.float32(0.5))) == "MixUp(alpha=0.5)"  # type: ignore[arg-type]
