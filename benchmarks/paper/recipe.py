"""How a network is trained: optimiser, learning rate, batches."""

from dataclasses import dataclass, field
from typing import Final

from torch import nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from cinicpack import Augment

__all__ = ["RECIPES", "Recipe", "make_optimizer", "make_schedule"]


@dataclass(frozen=True)
class Recipe:
    """A way to train; the defaults are the authors'.

    They do not say how images are varied. Crops with padding 4, mirrors, and the pack's mean and
    std repeated three of their figures within 0.15 points (AntonFriberg/pytorch-cinic-10).

    Attributes:
        epochs: how often every image is seen.
        batch_size: images in a batch, of all ranks together.
        lr: the learning rate at its highest.
        momentum: of SGD.
        nesterov: whether it is Nesterov's.
        weight_decay: of all parameters.
        schedule: "cosine": from ``lr`` down to zero, stepped once an epoch; "one-cycle": up to
            ``lr`` and down again, stepped with every batch.
        label_smoothing: share of the target that goes to all classes alike.
        augment: how training images are varied.
        mirrored: whether a test image's scores are those of it and its mirror image together.
    """

    epochs: int = 300
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    label_smoothing: float = 0.0
    augment: Augment = field(default_factory=Augment)
    mirrored: bool = False


RECIPES: Final = {
    "paper": Recipe(),
    # For a small network on two cores, in a tenth of the epochs.
    "small": Recipe(
        epochs=32,
        batch_size=128,
        nesterov=True,
        weight_decay=5e-4,
        schedule="one-cycle",
        label_smoothing=0.1,
        augment=Augment(padding_mode="reflect", flip="alternating"),
        mirrored=True,
    ),
}


def make_optimizer(recipe: Recipe, network: nn.Module) -> optim.Optimizer:
    return optim.SGD(
        network.parameters(),
        recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def make_schedule(recipe: Recipe, optimizer: optim.Optimizer, batches: int) -> LRScheduler:
    """Make the schedule of the learning rate for epochs of ``batches``."""
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=recipe.epochs)
    steps = recipe.epochs * batches
    return OneCycleLR(optimizer, recipe.lr, total_steps=steps, cycle_momentum=False)
