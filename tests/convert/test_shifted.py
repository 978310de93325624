import tarfile

import numpy as np
import pytest

from cinicpack.cinic10 import CLASSES
from cinicpack.convert.source import open_source
from cinicpack.convert.tree import Tree
from cinicpack.errors import SourceError
from cinicpack.store.verify import verify_pack
from tests.cifar_files import draw, write_cifar10_1, write_cifar10_c
from tests.convert.sources_here import pack

VERSIONS = {"v4": draw(21, 4), "v6": draw(20, 6)}
LABELS = draw(15, 0)
CORRUPTIONS = {
    name: LABELS._replace(images=draw(15, seed).images)
    for seed, name in enumerate(["gaussian_noise", "fog", "jpeg_compression"])
}


def check(one, expected, start):
    assert {*one.splits} == {*expected}
    assert one.classes == CLASSES
    for split, drawn in expected.items():
        assert one[split].labels.tolist() == drawn.labels.tolist()
        np.testing.assert_array_equal(np.asarray(one[split].images), drawn.images)
        names = [f"{start}-{split}-{row}.png".encode() for row in range(len(drawn.labels))]
        assert one[split].names.tolist() == names
        assert not one[split].sources["origin"].any()
    assert not verify_pack(one.path).problems


def test_the_versions_of_cifar10_1_are_splits(tmp_path):
    folder = write_cifar10_1(tmp_path / "datasets", VERSIONS)
    (folder / "cifar10.1_v4_ti_indices.json").write_text("[]")
    check(pack(folder, tmp_path / "a"), VERSIONS, "cifar10.1")
    check(pack(folder, tmp_path / "b", splits="v6"), {"v6": VERSIONS["v6"]}, "cifar10.1")
    alone = pack(folder / "cifar10.1_v4_data.npy", tmp_path / "c")
    check(alone, {"v4": VERSIONS["v4"]}, "cifar10.1")


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz"])
def test_the_corruptions_of_cifar10_c_are_splits(tmp_path, kind):
    source = write_cifar10_c(tmp_path / "CIFAR-10-C", CORRUPTIONS)
    if kind != "folder":
        source = tmp_path / "CIFAR-10-C.tar"
        with tarfile.open(source, "w:gz" if kind == "tar.gz" else "w") as archive:
            archive.add(tmp_path / "CIFAR-10-C", "CIFAR-10-C")
    check(pack(source, tmp_path / "a"), CORRUPTIONS, "cifar10-c")


def test_one_corruption(tmp_path):
    folder = write_cifar10_c(tmp_path / "CIFAR-10-C", CORRUPTIONS)
    check(pack(folder / "fog.npy", tmp_path / "a"), {"fog": CORRUPTIONS["fog"]}, "cifar10-c")


def test_a_tree_with_arrays_beside_its_splits_is_a_tree(tmp_path):
    folder = write_cifar10_c(tmp_path / "CIFAR-10-C", CORRUPTIONS)
    (folder / "train").mkdir()
    assert isinstance(open_source(folder), Tree)


def test_what_is_wrong_is_named(tmp_path):
    folder = write_cifar10_c(tmp_path / "c", CORRUPTIONS)

    def refused(name, content, message):
        good = (folder / name).read_bytes()
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            np.save(folder / name, content)
        with pytest.raises(SourceError, match=rf"c: fog.npy: .*{message}"):
            pack(folder, tmp_path / "a")
        (folder / name).write_bytes(good)

    refused("labels.npy", LABELS.labels[1:], "found 14 labels and 15 images")
    refused("labels.npy", LABELS.labels + 1, "expected labels from 0 to 9, found 10 in row")
    refused("labels.npy", np.array([print] * 15), "its labels: expected an npy file of numbers")
    refused("labels.npy", b"", "its labels: expected an npy file")
    refused(
        "fog.npy", CORRUPTIONS["fog"].images[..., 0], r"expected images of uint8.*\(15, 32, 32\)"
    )
    refused("fog.npy", (folder / "fog.npy").read_bytes()[:-1], "expected 46,208 bytes .*46,207")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    (folder / "labels.npy").unlink()
    with pytest.raises(SourceError, match=r"expected .*but labels.npy is missing"):
        pack(folder / "fog.npy", tmp_path / "a")
