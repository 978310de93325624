"""A loader's state: where it is, and what makes its samples what they are.

Keys, in version 2:

    version      2
    epoch        that of the next sample
    samples      how many of its samples all ranks together have had
    fingerprint  first 16 digits of the pack's
    split        its name; of a selection also "#" and 16 digits of the SHA-256 of its rows
    seed         of order and augmentation
    options      16 digits of the SHA-256 of fingerprint, split and all keys below

Options follow that differ from their default: shuffle (true; else false or "blocks"), drop_last
(false), source (null), classes (null), unique (false), labels (null; else their digest), order
(null; else a word, the digest of rows, or an object with the fields of `Weighted` or `Repeated`),
augment (null; else an object with the fields that differ from ``Augment()``), views (null; else a
list of such), mix (null; else a list of objects with the name of each and its alpha).

With mix also batch_size and world_size, on which it depends what is mixed with what.

The digest of an array is 16 digits of the SHA-256 of its dtype, its shape and its bytes.
A value whose JSON is longer than 60 characters is replaced by 16 digits of the SHA-256 of its JSON.
A callable is "callable", since callables cannot be compared.

``options`` shows that a key was lost: torch.distributed loads a checkpoint into the state of a
loader that was made anew, and leaves out every key that this state does not have.

Version 1 held every option, and classes of up to 200 characters of JSON.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from cinicpack.arguments import check_int
from cinicpack.errors import ArgumentError, StateError
from cinicpack.load.augment import Augment
from cinicpack.load.choice import Repeated, Weighted
from cinicpack.load.mix import Mix
from cinicpack.load.options import Options
from cinicpack.store.split import Split

__all__ = ["Position", "identify", "read_state", "write_state"]

_VERSION: Final = 2
_LONGEST: Final = 60
_DEFAULTS: Final[dict[str, Any]] = {
    "shuffle": True,
    "drop_last": False,
    "source": None,
    "classes": None,
    "unique": False,
    "labels": None,
    "order": None,
    "augment": None,
    "views": None,
    "mix": None,
}
_DEFAULT_AUGMENT: Final = vars(Augment())
# Those that version 1 had.
_FIRST: Final = ("shuffle", "drop_last", "source", "classes", "augment")
_ALWAYS: Final = {"version", "epoch", "samples", "fingerprint", "split", "seed", "options"}


class Position(NamedTuple):
    """Where a loader is.

    Attributes:
        epoch: that of the next sample.
        samples: how many of its samples all ranks together have had.
    """

    epoch: int
    samples: int


def identify(options: Options) -> dict[str, Any]:
    """Collect the entries of a loader's state that say what its samples are."""
    return _seal(
        {
            "fingerprint": options.pack.fingerprint[:16],
            "split": _describe_split(options.split),
            "seed": options.seed,
            **{name: _describe(getattr(options, name)) for name in _DEFAULTS},
        }
    )


def write_state(identity: Mapping[str, Any], position: Position) -> dict[str, Any]:
    """Make the state of a loader at a position."""
    return {"version": _VERSION, **position._asdict(), **identity}


def read_state(
    state: Any,
    identity: Mapping[str, Any],
    *,
    count: Callable[[int], int],
    any_seed: bool = False,
) -> tuple[Position, int]:
    """Return the position and the seed that a state holds.

    Args:
        state: what a loader saved, perhaps in an earlier version.
        identity: of the loader that is to go on from the state.
        count: counts the samples of that loader in an epoch.
        any_seed: whether the state may have another seed than the loader.

    Raises ``StateError`` where this is no state, or a damaged one, or one of another loader; what
    differs is named.
    """
    state = _upgrade(state)
    names = dict.fromkeys([*identity, *state])
    pairs = {name: (_get(state, name), _get(identity, name)) for name in names}
    # The hash of all options is compared last: where an option differs, the message names it.
    theirs, ours = pairs.pop("options")
    different = [
        f"{name} {_shorten(there)} (here {_shorten(here)})"
        for name, (there, here) in pairs.items()
        if there != here and name not in Position._fields and not (name == "seed" and any_seed)
    ]
    if different:
        raise StateError(f"the state is of another loader: {', '.join(different)}")
    if theirs != ours:
        raise StateError(
            "the state is of another loader, one with an option that this loader leaves at its "
            "default; the state does not name it, as a torch.distributed checkpoint gives a loader "
            "only those entries that its own state has"
        )
    try:
        epoch = check_int("epoch", state["epoch"], 0, 2**32)
        samples = check_int("samples", state["samples"], 0, count(epoch) + 1)
        seed = check_int("seed", state["seed"], 0, 2**64)
    except ArgumentError as error:
        raise StateError(f"the state is damaged: {error}") from None
    return Position(epoch, samples), seed


def _get(values: Mapping[str, Any], name: str) -> Any:
    return values.get(name, _DEFAULTS.get(name))


def _upgrade(state: Any) -> dict[str, Any]:
    """Return the entries of a state as today's version has them, without the version."""
    version: Any = state.get("version") if isinstance(state, dict) else None
    if isinstance(version, int) and version > _VERSION:
        raise StateError(
            f"expected a state of version {_VERSION} or earlier, found one of version {version}: "
            "it was saved by a newer cinicpack; update this one"
        )
    try:
        while version != _VERSION:
            state, version = _UPGRADES[version](state), version + 1
        if not state.keys() >= _ALWAYS:
            raise KeyError
    except (KeyError, TypeError, AttributeError):
        raise StateError(f"expected what state_dict() returns, found {_shorten(state)}") from None
    return {name: value for name, value in state.items() if name != "version"}


def _upgrade_1(state: dict[str, Any]) -> dict[str, Any]:
    """Make a state of version 2 of one of version 1, which held all options."""
    identity = {name: state[name] for name in ("fingerprint", "split", "seed", *_FIRST)}
    if identity["augment"] is not None:
        identity["augment"] = _leave_out_defaults(identity["augment"])
    position = Position(state["epoch"], state["samples"])
    return write_state(_seal(identity), position)


_UPGRADES: Final[dict[Any, Callable[[dict[str, Any]], dict[str, Any]]]] = {1: _upgrade_1}


def _seal(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out options that have their default, abridge long values, and add ``options``."""
    kept = {
        name: _abridge(value)
        for name, value in identity.items()
        if name not in _DEFAULTS or value != _DEFAULTS[name]
    }
    options = {name: value for name, value in kept.items() if name != "seed"}
    return {**kept, "options": _digest(json.dumps(options, sort_keys=True).encode())}


def _describe(value: Any) -> Any:
    """Write the value of an option as JSON can hold it."""
    if isinstance(value, Augment):
        return _leave_out_defaults(vars(value))
    if isinstance(value, Mix):
        return {type(value).__name__: value.alpha}
    if isinstance(value, Weighted | Repeated):
        return {name: _describe(field) for name, field in vars(value).items()}
    if isinstance(value, list):
        return [_describe(each) for each in value]
    if isinstance(value, np.ndarray):
        return _digest(f"{value.dtype.str} {value.shape} ".encode() + value.tobytes())
    return "callable" if callable(value) else value


def _leave_out_defaults(augment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in augment.items() if value != _DEFAULT_AUGMENT.get(name)}


def _describe_split(split: Split) -> str:
    """Name a split, and a selection also by what is in it."""
    if split.rows is None:
        return split.name
    return f"{split.name}#{hashlib.sha256(split.rows.data).hexdigest()[:16]}"


def _abridge(value: Any) -> Any:
    text = json.dumps(value, sort_keys=True)
    return value if len(text) <= _LONGEST else _digest(text.encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
