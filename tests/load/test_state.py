import dataclasses
import hashlib
import inspect
import json
import re
from typing import Any

import pytest
import torch

from cinicpack import Augment, Loader, LoaderError, StateError
from cinicpack.load.options import check_options
from cinicpack.load.state import identify
from tests.load.digests import digest


@pytest.mark.parametrize("batch_size", [5, 16])
@pytest.mark.parametrize("drop_last", [False, True])
def test_resume_at_every_batch(pack, batch_size, drop_last):
    options: dict[str, Any] = {
        "augment": Augment(),
        "return_index": True,
        "drop_last": drop_last,
        "seed": 7,
    }
    loader = Loader(pack, "valid", batch_size=batch_size, num_workers=2, **options)
    whole = list(loader) + list(loader)
    per_epoch = len(loader)
    loader = Loader(pack, "valid", batch_size=batch_size, **options)
    iterator = iter(loader)
    for position in range(per_epoch + 1):
        state = json.loads(json.dumps(loader.state_dict()))
        resumed = Loader(pack, "valid", batch_size=batch_size, num_workers=0, **options)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        first = next(iter(resumed))
        assert all(map(torch.equal, first, whole[position]))
        if position < per_epoch:
            next(iterator)


def test_a_state_fits_any_batch_size_and_world_size(pack):
    def rows(loader):
        return [row for batch in loader for row in batch[2].tolist()]

    options: dict[str, Any] = {"return_index": True, "seed": 3}
    loader = Loader(pack, batch_size=8, **options)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    state = loader.state_dict()
    assert state["samples"] == 24
    expected = [row for batch in iterator for row in batch[2].tolist()]
    other = Loader(pack, batch_size=11, **options)
    other.load_state_dict(state)
    assert rows(other) == expected
    gathered = []
    for rank in range(3):
        part = Loader(pack, batch_size=3, rank=rank, world_size=3, **options)
        part.load_state_dict(state)
        gathered += rows(part)
    assert sorted(gathered) == sorted(expected)


ALL: dict[str, Any] = {
    "shuffle": False,
    "drop_last": True,
    "source": "imagenet",
    "classes": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog"],
    "augment": Augment(crop_padding=10, padding_mode="reflect", flip="alternating", cutout=10),
    "seed": 2**64 - 1,
}


def test_states_are_small(pack):
    split = pack["train+valid+test"].select(indices=range(200))
    loader = Loader(pack, split, epoch=2**32 - 1, **ALL)
    state = loader.state_dict()
    # With more to come: an option takes 30 bytes if it is long, and at most 60 and its name.
    assert len(json.dumps(state)) < 450
    for name in ("classes", "augment"):
        assert re.fullmatch("[0-9a-f]{16}", state[name])
    for name, other in (("classes", ALL["classes"][::-1]), ("augment", Augment())):
        with pytest.raises(StateError, match=rf"another loader: {name} '\w+' \(here [^,]*\)$"):
            Loader(pack, split, **ALL | {name: other}).load_state_dict(state)


def test_a_state_holds_only_what_is_not_the_default(pack):
    fixed = {"version", "epoch", "samples", "fingerprint", "split", "seed", "options"}
    assert Loader(pack, batch_size=3, dtype="uint8", num_workers=0).state_dict().keys() == fixed
    state = Loader(pack, **{name: ALL[name] for name in ("drop_last", "source")}).state_dict()
    assert state.keys() - fixed == {"drop_last", "source"}
    assert Loader(pack, augment=Augment()).state_dict()["augment"] == {}
    assert Loader(pack, augment=Augment(cutout=3)).state_dict()["augment"] == {"cutout": 3}


def make_version_1(pack, **options) -> dict[str, Any]:
    defaults = {"seed": 0, "source": None, "classes": None, "shuffle": True, "drop_last": False}
    place = {"version": 1, "fingerprint": pack.fingerprint[:16], "split": "train"}
    return {**defaults, **place, "augment": None, **options, "epoch": 4, "samples": 16}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {name: value for name, value in ALL.items() if name != "augment"},
        {"classes": ["cat", "dog"]},
    ],
)
@pytest.mark.parametrize("augment", [None, Augment(), Augment(cutout=3), ALL["augment"]])
def test_a_state_of_version_1_is_as_good(pack, options, augment):
    values = options | {"augment": augment and dataclasses.asdict(augment)}
    state = make_version_1(pack, **values)
    options = {"augment": augment, "batch_size": 8, **options}
    loader = Loader(pack, return_index=True, **options)
    loader.load_state_dict(json.loads(json.dumps(state)))
    again = loader.state_dict()
    assert (again["version"], again["epoch"], again["samples"]) == (2, 4, 16)
    assert again == {**Loader(pack, **options).state_dict(), **again}
    rows = [row for _, _, index in loader for row in index.tolist()]
    whole = Loader(pack, epoch=4, return_index=True, **options)
    assert rows
    assert rows == [row for _, _, index in whole for row in index.tolist()][16:]
    for name, other in (("shuffle", None), ("classes", ["dog"]), ("augment", {"cutout": 9})):
        with pytest.raises(StateError, match=rf"another loader: {name}"):
            loader.load_state_dict({**state, name: other})
    for name in state:
        with pytest.raises(StateError, match="expected what state_dict"):
            loader.load_state_dict({key: state[key] for key in state if key != name})


