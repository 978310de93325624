import json
from typing import Any

import pytest

from tests.golden.make import AREAS, Golden, read
from tests.golden.states import continue_from, make_loader

STATES = read("states")


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return Golden(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize(
    ("area", "group"), [(area, group) for area in AREAS for group in read(area)]
)
def test_nothing_has_changed(golden, area, group):
    found, stored = golden.collect(area), read(area)
    if group not in found and " with " in group:
        pytest.skip(f"{group}: this machine has another version")
    # JSON makes lists of tuples.
    values: dict[str, Any] = json.loads(json.dumps(found[group]))
    other = [
        f"{name}: expected {stored[group].get(name)!r}, found {values.get(name)!r}"
        for name in stored[group] | values
        if stored[group].get(name) != values.get(name)
    ]
    assert not other, f"{area} are not what they were: {group}\n" + "\n".join(other)


@pytest.mark.parametrize("area", AREAS)
def test_nothing_is_left_out(golden, area):
    def names(groups: Any) -> set[str]:
        return {group.partition(" with ")[0] for group in groups}

    assert names(golden.collect(area)) == names(read(area))


@pytest.mark.parametrize("moment", ["start", "middle", "end"])
@pytest.mark.parametrize("name", STATES)
def test_old_states_load(golden, name, moment):
    options, stored = STATES[name]["options"], STATES[name][moment]
    assert continue_from(golden.packs, options, stored["state"]) == stored["follows"]
    # A state of today says the same, whatever it looks like by now.
    loader = make_loader(golden.packs, options)
    loader.load_state_dict(stored["state"])
    again = json.loads(json.dumps(loader.state_dict()))
    assert continue_from(golden.packs, options, again) == stored["follows"]
