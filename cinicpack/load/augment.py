"""Augmentation: what is done to training images."""

from dataclasses import dataclass
from typing import Final

from cinicpack.errors import ArgumentError

__all__ = ["Augment"]

# Places in the padded image have to fit into 32 bits.
_STOP: Final = 2**30


@dataclass(frozen=True)
class Augment:
    """Random crop, mirrors and cutout, drawn anew for every sample and epoch, in that order.

    Args:
        crop_padding: pixels added on every side before a crop of the original size is taken at a
            uniform offset; 0: no crop.
        padding_mode: what the added pixels are: "constant", black as torchvision's RandomCrop has
            it ("zeros" means the same), or "reflect", the image without its edge repeated.
        flip: "random": a coin decides in every epoch whether an image is mirrored left to right;
            "alternating": it decides the first epoch, and from then on the image is mirrored in
            every other one; None: never mirrored.
        cutout: side of a square with a uniform centre, clipped by the image, that is set to the
            mean; 0: none.
        vertical_flip: a coin decides in every epoch whether an image is turned upside down, as
            torchvision's RandomVerticalFlip does it.

    Raises ``ArgumentError`` for any other value.

    >>> Augment(padding_mode="zeros")
    Augment(crop_padding=4, padding_mode='constant', flip='random', cutout=0, vertical_flip=False)
    """

    crop_padding: int = 4
    padding_mode: str = "constant"
    flip: str | None = "random"
    cutout: int = 0
    vertical_flip: bool = False

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < _STOP:
                raise ArgumentError(
                    f"expected {name} to be a whole number of at least 0 and below {_STOP}, "
                    f"found {value!r}"
                )
        if self.padding_mode not in ("constant", "zeros", "reflect"):
            raise ArgumentError(
                "expected padding_mode to be 'constant' (or 'zeros') or 'reflect', found "
                f"{self.padding_mode!r}"
            )
        if self.padding_mode == "zeros":
            object.__setattr__(self, "padding_mode", "constant")
        if self.flip not in ("random", "alternating", None):
            raise ArgumentError(
                f"expected flip to be 'random', 'alternating' or None, found {self.flip!r}"
            )
        if type(self.vertical_flip) is not bool:
            raise ArgumentError(
                f"expected vertical_flip to be True or False, found {self.vertical_flip!r}"
            )

    def check_size(self, height: int, width: int) -> None:
        """Raise ``ArgumentError`` where nothing would be left of images of this size.

        A cutout would cover all of each, or there is not enough to pad it by reflection.
        """
        if self.cutout >= 2 * max(height, width):
            raise ArgumentError(
                f"expected a cutout below {2 * max(height, width)} for images of {height}x{width}, "
                f"found {self.cutout}, which would cover all of every image"
            )
        if self.padding_mode == "reflect" and self.crop_padding >= min(height, width):
            raise ArgumentError(
                f"expected a crop_padding below {min(height, width)} to reflect images of "
                f"{height}x{width}, found {self.crop_padding}"
            )
