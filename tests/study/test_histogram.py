import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import cinicpack
from cinicpack.cli import main
from cinicpack.errors import ArgumentError, CinicPackError, SelectionError
from cinicpack.study.histogram import count_intensities, draw_histograms
from cinicpack.synthetic import write_images


def count_slowly(split) -> np.ndarray:
    images = np.asarray(split.images)
    return np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(3)])


def test_intensities_are_counted_by_source_and_channel(any_pack):
    pack = cinicpack.open_pack(any_pack)
    for name in (None, "train", "test+valid"):
        split = pack[name or "train+valid+test"]
        found = count_intensities(pack, name)
        assert sorted(found) == ["cifar10", "imagenet", "unknown"][: 2 if name == "train" else 3]
        for source in ("cifar10", "imagenet"):
            assert np.array_equal(found[source], count_slowly(split.select(source=source)))
    with pytest.raises(SelectionError, match="found 'tests'"):
        count_intensities(pack, "tests")


def test_images_of_unknown_source_are_counted(tmp_path):
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0, 2] = 255
    write_images(tmp_path / "tree" / "some", ["a.png"], [image])
    pack = cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    (counts,) = count_intensities(pack).values()
    assert counts[:, 0].tolist() == [4, 4, 3]
    assert counts[:, 255].tolist() == [0, 0, 1]
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    draw_histograms(tmp_path / "a.png", {"unknown": counts})


def test_figure_is_png_or_svg(npy_pack, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    found = count_intensities(cinicpack.open_pack(npy_pack), "train")
    for suffix in ("png", "svg"):
        draw_histograms(tmp_path / f"a.{suffix}", found)
        draw_histograms(tmp_path / f"b.{suffix}", found)
        first, second = (tmp_path / f"{name}.{suffix}" for name in "ab")
        assert first.read_bytes() == second.read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1200, 750)
    # Two dashed means in each of four panels, and the line that explains them.
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    dashed = [node for node in root.iter() if "stroke-dasharray" in node.get("style", "")]
    assert len(dashed) == 9
    texts = (tmp_path / "a.svg").read_text("utf-8")
    assert "<!-- dashed: mean intensity -->" in texts
    draw_histograms(tmp_path / "a.svg", found, title="a$_{$\u65e5\udcff.pack")
    assert r"<!-- a$_{$\u65e5\udcff.pack -->" in (tmp_path / "a.svg").read_text("utf-8")
    with pytest.raises(ArgumentError, match=r"ends in .png or .svg"):
        draw_histograms(tmp_path / "a.pdf", found)


def test_missing_matplotlib_is_told(npy_pack, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = count_intensities(cinicpack.open_pack(npy_pack))
    with pytest.raises(CinicPackError, match=r"expected matplotlib.*pip install matplotlib"):
        draw_histograms(tmp_path / "a.png", found)
    assert list(tmp_path.iterdir()) == []


def test_command_draws_and_counts(npy_pack, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    file = tmp_path / "a.svg"
    assert main(["histogram", str(npy_pack), "-o", str(file), "--split", "train"]) == 0
    assert f"{file}: {12 * 12 * 12:,} pixels counted in " in capsys.readouterr().out
    found = count_intensities(cinicpack.open_pack(npy_pack), "train")
    draw_histograms(tmp_path / "b.svg", found, title=f"{npy_pack.name}, train")
    assert file.read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert main(["histogram", "missing.pack", "-o", "a.jpg"]) == 1
    assert "ends in .png or .svg" in capsys.readouterr().err
