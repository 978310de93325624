"""Mix: how the samples of a batch are mixed with each other, as users ask for it."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from cinicpack.errors import ArgumentError

__all__ = ["CutMix", "Mix", "MixUp", "check_mix"]


@dataclass(frozen=True)
class MixUp:
    """Mix every image of a batch with another one, and their labels alike.

    A share is drawn for each batch from the Beta distribution; images and labels are
    ``share * own + (1 - share) * partner's``, as torchvision's ``v2.MixUp`` makes them. Each
    product and their sum are rounded to float32, then the sum to the dtype of the images; to whole
    numbers for uint8, ties to even.

    Args:
        alpha: both parameters of the Beta distribution, above 0; 1: every share is equally likely;
            the smaller, the closer to 0 or 1 shares are.

    Raises `ArgumentError` for anything else.

    >>> import cinicpack
    >>> loader = cinicpack.Loader("cinic10.pack", mix=cinicpack.MixUp(alpha=0.2))
    >>> images, labels = next(iter(loader))
    >>> labels.shape, labels.dtype
    (torch.Size([90, 10]), torch.float32)
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", _check_alpha(self.alpha))


@dataclass(frozen=True)
class CutMix:
    """Put a box of another image of the batch into every image, and mix their labels by its area.

    The box is the same for a whole batch: its centre is uniform, its sides are those of the image
    times ``sqrt(1 - share)`` for a share drawn from the Beta distribution, and the image clips it,
    as in torchvision's ``v2.CutMix``. The own label counts by the pixels outside of the box.

    Args:
        alpha: both parameters of the Beta distribution, above 0, see `MixUp`.

    Raises `ArgumentError` for anything else; `Loader` also for images with a side of one pixel.

    >>> import cinicpack
    >>> both = [cinicpack.MixUp(0.2), cinicpack.CutMix()]  # one of them is drawn for each batch
    >>> loader = cinicpack.Loader("cinic10.pack", mix=both, batch_size=30)
    >>> images, labels = next(iter(loader))
    >>> images.shape, labels.shape
    (torch.Size([30, 3, 32, 32]), torch.Size([30, 10]))
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", _check_alpha(self.alpha))


Mix: TypeAlias = MixUp | CutMix


def check_mix(mix: Any, shape: Sequence[int]) -> list[Mix]:
    """Return what a `Loader` is given as ``mix`` as a list, for images of a shape (H, W, 3).

    Raises `ArgumentError` for anything but a `MixUp`, a `CutMix` or several of them, and for
    `CutMix` where images have a side of one pixel.

    >>> check_mix(MixUp(), (32, 32, 3))
    [MixUp(alpha=1.0)]
    """
    mixes = list(mix) if isinstance(mix, list | tuple) else [mix]
    if not mixes or not all(isinstance(one, Mix) for one in mixes):
        raise ArgumentError(
            f"expected mix to be a MixUp, a CutMix or a list of these, found {mix!r}; None mixes "
            "nothing"
        )
    height, width, _ = shape
    if min(height, width) < 2 and any(isinstance(one, CutMix) for one in mixes):
        raise ArgumentError(
            f"CutMix cannot cut a box out of images of {height}x{width}: pass mix=cinicpack.MixUp()"
        )
    return mixes


def _check_alpha(alpha: Any) -> float:
    if isinstance(alpha, int | float | np.number) and not isinstance(alpha, bool):
        with suppress(OverflowError):
            if 0 < (found := float(alpha)) < math.inf:
                return found
    raise ArgumentError(
        f"expected alpha to be a number above 0, found {alpha!r}; mix=None mixes nothing"
    )
