"""Golden states: whole states of loaders, and digests of what follows from each."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import cinicpack
from cinicpack import Augment, Loader
from tests.golden.batches import digest_samples

Found = dict[str, dict[str, Any]]

# A Loader's options as JSON has them; "indices" are those of a selection, "first" is of its
# classes, "augment" holds arguments of Augment.
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "one class": {"classes": "cat"},
    "short list of classes": {"classes": ["ship", "cat"]},
    "classes of more than 60 characters": {"pack": "classes", "first": 6},
    "classes of more than 200 characters": {"pack": "classes", "first": 200},
    "source": {"source": "imagenet"},
    "selection": {"indices": [31, 2, 17, 5, 8, 39, 0, 11]},
    "union": {"split": "train+valid"},
    "augment": {"augment": {}},
    "all of augment": {
        "augment": {"crop_padding": 3, "padding_mode": "reflect", "flip": "alternating"}
        | {"cutout": 5}
    },
    "in order, rest dropped": {"shuffle": False, "drop_last": True},
    "seed and epoch": {"seed": 2**64 - 1, "epoch": 5},
    "rank 1 of 3": {"rank": 1, "world_size": 3, "augment": {}},
    "all": {
        "split": "train+test",
        "source": "cifar10",
        "classes": ["cat", "frog", "truck"],
        "augment": {"cutout": 2},
        "drop_last": True,
        "seed": 3,
    },
}
_BATCH_SIZE = 2


def make_loader(packs: dict[str, cinicpack.Pack], options: dict[str, Any], **others: Any) -> Loader:
    defaults: dict[str, Any] = {"pack": "tree", "split": "train", "batch_size": _BATCH_SIZE}
    options = defaults | {"epoch": 0} | options | others
    pack = packs[options.pop("pack")]
    split: Any = options.pop("split")
    if "indices" in options:
        split = pack[split].select(indices=options.pop("indices"))
    if "first" in options:
        options["classes"] = list(pack.classes[: options.pop("first")])
    if "augment" in options:
        options["augment"] = Augment(**options["augment"])
    return Loader(pack, split, num_workers=0, return_index=True, **options)


def make_states(packs: dict[str, cinicpack.Pack]) -> Found:
    """Take a state at the start, in the middle and at the end of an epoch, and what follows."""
    found: Found = {}
    for name, options in CASES.items():
        found[name] = {"options": options}
        for moment, state in _take_states(make_loader(packs, options)):
            follows = continue_from(packs, options, state)
            found[name][moment] = {"state": state, "follows": follows}
    return found


def continue_from(
    packs: dict[str, cinicpack.Pack], options: dict[str, Any], state: dict[str, Any]
) -> str:
    """Load a state and digest the rest of its epoch, and the next one.

    What follows from the state of one rank is seen by one that is alone; batches are of another
    size, unless it is the size that says which images are dropped.
    """
    alone = {key: value for key, value in options.items() if key not in ("rank", "world_size")}
    others = {} if options.get("drop_last") else {"batch_size": 7}
    loader = make_loader(packs, alone, **others)
    loader.load_state_dict(state)
    return digest_samples(chain(loader, loader))


def _take_states(loader: Loader) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "start", loader.state_dict()
    batches = iter(loader)
    for _ in islice(batches, len(loader) // 2):
        pass
    yield "middle", loader.state_dict()
    for _ in batches:
        pass
    yield "end", loader.state_dict()
