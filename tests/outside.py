"""What lies outside of the clone, in a folder beside it: no other file of the project names it.

A test that needs some of it is skipped where that is absent.
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

__all__ = ["CIFAR10_JPEGS", "SHEETS", "SYNSETS", "read_sheet", "read_tiles", "require"]

_FOLDER = Path(__file__).resolve().parents[2] / "shared"

# The authors' contact sheets of real images, one a class.
SHEETS = _FOLDER / "samples"
# The authors' list of the ImageNet synsets of every class.
SYNSETS = _FOLDER / "synsets" / "synsets-to-cifar-10-classes.txt"
# CIFAR-10's images as JPEG files: train/CLASS/NNNN.jpg, test/CLASS/NNNN.jpg.
CIFAR10_JPEGS = _FOLDER / "real" / "cifar10-jpeg.tar.xz"


def require(path: Path) -> Path:
    """Return one of the paths above, or skip the test that asks for it."""
    if not path.exists():
        pytest.skip(f"needs {path}, which is not part of the clone")
    return path


def read_sheet(class_name: str) -> NDArray[np.uint8]:
    """Read the contact sheet of a class, (331, 661, 3): a white line before each row and column."""
    with Image.open(require(SHEETS) / f"cinic-{class_name}.png") as image:
        return np.asarray(image.convert("RGB"))


def read_tiles(class_name: str) -> NDArray[np.uint8]:
    """Cut the contact sheet of a class into its images, (200, 32, 32, 3), row by row."""
    cells = read_sheet(class_name)[1:, 1:].reshape(10, 33, 20, 33, 3).swapaxes(1, 2)
    return cells[:, :, :32, :32].reshape(200, 32, 32, 3)
