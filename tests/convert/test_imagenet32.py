import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cinicpack.convert.source import open_source
from cinicpack.errors import SourceError
from cinicpack.store.verify import verify_pack
from tests.cifar_files import draw, write_imagenet, write_pickle
from tests.convert.sources_here import bytes_of, pack

# Three files of the training set, and the validation set; some hundred classes have no image.
TRAIN = [draw(count, count, classes=1000) for count in (40, 3, 20)]
VALID = draw(9, 9, classes=1000)
LABELS = np.concatenate([part.labels for part in TRAIN])
NUMBERED = tuple(f"{number:04d}" for number in range(1, 1001))


def write_files(folder: Path, ending: str, protocol: int = 3) -> Path:
    folder.mkdir(parents=True)
    for number, part in enumerate(TRAIN, 1):
        write_imagenet(folder / f"train_data_batch_{number}{ending}", part, protocol)
    write_imagenet(folder / f"val_data{ending}", VALID, protocol)
    return folder


@pytest.mark.parametrize("protocol", [2, 3, 5])
def test_row_i_is_image_i_and_labels_count_from_one(tmp_path, protocol):
    one = pack(write_files(tmp_path / "files", "", protocol), tmp_path / "a")
    assert one.splits == ("train", "valid")
    assert one.classes == NUMBERED
    assert one["train"].labels.tolist() == LABELS.tolist()
    images = np.concatenate([part.images for part in TRAIN])
    np.testing.assert_array_equal(np.asarray(one["train"].images), images)
    assert one["train"].names[62] == b"imagenet-train-62.png"
    assert one["valid"].labels.tolist() == VALID.labels.tolist()
    assert one["valid"].names[8] == b"imagenet-valid-8.png"
    assert not verify_pack(one.path).problems


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_npz_files_give_the_bytes_of_pickles(tmp_path, compressed, num_workers):
    folder = write_files(tmp_path / "npz", ".npz")
    if compressed:
        for file in folder.iterdir():
            np.savez_compressed(file, **np.load(file))
    one = pack(folder, tmp_path / "a", num_workers=num_workers)
    other = pack(write_files(tmp_path / "files", ""), tmp_path / "b")
    assert bytes_of(one.path) == bytes_of(other.path)


def test_a_zip_of_files_and_a_file_alone(tmp_path):
    folder = write_files(tmp_path / "npz", ".npz")
    with zipfile.ZipFile(tmp_path / "Imagenet32_train_npz.zip", "w") as zipped:
        for file in sorted(folder.glob("train*")):
            zipped.write(file, f"Imagenet32_train_npz/{file.name}")
    one = pack(tmp_path / "Imagenet32_train_npz.zip", tmp_path / "a")
    assert (one.splits, one["train"].labels.tolist()) == (("train",), LABELS.tolist())
    for name, split, part in (
        ("train_data_batch_2", "train", TRAIN[1]),
        ("val_data", "valid", VALID),
    ):
        one = pack(folder / f"{name}.npz", tmp_path / name)
        assert (one.splits, one[split].labels.tolist()) == ((split,), part.labels.tolist())
    (folder / "val_data.npz").rename(folder / "mine")
    assert pack(folder / "mine", tmp_path / "b").splits == ("train",)


@pytest.mark.parametrize("side", [8, 16, 64])
def test_the_other_sizes(tmp_path, side):
    drawn = draw(5, side, classes=1000, side=side)
    write_imagenet(tmp_path / "val_data", drawn)
    one = pack(tmp_path / "val_data", tmp_path / "a")
    np.testing.assert_array_equal(np.asarray(one["valid"].images), drawn.images)


