import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cinicpack.cinic10 import CLASSES

TOOLS = Path(__file__).parents[2] / "tools"


def test_every_class_has_a_scene_that_its_seed_decides():
    scenes = runpy.run_path(str(TOOLS / "scenes.py"))
    assert tuple(scenes["SCENES"]) == CLASSES
    for name in CLASSES:
        image, same, other = (
            scenes["draw_scene"](name, np.random.default_rng(seed)) for seed in (0, 0, 1)
        )
        assert image.shape == (32, 32, 3)
        assert np.array_equal(image, same)
        assert not np.array_equal(image, other)


def test_the_pictures_of_the_pages_are_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the histogram needs matplotlib")
    runpy.run_path(str(TOOLS / "draw_pictures.py"))["draw_all"](tmp_path, 4)
    assert "exact duplicates       16 images of 8 pictures" in capsys.readouterr().out
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (TOOLS.parent / "docs").glob("*.png")}
    for name in drawn:
        with Image.open(tmp_path / name) as image:
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 100
