"""What a run is: a network, the images that it learns from, a seed and a recipe."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, NamedTuple

import cinicpack
from benchmarks.paper.recipe import Recipe
from cinicpack.cinic10 import Origin

__all__ = ["PRECISIONS", "SOURCES", "Images", "Plan", "choose_images"]

PRECISIONS: Final = ("fp32", "tf32", "bf16")
# The third one is all 50,000 images that CIFAR-10 itself trains on, in whichever split they are.
SOURCES: Final = ("cifar10", "imagenet", "cifar10 train")


@dataclass(frozen=True)
class Plan:
    """A run, and so the state of its checkpoint: with another plan, none goes on from it.

    Attributes:
        model: a name in `NETWORKS`.
        train_on: the splits to train on, joined by ``+``.
        seed: of the weights, the order and the augmentation.
        source: only images of one of `SOURCES`; None: all.
        hold_out: share of the training images of each class to validate on instead.
        precision: "fp32"; "tf32", in which a GPU multiplies; "bf16", by autocast.
        channels_last: the memory format of images and weights.
        compiled: torch.compile, with CUDA graphs on a GPU.
        recipe: how it is trained.
    """

    model: str
    train_on: str = "train"
    seed: int = 0
    source: str | None = None
    hold_out: float = 0.0
    precision: str = "fp32"
    channels_last: bool = False
    compiled: bool = False
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def name(self) -> str:
        """The name of its files: what differs from the default, but for the recipe."""
        parts = [self.model, self.train_on, *([self.source] if self.source else [])]
        return "-".join([*parts, str(self.seed)]).replace(" ", "_")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def compare(self, other: dict[str, Any]) -> list[str]:
        """Say in which fields the plan ``other``, as a dict, differs from this one."""
        ours = self.as_dict()
        return [
            f"{each.name} {other.get(each.name)!r} (here {ours[each.name]!r})"
            for each in fields(self)
            if other.get(each.name) != ours[each.name]
        ]


class Images(NamedTuple):
    """What a run learns from, and what it is validated on; what it is tested on comes later."""

    train: cinicpack.Split
    valid: cinicpack.Split | None


def choose_images(pack: cinicpack.Pack, plan: Plan) -> Images:
    """Choose the images to train on, and others to validate on where there are any.

    These are held out, or else the split valid, if it is not trained on.
    """
    if plan.source == SOURCES[2]:
        every = pack["train+valid+test"]
        chosen = every.sources["origin"] == Origin.CIFAR10_TRAIN
        train, valid = every.select(indices=chosen), None
    else:
        train = pack[plan.train_on].select(source=plan.source)
        is_free = "valid" in pack and "valid" not in plan.train_on.split("+")
        valid = pack["valid"].select(source=plan.source) if is_free else None
    if plan.hold_out:
        valid, train = train.stratified(plan.hold_out)
    return Images(train, valid)
