import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cinicpack
from cinicpack import pack_dataset
from cinicpack.errors import ArgumentError, BadImagesError, SourceError
from cinicpack.store.verify import verify_pack
from tests.convert.sources_here import bytes_of
from tests.torchvision_here import import_torchvision

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = [1, 0, 1, 1, 0, 0]
CLASSES = ["dog", "cat"]
FEATURES = {"label": SimpleNamespace(names=CLASSES)}


@dataclass
class Items:
    """A dataset of some items, which may declare classes."""

    items: list[Any]
    classes: list[str] = field(default_factory=lambda: CLASSES)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        return self.items[row]


class Rows:
    """A dataset as Hugging Face's: dictionaries, and features."""

    def __init__(self, image: str = "image", label: str = "label") -> None:
        self.columns = image, label
        self.features = {image: None, label: SimpleNamespace(names=CLASSES)}

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, row: int) -> dict[str, Any]:
        image, label = self.columns
        return {image: Image.fromarray(IMAGES[row]), label: LABELS[row], "other": None}


def pack_here(datasets: Any, destination: Any, **options: Any) -> cinicpack.Pack:
    return pack_dataset(datasets, destination, progress=False, **options)


def items_of(images: Any, labels: Any = LABELS) -> Items:
    return Items(list(zip(images, labels, strict=True)))


KINDS: dict[str, Any] = {
    "PIL": lambda: items_of(map(Image.fromarray, IMAGES)),
    "arrays": lambda: items_of(IMAGES, np.array(LABELS)),
    "planes": lambda: items_of(IMAGES.transpose(0, 3, 1, 2)),
    "tensors": lambda: items_of(torch.from_numpy(IMAGES).permute(0, 3, 1, 2), torch.tensor(LABELS)),
    "lists": lambda: Items([[image, label] for image, label in zip(IMAGES, LABELS, strict=True)]),
    "rows": Rows,
    "rows of CIFAR": lambda: Rows("img", "fine_label"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_row_i_is_item_i_whatever_the_items_are(tmp_path, kind):
    made = pack_here({"train": KINDS[kind]()}, tmp_path / "a")
    assert made.classes == tuple(CLASSES)
    assert made["train"].labels.tolist() == LABELS
    assert made["train"].names.tolist() == [b"%08d.png" % row for row in range(6)]
    np.testing.assert_array_equal(made["train"].images, IMAGES)
    assert not verify_pack(made.path).problems


def test_the_bytes_are_those_of_the_arrays(tmp_path):
    arrays = {"train": (IMAGES, LABELS), "test": (IMAGES[:2], LABELS[:2])}
    expected = cinicpack.pack_arrays(arrays, tmp_path / "a", classes=CLASSES, progress=False)
    datasets = {"train": Rows(), "test": Items([*zip(IMAGES[:2], LABELS[:2], strict=True)])}
    assert bytes_of(pack_here(datasets, tmp_path / "b").path) == bytes_of(expected.path)


def test_pictures_become_rgb_as_image_folder_makes_them(tmp_path):
    pictures = [Image.fromarray(IMAGES[0]).convert(mode) for mode in ("L", "RGBA", "P", "1", "RGB")]
    made = pack_here({"train": items_of(pictures, [0] * 5)}, tmp_path / "a")
    for row, picture in enumerate(pictures):
        np.testing.assert_array_equal(made["train"].images[row], np.asarray(picture.convert("RGB")))


def test_torchvisions_own(tmp_path):
    datasets = import_torchvision().datasets
    fake = datasets.FakeData(4, (3, 6, 5), 2)
    made = pack_here({"train": fake}, tmp_path / "a", classes=CLASSES)
    for row, (image, label) in enumerate(fake[row] for row in range(4)):
        np.testing.assert_array_equal(made["train"].images[row], np.asarray(image))
        assert made["train"].labels[row] == label
    for name, image in zip("ab", IMAGES, strict=False):
        (tmp_path / "tree" / name).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "tree" / name / "x.png")
    folder = pack_here({"valid": datasets.ImageFolder(tmp_path / "tree")}, tmp_path / "b")
    assert folder.classes == ("a", "b")


def test_a_packed_dataset_comes_back_as_it_was(tmp_path, npy_pack):
    splits = ("train", "valid", "test")
    datasets = {split: cinicpack.PackedDataset(npy_pack, split) for split in splits}
    made, pack = pack_here(datasets, tmp_path / "a"), cinicpack.open_pack(npy_pack)
    for split in splits:
        np.testing.assert_array_equal(made[split].images, pack[split].images)
        np.testing.assert_array_equal(made[split].labels, pack[split].labels)


BAD: dict[str, tuple[Any, str]] = {
    "label": (
        items_of(IMAGES, [0, 1, 2, 0, 0, 0]),
        "train[2]: expected a label from 0 to 1, since",
    ),
    "float": (
        items_of(IMAGES, [0, 0.5, 0, 0, 0, 0]),
        "train[1]: expected a label that is an integ",
    ),
    "image": (Items([("a.png", 0)]), "train[0]: expected a PIL image, or pixels uint8"),
    "grey": (
        items_of(IMAGES[..., 0]),
        "train[0]: expected a PIL image, or pixels uint8 (height, w",
    ),
    "floats": (items_of(IMAGES / 255), "train[0]: expected pixels uint8, (height, "),
    "both": (items_of(IMAGES[:, :3, :]), "train[0]: expected pixels whose channels are either"),
    "three": (Items([(IMAGES[0], 0, 0)]), "train[0]: expected (image, label), or a dictionary"),
    "columns": (Items([{"picture": 1, "label": 0}]), "found ['label', 'picture']"),
    "no label": (Items([{"image": IMAGES[0]}]), "train[0]: expected a label that is an integer"),
}


@pytest.mark.parametrize("case", BAD)
def test_items_that_are_something_else_are_named_and_nothing_is_made(tmp_path, case):
    dataset, message = BAD[case]
    with pytest.raises(SourceError, match=re.escape(message)):
        pack_here({"train": dataset}, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_an_item_that_cannot_be_had_is_named(tmp_path):
    class Broken(Items):
        def __getitem__(self, row: int) -> Any:
            return super().__getitem__(row) if row < 3 else Image.open(tmp_path / "nothing.png")

    broken = Broken(items_of(IMAGES).items)
    with pytest.raises(SourceError, match=r"valid\[3\]: expected an item, found FileNotFoundError"):
        pack_here({"valid": broken}, tmp_path / "a")


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"train": iter(IMAGES)}, "train: expected a dataset with a length and items by their num"),
        ({"train": Items([])}, "train: expected items, found none"),
        (Rows(), 'expected {"train": (images, labels)'),
        (
            {"train": Items([1], ["a"]), "test": Items([1], ["b"])},
            "all the same, as .classes or in",
        ),
        ({"train": [(IMAGES[0], 0)]}, "found {'train': None}; pass classes="),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path, datasets, message):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        pack_here(datasets, tmp_path / "a")


def test_other_sizes_are_listed_or_left_out(tmp_path):
    odd = items_of([*IMAGES[:4], IMAGES[4][:2], IMAGES[5]])
    with pytest.raises(BadImagesError, match=r"train/dog/00000004.png: has 2x4 pixels"):
        pack_here({"train": odd}, tmp_path / "a")
    with pytest.warns(UserWarning, match="1 image that cannot be packed is left out") as warned:
        made = pack_here({"train": odd}, tmp_path / "a", skip_bad=True)
    assert len(made["train"]) == 5
    assert warned[0].filename.endswith("test_dataset.py")
