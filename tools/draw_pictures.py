"""Draw the pictures of docs/ that show images: sheets, augmentation, duplicates, histogram.

    python -m tools.draw_pictures         # writes docs/*.png, in a minute and a half

CINIC-10's images are photographs of many people, so none is kept in this repository. What the
pictures show instead are the scenes of `scenes.py`, packed and drawn by the commands that the
README names. Needs matplotlib.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cinicpack import cinic10, pack, synthetic
from cinicpack.cinic10 import Origin
from cinicpack.cli import main
from tools.scenes import draw_scene

DOCS = Path(__file__).parents[1] / "docs"
PER_CLASS = 90


def draw_images(split: str, name: str, files: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
    """Draw the images of a split and class, those named as ImageNet's with more contrast."""
    for number, file in enumerate(files):
        key = (cinic10.SPLITS.index(split), cinic10.CLASSES.index(name), number)
        harsh = cinic10.parse_name(file).origin is Origin.IMAGENET
        yield draw_scene(name, np.random.default_rng(key), harsh=harsh)


def copy_some(tree: Path) -> None:
    """Put some images in other places too, as an audit finds them in CINIC-10."""
    files = {
        (split, name): sorted((tree / split / name).iterdir())
        for split in cinic10.SPLITS
        for name in cinic10.CLASSES
    }
    rng = np.random.default_rng(0)
    for first, second in (
        (("train", "ship"), ("test", "ship")),
        (("train", "dog"), ("test", "cat")),
        (("train", "bird"), ("valid", "bird")),
        (("valid", "frog"), ("test", "frog")),
        (("train", "deer"), ("valid", "horse")),
        (("test", "airplane"), ("valid", "airplane")),
        (("train", "automobile"), ("valid", "truck")),
        (("train", "horse"), ("test", "horse")),
    ):
        source, copy = (
            files[place][int(rng.integers(len(files[place])))] for place in (first, second)
        )
        shutil.copyfile(source, copy)


def draw_all(docs: Path, per_class: int) -> None:
    """Pack scenes, and run on them the commands that draw."""
    with tempfile.TemporaryDirectory() as folder:
        tree, packed = Path(folder, "tree"), Path(folder, "scenes.pack")
        synthetic.write_tree(tree, per_class, images=draw_images)
        copy_some(tree)
        with warnings.catch_warnings():
            # Hide the warning that the tree is smaller than CINIC-10.
            warnings.simplefilter("ignore")
            pack(tree, packed, progress=False)
        for command in (
            f"sheet {packed} -o {docs}/sheet.png --class cat",
            f"sheet {packed} -o {docs}/classes.png --split train",
            f"sheet {packed} -o {docs}/augmentation.png --split train --class horse --augment 3",
            f"histogram {packed} -o {docs}/histogram.png",
            f"audit {packed} --sheet {docs}/duplicates.png",
        ):
            if status := main(command.split()):
                raise SystemExit(status)


if __name__ == "__main__":
    draw_all(DOCS, PER_CLASS)
