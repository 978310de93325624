import copy
import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler, StackDataset, Subset

import cinicpack
from cinicpack import PackedDataset, PackError, SelectionError
from tests.packs import copy_pack
from tests.torchvision_here import import_torchvision


def identity(batch):
    return batch


def to_array(image):
    return np.array(image)


def mean_of(image):
    return torch.tensor(np.asarray(image, np.float64).mean())


def negate(label):
    return -label


def samples_of(dataset):
    return [dataset[row] for row in range(len(dataset))]


def equal(samples, expected):
    return len(samples) == len(expected) and all(
        label == wanted and to_array(image).tobytes() == to_array(other).tobytes()
        for (image, label), (other, wanted) in zip(samples, expected, strict=True)
    )


@pytest.fixture(scope="module", params=["npy", "sharded", "hdf5", "union", "selection"])
def dataset(request, pack, sharded_pack, hdf5_pack):
    """Nine images of ten classes each, or so, that lie in a pack in one way or another."""
    chosen = {
        "npy": (pack, "valid"),
        "sharded": (sharded_pack, "valid"),
        "hdf5": (hdf5_pack, "valid"),
        "union": (pack, "train+valid"),
        "selection": (pack, pack["valid"].select(source="imagenet")),
    }
    return PackedDataset(*chosen[request.param])


@pytest.mark.parametrize("split", ["train", "test"])
def test_it_is_what_image_folder_is(load_tree, pack, split):
    torchvision = import_torchvision()
    folder = torchvision.datasets.ImageFolder(load_tree / split)
    dataset = PackedDataset(pack.path, split)
    assert len(dataset) == len(folder)
    assert dataset.classes == folder.classes
    assert dataset.class_to_idx == folder.class_to_idx
    assert dataset.targets == folder.targets
    for (image, label), (expected, wanted) in zip(samples_of(dataset), folder, strict=True):
        assert type(image) is type(expected)
        assert (image.mode, image.size) == (expected.mode, expected.size)
        assert image.tobytes() == expected.tobytes()
        assert (label, type(label)) == (wanted, int)


def test_random_transforms_give_what_they_give_with_image_folder(load_tree, pack):
    torchvision = import_torchvision()
    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.RandomCrop(32, padding=4),
            torchvision.transforms.RandomHorizontalFlip(),
            torchvision.transforms.ToTensor(),
        ]
    )
    loaded = []
    for dataset in (
        torchvision.datasets.ImageFolder(load_tree / "train", transform, negate),
        PackedDataset(pack, "train", transform, negate),
    ):
        torch.manual_seed(0)
        loaded.append(list(DataLoader(dataset, batch_size=32, shuffle=True)))
    for (images, labels), (expected, wanted) in zip(*loaded, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, wanted)


def test_samples_are_rows_of_data_and_targets(dataset):
    assert isinstance(dataset.data, np.ndarray)
    assert dataset.data.shape == (len(dataset), 32, 32, 3)
    assert np.shares_memory(dataset.data, dataset.data)
    assert np.array_equal(dataset.data, np.asarray(dataset.split.images))
    assert dataset.targets == dataset.split.labels.tolist()
    for row in (0, 1, len(dataset) - 1, -1):
        image, label = dataset[row]
        assert isinstance(image, Image.Image)
        assert np.array_equal(to_array(image), dataset.data[row])
        assert label == dataset.targets[row]


@given(data=st.data())
def test_fetching_several_is_fetching_each(dataset, data):
    row = st.integers(-len(dataset), len(dataset) - 1)
    rows = data.draw(st.lists(row, max_size=20))
    samples = dataset.__getitems__(rows)
    assert type(samples) is list
    assert equal(samples, [dataset[row] for row in rows])
    assert equal(samples, [(Image.fromarray(dataset.data[r]), dataset.targets[r]) for r in rows])


def test_images_fetched_together_are_like_any_others(dataset):
    """They are cut from one image."""
    first, (image, _) = dataset.__getitems__([4, 5])
    expected = Image.fromarray(dataset.data[5])
    assert image == expected
    assert vars(image).keys() == vars(expected).keys()
    assert pickle.loads(pickle.dumps(image)) == image
    assert image.rotate(90) == expected.rotate(90)
    assert np.array_equal(to_array(image.convert("L")), to_array(expected.convert("L")))
    image.info["comment"] = "mine"
    assert not first[0].info


def test_images_are_the_users_own_and_data_is_not(dataset):
    (first, _), (second, _) = dataset.__getitems__([4, 5])
    before = second.tobytes()
    first.paste((1, 2, 3), (0, 0, 32, 32))
    assert second.tobytes() == before
    assert dataset[4][0].tobytes() != first.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        dataset.data[0] = 0


def test_transforms(pack):
    plain, dataset = PackedDataset(pack), PackedDataset(pack, "train", to_array, negate)
    image, label = dataset[60]
    assert np.array_equal(image, plain[60][0])
    assert label == -plain[60][1]
    assert PackedDataset(pack, transform=mean_of)[0][0] == mean_of(plain[0][0])
    dataset.transform = None
    assert isinstance(dataset[0][0], Image.Image)


def test_targets_may_be_an_array(pack):
    dataset = PackedDataset(pack)
    dataset.targets = np.arange(len(dataset))  # type: ignore[assignment]
    assert pickle.loads(pickle.dumps(dataset))[5][1] == 5