def test_the_list_of_synsets_names_the_classes(tmp_path):
    folder = write_files(tmp_path / "files", "")
    synsets = [f"n{number * 7919 % 10**8:08d}" for number in range(1000)]
    lines = [f"{name} {number} some_name" for number, name in enumerate(synsets, 1)]
    (folder / "map_clsloc.txt").write_text("\n".join(lines))
    assert pack(folder, tmp_path / "a").classes == tuple(synsets)
    (folder / "map_clsloc.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(SourceError, match=r"map_clsloc.txt: expected lines .*found 999 of them"):
        pack(folder, tmp_path / "b")


def npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def good() -> bytes:
    return npz(data=VALID.planes, labels=VALID.labels + 1)


def objects() -> bytes:
    return npz(data=VALID.planes, labels=np.array([print] * 9, object))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz(data=VALID.planes, labels=[5] * 4 + [0] * 5), "from 1 to 1000, found 0 in row 4"),
        (npz(data=VALID.planes, labels=VALID.labels + 999), "labels from 1 to 1000, found 1"),
        (npz(data=VALID.planes, labels=VALID.labels[1:]), "found 8 labels and 9 images"),
        (npz(data=VALID.planes, labels=VALID.planes), r"one list of whole numbers .*uint8 \(9, 30"),
        (npz(data=VALID.planes.astype("f4"), labels=VALID.labels), r"images of uint8.*float32"),
        (npz(data=np.asfortranarray(VALID.planes), labels=VALID.labels), "in Fortran order"),
        (objects(), "npy file of numbers in C order, found object"),
        (npz(data=VALID.planes), "arrays 'data' and 'labels', found data.npy"),
        (
            npz(data=np.zeros((5_000, 3072), "u1"), labels=[1] * 5_000),
            "found 'data.npy', of which .* bytes become 15,360,128; remove it",
        ),
        (good()[:-400], "expected a whole archive, found it damaged or cut off"),
        (good()[:900] + bytes(50) + good()[950:], "expected a whole archive, found it damaged"),
    ],
    ids=range(11),
)
def test_what_is_wrong_is_named_and_nothing_published(tmp_path, content, message):
    folder = write_files(tmp_path / "files", ".npz")
    (folder / "train_data_batch_2.npz").write_bytes(content)
    with pytest.raises(SourceError, match=rf"{folder}.*{message}"):
        pack(folder, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_missing_and_double_files_are_named(tmp_path):
    folder = write_files(tmp_path / "files", "")
    write_imagenet(folder / "val_data.npz", VALID)
    with pytest.raises(SourceError, match=r"expected val_data once, found val_data.npz too"):
        pack(folder, tmp_path / "a")
    (folder / "val_data.npz").unlink()
    (folder / "train_data_batch_1").unlink()
    with pytest.raises(SourceError, match="but train_data_batch_1 is missing, found"):
        pack(folder, tmp_path / "a")


def test_a_call_in_a_pickle_is_not_made(tmp_path):
    write_pickle(tmp_path / "val_data", {"data": exec, "labels": [1]})
    with pytest.raises(SourceError, match=r"val_data: .*a call of __builtin__.exec, which is not"):
        pack(tmp_path, tmp_path / "a")


def test_the_fraction_grows_to_one(tmp_path):
    source = open_source(write_files(tmp_path / "files", ""))
    fractions = [source.fraction for _ in source.stream()]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


MEASURE = """
import resource, sys
import cinicpack

cinicpack.pack(sys.argv[1], sys.argv[2], num_workers=0, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is Linux's")
@pytest.mark.parametrize("ending", ["", ".npz"])
def test_memory_does_not_grow_with_the_number_of_files(tmp_path, ending):
    rows, peaks = 2_000, []
    drawn = draw(rows, 0, classes=1000)
    for files in (2, 20):
        folder = tmp_path / str(files)
        folder.mkdir()
        for number in range(1, files + 1):
            write_imagenet(folder / f"train_data_batch_{number}{ending}", drawn)
        command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / f"{files}.pack")]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
    pixels = 18 * drawn.images.nbytes
    assert peaks[1] - peaks[0] < pixels / 4
