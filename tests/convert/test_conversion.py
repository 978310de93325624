import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile

from cinicpack.convert.conversion import Converter, Target, Task
from cinicpack.convert.files import Content
from cinicpack.errors import SourceError
from tests.png_images import GREY, RGB, RGBA, png, random_samples

PIXELS = [random_samples(RGB, 8, 3, 5, seed).astype(np.uint8) for seed in range(4)]
FILES: list[Content] = [png(pixels.astype(np.uint16)) for pixels in PIXELS]
PATHS = [f"train/cat/{number}.png" for number in range(4)]
UNUSUAL = png(random_samples(RGBA, 8, 3, 5), RGBA)
PLANES = b"".join(pixels.transpose(2, 0, 1).tobytes() for pixels in PIXELS)


@pytest.fixture
def convert(tmp_path) -> Iterator[Converter]:
    with Converter("tree", None, tmp_path / "scratch") as converter:
        yield converter


@pytest.fixture
def target(tmp_path) -> Target:
    """At byte 50 of a file of 400 times 7, of which 10 bytes before and all but 20 are written."""
    file = tmp_path / "array"
    file.write_bytes(b"\7" * 400)
    return Target(str(file), 50, (3, 5), 10, 20)


def test_a_whole_task_is_written_where_it_belongs(convert, target):
    # Let there be something where the zeros go.
    scratch = Path(convert(Task(PATHS, FILES)).scratch)
    result = convert(Task(PATHS, FILES, target))
    assert result.scratch == target.file
    assert result.offsets.tolist() == [50, 95, 140, 185]
    assert result.held_back == PLANES[-20:]
    written = Path(target.file).read_bytes()
    assert written == b"\7" * 40 + bytes(10) + PLANES[:-20] + b"\7" * (400 - 50 - 160)
    assert scratch.read_bytes() == PLANES


@pytest.mark.parametrize("file", [b"", png(random_samples(RGB, 8, 5, 3)), OSError("gone")])
@pytest.mark.parametrize("position", [0, 2, 4])
def test_a_task_that_is_not_whole_goes_to_the_scratch_file(convert, target, position, file):
    before = Path(target.file).read_bytes()
    files, paths = [*FILES], [*PATHS]
    files.insert(position, file)
    paths.insert(position, "train/cat/odd.png")
    for time in range(2):
        result = convert(Task(paths, files, target))
        assert result.scratch == str(Path(target.file).parent / "scratch")
        assert not result.held_back
        offsets = [offset for number, offset in enumerate(result.offsets) if number != position]
        content = Path(result.scratch).read_bytes()
        assert [content[offset : offset + 45] for offset in offsets] == [
            PLANES[45 * number :][:45] for number in range(4)
        ]
        assert len(content) == (time + 1) * 45 * (5 - len(result.bad))
    assert Path(target.file).read_bytes() == before
    # The next one is not disturbed.
    assert convert(Task(PATHS, FILES, target)).held_back == PLANES[-20:]


def test_large_images_are_not_all_in_memory_at_once(tmp_path, convert):
    pixels = np.full((400, 1000, 3), 7, np.uint16)
    task = Task([f"cat/{n}.png" for n in range(60)], [png(pixels)] * 60)
    # First without measuring, since what is compiled takes memory too.
    convert(task)
    tracemalloc.start()
    with Converter("tree", None, tmp_path / "other") as other:
        result = other(task)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.diff(result.offsets).tolist() == [pixels.size] * 59
    assert Path(result.scratch).read_bytes() == b"\7" * (60 * pixels.size)
    assert most < 60 * pixels.size / 2


def test_an_image_that_is_larger_than_all_that_waits_otherwise(convert):
    large = random_samples(GREY, 8, 1500, 1500)
    paths = ["cat/a.png", "cat/large.png", "cat/b.png"]
    result = convert(Task(paths, [FILES[0], png(large, GREY), FILES[1]]))
    content = Path(result.scratch).read_bytes()
    assert len(content) == 2 * 45 + 3 * large.size
    start = int(result.offsets[1])
    assert content[start : start + 3 * large.size] == large.astype(np.uint8).tobytes() * 3
    for offset, planes in ((result.offsets[0], PLANES[:45]), (result.offsets[2], PLANES[45:90])):
        assert content[offset : offset + 45] == planes


def test_want_of_memory_makes_no_image_bad(convert, monkeypatch):
    task = Task([*PATHS[:2], "train/cat/alpha.png"], [*FILES[:2], UNUSUAL])
    for error in (ImageFile._get_oserror(-9, encoder=False), MemoryError()):
        with monkeypatch.context() as patched:
            patched.setattr(PngImageFile, "load", Mock(side_effect=error))
            with pytest.raises(SourceError, match=r"'train/cat/0.png' to 'train/cat/alpha.png' \("):
                convert(task)
    assert convert(task).bad == []


def test_an_image_in_no_folder_is_converted_too(convert):
    # What is wrong with it is for the layout to say.
    assert convert(Task(["a.png"], [FILES[0]])).bad == []


def test_pixels_are_taken_as_they_are(convert, target):
    result = convert(Task(PATHS, [*PIXELS], target))
    assert result.scratch == target.file
    assert result.held_back == PLANES[-20:]
    same = convert(Task(PATHS, FILES, target))
    np.testing.assert_array_equal(result.digests, same.digests)
    np.testing.assert_array_equal(result.sums, same.sums)