def test_targets_may_be_changed(pack):
    dataset = PackedDataset(pack)
    dataset.targets[3] = 7
    assert dataset[3][1] == 7
    assert pickle.loads(pickle.dumps(dataset))[3][1] == 7
    dataset.targets = [1] * len(dataset)
    assert [label for _, label in samples_of(dataset)] == dataset.targets
    assert PackedDataset(pack)[3][1] == 0


@pytest.mark.parametrize("index", [90, -91, 10**12])
def test_an_index_out_of_range_is_an_index_error(pack, index):
    with pytest.raises(IndexError):
        PackedDataset(pack)[index]
    with pytest.raises(IndexError):
        PackedDataset(pack).__getitems__([0, index])


@pytest.mark.parametrize("index", [1.0, "1", slice(3), None])
def test_an_index_is_a_whole_number(pack, index):
    with pytest.raises(TypeError):
        PackedDataset(pack)[index]
    with pytest.raises(TypeError):
        PackedDataset(pack).__getitems__([0, index])


def test_numpy_and_torch_numbers_are_indices(pack):
    dataset = PackedDataset(pack)
    expected = [dataset[5]]
    assert equal([dataset[np.int64(5)]], expected)
    assert equal([dataset[torch.tensor(5)]], expected)
    assert equal(dataset.__getitems__(np.array([5])), expected)


def test_bad_arguments_are_refused_by_name(pack, small_pack, tmp_path):
    with pytest.raises(SelectionError, match="dev"):
        PackedDataset(pack, "dev")
    with pytest.raises(SelectionError, match="of another"):
        PackedDataset(pack, small_pack["train"])
    with pytest.raises(FileNotFoundError, match="cinicpack pack SOURCE"):
        PackedDataset(tmp_path / "none.pack")


class Nothing:
    def __call__(self, value):
        return value

    def __repr__(self):
        return "Nothing(\n    at all\n)"


def test_repr(pack):
    assert repr(PackedDataset(pack, "train+valid", Nothing(), negate)) == (
        "Dataset PackedDataset\n"
        "    Number of datapoints: 180\n"
        f"    Root location: {pack.path}\n"
        "    Split: train+valid\n"
        "    Transform: Nothing(\n"
        "                   at all\n"
        "               )\n"
        f"    Target transform: {negate!r}"
    )
    assert "ransform" not in repr(PackedDataset(pack))


def test_a_pickle_is_small_and_opens_when_needed(pack, tmp_path):
    path = tmp_path / "moved.pack"
    copy_pack(pack.path, path)
    dataset = PackedDataset(path, transform=mean_of)
    expected = dataset[8]
    assert dataset.targets
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)
    assert again[8] == expected
    assert pickle.dumps(pickle.loads(pickled)) == pickled
    assert copy.deepcopy(dataset)[8] == expected
    assert repr(pickle.loads(pickled)) == repr(dataset)

    shutil.rmtree(path)
    assert dataset[8] == expected
    assert again[8] == expected
    later = pickle.loads(pickled)
    assert later.classes == dataset.classes
    with pytest.raises(FileNotFoundError, match=r"moved\.pack"):
        later[8]


def test_a_pickle_holds_no_data(dataset):
    fresh = pickle.loads(pickle.dumps(dataset))
    size = len(pickle.dumps(fresh))
    assert fresh.data.nbytes > 1000
    assert fresh.targets
    assert len(pickle.dumps(fresh)) == size


def test_a_selection_is_pickled_with_its_rows(pack):
    dataset = PackedDataset(pack, pack["train"].select(source="cifar10", classes="dog"))
    again = pickle.loads(pickle.dumps(dataset))
    assert equal(samples_of(again), samples_of(dataset))


def test_a_pack_that_was_replaced(tree, pack, tmp_path):
    path = tmp_path / "one.pack"
    copy_pack(pack.path, path)
    dataset = PackedDataset(path)
    expected, pickled = dataset[0], pickle.dumps(dataset)
    cinicpack.pack(tree, path, overwrite=True, progress=False)
    assert equal([dataset[0]], [expected])
    with pytest.raises(PackError, match="was replaced"):
        len(pickle.loads(pickled))


def test_data_loader_collates(pack):
    images, labels = next(iter(DataLoader(PackedDataset(pack, transform=to_array), 90)))
    assert np.array_equal(images, pack["train"].images)
    assert np.array_equal(labels, pack["train"].labels)


def test_data_loader_wraps_it(pack):
    dataset = PackedDataset(pack)
    rows = [3, 1, 80]
    expected = [dataset[row] for row in rows]
    assert equal(Subset(dataset, rows).__getitems__([0, 1, 2]), expected)
    ((image, label),) = StackDataset(dataset).__getitems__([3])[0]
    assert equal([(image, label)], expected[:1])
    sampler = RandomSampler(dataset, generator=torch.Generator().manual_seed(1))
    (batch,) = DataLoader(dataset, 90, sampler=sampler, collate_fn=identity)
    assert sorted(label for _, label in batch) == sorted(dataset.targets)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_data_loader_starts_workers_in_any_way(pack, start_method):
    context = multiprocessing.get_context(start_method)
    if start_method == "forkserver":
        context.set_forkserver_preload(["torch", "cinicpack.load.loader"])
    dataset = PackedDataset(pack, "test")
    expected = samples_of(dataset)
    loader = DataLoader(
        dataset, batch_size=40, num_workers=1, collate_fn=identity, multiprocessing_context=context
    )
    assert equal([sample for batch in loader for sample in batch], expected)