def test_many_classes_were_a_hash_in_version_1_too(pack):
    classes = 10 * pack.classes
    text = json.dumps(classes)
    assert len(text) > 200
    state = make_version_1(pack, classes=hashlib.sha256(text.encode()).hexdigest()[:16])
    loader = Loader(pack, classes=classes)
    loader.load_state_dict(state)
    assert loader.state_dict()["samples"] == 16


def test_a_state_of_a_newer_version_is_refused(pack):
    loader = Loader(pack)
    with pytest.raises(StateError, match="found one of version 3"):
        loader.load_state_dict({**loader.state_dict(), "version": 3})
    with pytest.raises(StateError, match=r"another loader: order 'balanced' \(here None\)"):
        loader.load_state_dict({**loader.state_dict(), "order": "balanced"})


def test_an_option_that_was_lost_on_the_way_is_noticed(pack):
    loader = Loader(pack, source="imagenet", augment=Augment(cutout=3))
    for name in ("source", "augment"):
        options: dict[str, Any] = {"source": loader.source, "augment": loader.augment, name: None}
        state = {key: value for key, value in loader.state_dict().items() if key != name}
        with pytest.raises(StateError, match="another loader, one with an option"):
            Loader(pack, **options).load_state_dict(state)


def test_a_callable_is_not_compared(pack):
    parameters = inspect.signature(Loader).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    options = check_options({**defaults, "pack": pack})
    values: tuple[Any, ...] = (len, max, None)
    first, second, neither = (
        identify(dataclasses.replace(options, source=value)) for value in values
    )
    assert first == second != neither
    assert first["source"] == "callable"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"split": "valid"}, "split"),
        ({"source": "cifar10"}, "source"),
        ({"classes": ["cat"]}, "classes"),
        ({"shuffle": False}, "shuffle"),
        ({"drop_last": True}, "drop_last"),
        ({"augment": Augment()}, "augment"),
    ],
)
def test_a_state_of_other_options_is_refused_by_name(pack, options, name):
    state = Loader(pack).state_dict()
    with pytest.raises(StateError, match=name):
        Loader(pack, **options).load_state_dict(state)


def test_a_state_of_another_selection_is_refused(pack):
    first = Loader(pack, pack["train"].select(indices=[1, 2, 3]))
    with pytest.raises(StateError, match="split"):
        Loader(pack, pack["train"].select(indices=[1, 2, 4])).load_state_dict(first.state_dict())


@pytest.mark.parametrize("state", [None, {}, {"epoch": 0}, 5, {"version": []}, {"version": 1}])
def test_what_is_no_state_is_refused(pack, state):
    with pytest.raises(StateError, match="state_dict"):
        Loader(pack).load_state_dict(state)


@pytest.mark.parametrize(("epoch", "samples"), [(-1, 0), (0, -1), (0, 10**9), ("0", 0), (0, 1.5)])
def test_a_damaged_state_is_refused(pack, epoch, samples):
    loader = Loader(pack)
    with pytest.raises(StateError, match="damaged"):
        loader.load_state_dict({**loader.state_dict(), "epoch": epoch, "samples": samples})


def test_a_state_is_not_loaded_into_a_running_iterator(pack):
    loader = Loader(pack, batch_size=4)
    state = loader.state_dict()
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(LoaderError, match="running"):
        loader.load_state_dict(state)
    iterator.close()
    loader.load_state_dict(state)


@pytest.mark.parametrize(
    "options", [{"num_workers": 0}, {"num_workers": 2}, {"augment_on": "device"}]
)
def test_a_state_brings_its_seed_where_one_was_drawn(pack, options):
    options = {"augment": Augment(), "batch_size": 16, "return_index": True, **options}
    source = Loader(pack, seed=2**64 - 1, **options)
    list(source)
    iterator = iter(source)
    next(iterator)
    state = json.loads(json.dumps(source.state_dict()))
    expected = [*iterator, *source]
    loader = Loader(pack, seed=None, **options)
    # What has been made ahead of the same place, with the seed that was drawn, is not given.
    list(loader)
    for _ in range(2):
        loader.load_state_dict(state)
        assert loader.seed == source.seed
        assert loader.state_dict() == state
        for batch, other in zip([*loader, *loader], expected, strict=True):
            assert all(map(torch.equal, batch, other))
    start = {**state, "epoch": 1, "samples": 0, "seed": 5}
    loader.set_epoch(0)
    list(loader)
    loader.load_state_dict(start)
    assert digest(loader) == digest(Loader(pack, **options | {"seed": 5, "epoch": 1}))
    with pytest.raises(StateError, match="seed 5"):
        Loader(pack, **options).load_state_dict(start)
    for seed in (None, -1, 2**64, "1", 1.5):
        with pytest.raises(StateError, match="damaged: expected seed"):
            loader.load_state_dict({**state, "seed": seed})
    assert loader.seed == 5
