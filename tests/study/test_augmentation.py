import numpy as np
import pytest
from PIL import Image

import cinicpack
from cinicpack import Augment, Loader, Pack
from cinicpack.cli import main
from cinicpack.errors import SelectionError
from cinicpack.study.augmentation import draw_augmentation
from cinicpack.study.picture import draw_grid

SCALE = 5  # brings 12 pixels near 64


@pytest.fixture(scope="module")
def pack(npy_pack) -> Pack:
    return cinicpack.open_pack(npy_pack)


def find(picture: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    height, width, _ = part.shape
    return [
        (y, x)
        for y in range(len(picture) - height + 1)
        for x in range(picture.shape[1] - width + 1)
        if np.array_equal(picture[y, x : x + width], part[0])
        and np.array_equal(picture[y : y + height, x : x + width], part)
    ]


def grid(images) -> np.ndarray:
    """A row of tiles without the white line around it."""
    return draw_grid(np.stack(images), len(images), scale=SCALE)[1:-1, 1:-1]


def test_original_comes_first_then_what_the_loader_gives(pack):
    split = pack["train+test"].select(classes="cat")
    picture = draw_augmentation(split, 7, epochs=3, seed=5)
    original = split.images[7]
    loader = Loader(
        pack,
        split.select(indices=[7]),
        augment=Augment(),
        dtype="uint8",
        channels_last=True,
        output="numpy",
        seed=5,
    )
    expected = grid([images[0].copy() for _ in range(3) for images, _ in loader])
    first = find(picture, grid([original]))[0]
    (second,) = find(picture, expected)
    assert first[0] < second[0]
    assert first[1] == second[1]


def test_alternating_mirrors_every_other_epoch(pack):
    picture = draw_augmentation(pack["train"], 0, epochs=4)
    original = pack["train"].images[0]
    mirrored = original[:, ::-1]
    one = find(picture, grid([original, mirrored, original, mirrored]))
    other = find(picture, grid([mirrored, original, mirrored, original]))
    assert len(one) + len(other) == 1


def test_picture_depends_on_row_and_seed(pack):
    def draw(row: int, seed: int) -> bytes:
        return draw_augmentation(pack["train"], row, epochs=2, seed=seed).tobytes()

    assert draw(0, 0) == draw(0, 0)
    assert len({draw(0, 0), draw(1, 0), draw(0, 1)}) == 3
    for row in (12, -1):
        with pytest.raises(
            SelectionError, match=rf"--augment \(row=\) .* below 12, .*, found {row}$"
        ):
            draw(row, 0)


def test_command_augments_a_row_of_what_is_selected(pack, tmp_path, capsys):
    file = tmp_path / "a.png"
    options = ["--split", "valid", "--class", "cat", "--augment", "2", "--seed", "4"]
    assert main(["sheet", str(pack.path), "-o", str(file), *options]) == 0
    expected = draw_augmentation(pack["valid"].select(classes="cat"), 2, seed=4)
    drawn = np.asarray(Image.open(file))
    # The title is above it.
    assert np.array_equal(drawn[-len(expected) :], expected)
    assert main(["sheet", str(pack.path), "-o", str(file), "--augment", "36"]) == 1
    assert "expected --augment (row=) of at least 0 and below 36, " in capsys.readouterr().err
