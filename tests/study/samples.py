"""The authors' contact sheets of real images, which are not part of the project."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

__all__ = ["needs_samples", "read_sheet", "read_tiles"]

_FOLDER = Path(__file__).parents[3] / "shared" / "samples"

needs_samples = pytest.mark.skipif(
    not _FOLDER.exists(), reason=f"{_FOLDER} is not part of the project"
)


def read_sheet(name: str) -> NDArray[np.uint8]:
    """Read the sheet of a class: (331, 661, 3)."""
    return np.asarray(Image.open(_FOLDER / f"cinic-{name}.png").convert("RGB"))


def read_tiles(name: str) -> NDArray[np.uint8]:
    """Cut the sheet of a class into its images: (200, 32, 32, 3)."""
    cells = read_sheet(name)[1:, 1:].reshape(10, 33, 20, 33, 3).swapaxes(1, 2)
    return cells[:, :, :32, :32].reshape(200, 32, 32, 3)
