import numpy as np
import pytest
from PIL import Image

import cinicpack
from cinicpack.cli import main
from cinicpack.errors import ArgumentError
from cinicpack.study.audit import Audit, Place
from cinicpack.study.picture import add_title
from cinicpack.study.sheet import draw_classes, draw_duplicates, draw_sheet


def tiles(sheet: np.ndarray, columns: int, size: int = 12) -> list[bytes]:
    """Cut a sheet into images, leaving out white ones."""
    step = size + 1
    cells = [
        sheet[top : top + size, left : left + size]
        for top in range(1, len(sheet), step)
        for left in range(1, columns * step, step)
    ]
    return [cell.tobytes() for cell in cells if (cell < 255).any()]


def pixels(split) -> list[bytes]:
    return [image.tobytes() for image in np.asarray(split.images)]


def test_sheet_shows_different_images_of_the_split(any_pack):
    split = cinicpack.open_pack(any_pack)["train+valid+test"].select(classes="cat")
    sheet = draw_sheet(split, rows=2, columns=5)
    assert sheet.shape == (2 * 13 + 1, 5 * 13 + 1, 3)
    shown = tiles(sheet, 5)
    assert len(set(shown)) == 10
    assert set(shown) < set(pixels(split))
    assert np.array_equal(sheet, draw_sheet(split, rows=2, columns=5))
    assert not np.array_equal(sheet, draw_sheet(split, rows=2, columns=5, seed=1))


def test_seeds_below_0_are_refused(npy_pack):
    split = cinicpack.open_pack(npy_pack)["train"]
    for draw in (draw_sheet, draw_classes):
        with pytest.raises(ArgumentError, match="expected seed of at least 0, found -1"):
            draw(split, seed=-1)


def test_sheet_of_few_images_shows_them_all(npy_pack):
    split = cinicpack.open_pack(npy_pack)["train"]
    sheet = draw_sheet(split, columns=5)
    assert sheet.shape == (3 * 13 + 1, 5 * 13 + 1, 3)
    assert sorted(tiles(sheet, 5)) == sorted(pixels(split))


def test_default_sheet_has_the_authors_size():
    class Split:
        images = np.zeros((300, 32, 32, 3), np.uint8)

        def __len__(self):
            return 300

    assert draw_sheet(Split()).shape == (331, 661, 3)  # type: ignore[arg-type]


def test_all_classes_stand_below_each_other(npy_pack):
    split = cinicpack.open_pack(npy_pack)["test"]
    picture = draw_classes(split, rows=1, columns=4)
    sheets = [
        draw_sheet(split.select(classes=name), rows=1, columns=4) for name in ("airplane", "cat")
    ]
    height, width, _ = sheets[0].shape
    places = [
        (y, x)
        for sheet in sheets
        for y in range(len(picture) - height)
        for x in range(picture.shape[1] - width)
        if np.array_equal(picture[y + 1, x : x + width], sheet[1])
        and np.array_equal(picture[y : y + height, x : x + width], sheet)
    ]
    assert len(places) == 2
    assert places[0][0] + height <= places[1][0]
    assert places[0][1] == places[1][1]
    only = draw_classes(split.select(classes="cat"), rows=1, columns=4)
    assert len(only) < len(picture)


def test_duplicates_are_in_the_order_of_their_numbers_and_the_gravest_are_chosen(npy_pack):
    pack = cinicpack.open_pack(npy_pack)

    def place(split: str, row: int, class_name: str = "cat") -> Place:
        return Place(split, row, class_name, f"{row}.png")

    within = [place("train", 0), place("train", 1)]
    leaked = [place("train", 2), *(place("test", row) for row in range(3, 8))]
    mixed = [place("valid", 8), place("valid", 9, "dog")]
    audit = Audit(pack, [within, leaked, mixed], [], [], [], {})

    def find(picture: np.ndarray, place: Place) -> list[tuple[int, int]]:
        tile = pack[place.split].images[place.row].repeat(2, 0).repeat(2, 1)
        return [
            (x, y)
            for y in range(len(picture) - 23)
            for x in range(picture.shape[1] - 23)
            if np.array_equal(picture[y : y + 24, x : x + 24], tile)
        ]

    picture = draw_duplicates(audit)
    # Two columns, filled one after the other.
    (first,), (second,), (third,) = (find(picture, group[0]) for group in (within, leaked, mixed))
    assert first[0] == second[0] < third[0]
    assert first[1] < second[1]

    two = draw_duplicates(audit, limit=2)
    assert find(two, leaked[0])[0][0] < find(two, mixed[0])[0][0]
    assert find(two, within[0]) == []
    few = draw_duplicates(audit, limit=1)
    assert len(find(few, leaked[0])) == 1
    assert find(few, mixed[0]) == find(few, within[0]) == []
    with pytest.raises(ArgumentError, match="expected duplicates to draw, found none"):
        draw_duplicates(Audit(pack, [], [], [], [], {}))


def test_command_draws_one_class_or_all(npy_pack, tmp_path, capsys):
    split = cinicpack.open_pack(npy_pack)["train+valid+test"]
    file = tmp_path / "a.png"

    def draw(*options: str) -> np.ndarray:
        assert main(["sheet", str(npy_pack), "-o", str(file), *options]) == 0
        picture = np.asarray(Image.open(file))
        assert f"{picture.shape[1]} x {picture.shape[0]} pixels" in capsys.readouterr().out
        return picture

    name = npy_pack.name
    for options, title, picture in (
        (
            ["--class", "cat", "--seed", "3"],
            f"{name}, train+valid+test, cat, all sources, random images, seed 3",
            draw_sheet(split.select(classes="cat"), seed=3),
        ),
        (
            ["--split", "test", "--source", "imagenet"],
            f"{name}, test, source imagenet, random images, seed 0",
            draw_classes(cinicpack.open_pack(npy_pack)["test"].select(source="imagenet")),
        ),
        (
            ["--class", "airplane,cat"],
            f"{name}, train+valid+test, airplane, cat, all sources, random images, seed 0",
            draw_classes(split),
        ),
    ):
        assert np.array_equal(draw(*options), add_title(title, picture))

    assert main(["sheet", str(npy_pack), "-o", str(tmp_path / "a.gif")]) == 1
    assert "ends in .png or .svg" in capsys.readouterr().err
    assert main(["sheet", str(npy_pack), "-o", str(file), "--class", "dog"]) == 1
    assert "found 'dog'" in capsys.readouterr().err
