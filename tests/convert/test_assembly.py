import hashlib
import struct
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import cinicpack
from cinicpack import cinic10
from cinicpack.cinic10 import Origin
from cinicpack.convert import assembly
from cinicpack.convert.assembly import write_pack
from cinicpack.convert.paths import Paths
from cinicpack.convert.plan import Plan, Rows
from cinicpack.convert.results import ConvertedImages
from cinicpack.store.container import CONTAINERS, Container
from cinicpack.store.fingerprints import digest_image, image_header
from cinicpack.store.format import PROVENANCE_DTYPE
from cinicpack.store.npy import Npy
from cinicpack.store.verify import verify_pack
from cinicpack.synthetic import write_images
from tests import outside

CLASSES = ("cat", "dog", "\udcff")
HEIGHT, WIDTH = 3, 5
SHAPE = (HEIGHT, WIDTH, 3)


def name_image(random: np.random.Generator, number: int) -> str:
    """Name an image of any origin, as no other is named whose number ends with other digits."""
    origin = cinic10.Origin(int(random.integers(len(cinic10.Origin))))
    if origin is cinic10.Origin.UNKNOWN:
        return f"é{random.integers(10**9) >> random.integers(30)}-{number}"
    synset = int(random.integers(10**8)) if origin is cinic10.Origin.IMAGENET else 0
    row = int(random.integers(10**6)) * 1000 + number
    return cinic10.format_name(cinic10.Provenance(origin, synset, row))


class Scratches:
    """Images as workers leave them: planes in scratch files, and what was measured of each."""

    def __init__(self, folder: Path, count: int, seed: int, scratches: int = 2) -> None:
        random = np.random.default_rng(seed)
        self.folder = folder
        self.pixels = random.integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)
        self.labels = random.integers(0, len(CLASSES), count)
        self.names = [name_image(random, n) for n in range(count)]
        self.provenance = np.array(cinic10.parse_names(self.names), PROVENANCE_DTYPE)
        digests = [
            digest_image(
                image_header(
                    CLASSES[label].encode("utf-8", "surrogateescape"), name.encode(), SHAPE
                ),
                pixels.data,
            )
            for label, name, pixels in zip(self.labels, self.names, self.pixels, strict=True)
        ]
        self.digests = np.frombuffer(b"".join(digests), np.uint8).reshape(count, 32)
        self.scratch = random.integers(0, scratches, count)
        self.offsets = np.zeros(count, np.int64)
        self.scratches = [str(folder / f"scratch-{n}") for n in range(scratches)]
        ends = [0] * scratches
        files = [open(path, "wb") for path in self.scratches]
        for number in random.permutation(count):
            file = int(self.scratch[number])
            # What is between the images is what became of those of other sizes.
            gap = random.bytes(int(random.integers(0, 3)))
            self.offsets[number] = ends[file] + len(gap)
            ends[file] += files[file].write(gap + self.pixels[number].transpose(2, 0, 1).tobytes())
        for opened in files:
            opened.close()

    def plan(
        self,
        splits: dict[str, list[int]],
        shard_rows: int | None = None,
        classes: tuple[str, ...] = CLASSES,
    ) -> Plan:
        """Take the images with these numbers, in this order, as the rows of splits."""
        return Plan(
            source="scratches",
            paths=Paths(f"top/{name}" for name in self.names),
            classes=classes,
            splits={
                name: Rows(np.array(rows, np.int64), self.labels[rows].astype(np.uint8))
                for name, rows in splits.items()
            },
            shard_rows=shard_rows,
        )

    def images(self) -> ConvertedImages:
        flat = self.pixels.reshape(len(self.pixels), -1, 3).astype(np.int64)
        return ConvertedImages(
            scratches=self.scratches,
            scratch=self.scratch,
            offsets=self.offsets,
            shapes=np.full((len(flat), 2), (HEIGHT, WIDTH), np.int32),
            digests=self.digests,
            sums=np.concatenate([flat.sum(1), (flat**2).sum(1)], axis=1),
            provenance=self.provenance,
            bad={},
            reduced=[],
            former=np.zeros(len(flat), np.uint8),
            kinds=[""],
        )


def check(pack: cinicpack.Pack, source: Scratches, splits: dict[str, list[int]]) -> None:
    """Compare with what plain NumPy finds in the source."""
    assert list(pack.splits) == list(splits)
    fingerprints = {}
    for name, rows in splits.items():
        split, info = pack[name], pack.manifest.splits[name]
        np.testing.assert_array_equal(np.asarray(split.images), source.pixels[rows])
        assert split.labels.tolist() == source.labels[rows].tolist()
        assert split.names.tolist() == [source.names[row].encode() for row in rows]
        np.testing.assert_array_equal(split.sources, source.provenance[rows])
        joined = b"".join(sorted(source.digests[row].tobytes() for row in rows))
        fingerprints[name] = hashlib.sha256(joined).digest()
        assert split.fingerprint == fingerprints[name].hex()
        found = {(group.label, group.origin): group for group in info.groups}
        assert len(found) == len(info.groups)
        kinds = [(int(source.labels[n]), int(source.provenance["origin"][n])) for n in rows]
        assert list(found) == sorted(set(kinds))
        for kind, group in found.items():
            mine = [row for row, of in zip(rows, kinds, strict=True) if of == kind]
            values = source.pixels[mine].reshape(-1, 3).astype(int)
            assert group.rows == len(mine)
            assert group.sums == tuple(values.sum(0).tolist())
            assert group.squares == tuple((values**2).sum(0).tolist())
    whole = b"".join(
        struct.pack("<I", len(name)) + name.encode() + digest
        for name, digest in sorted(fingerprints.items())
    )
    assert pack.fingerprint == hashlib.sha256(whole).hexdigest()


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    container=st.sampled_from([*CONTAINERS.values()]),
    count=st.integers(1, 30),
    scratches=st.integers(1, 4),
    shard_rows=st.none() | st.integers(1, 12),
    num_workers=st.none() | st.integers(0, 3),
    seed=st.integers(0, 2**32),
)
def test_every_image_that_is_kept_is_in_its_place(
    data, container, count, scratches, shard_rows, num_workers, seed
):
    numbers = data.draw(st.permutations(range(count)))
    first = data.draw(st.integers(1, count))
    last = data.draw(st.integers(first, count))
    splits = {"train": numbers[:first], "test": numbers[first:last]}
    splits = {name: rows for name, rows in splits.items() if rows}
    # A little more than two images at once, so that a few are many.
    copy_bytes = 2 * 3 * HEIGHT * WIDTH + 7
    with TemporaryDirectory() as name:
        folder = Path(name)
        source = Scratches(folder, count, seed, scratches)
        plan = source.plan(splits, shard_rows)
        write_pack(
            plan, source.images(), folder / "a", container, num_workers, copy_bytes=copy_bytes
        )
        pack = cinicpack.open_pack(folder / "a")
        check(pack, source, splits)
        for split, rows in splits.items():
            shards = pack.manifest.splits[split].shards
            assert sum(shards) == len(rows)
            assert set(shards[:-1]) <= {shard_rows}
            assert 0 < shards[-1] <= (shard_rows or len(rows))
        assert verify_pack(folder / "a").problems == []


def written(
    plan: Plan, images: ConvertedImages, new: Path, num_workers: int = 1, copy_bytes: int = 1000
) -> dict[str, bytes]:
    write_pack(plan, images, new, Npy(), num_workers, copy_bytes=copy_bytes)
    files = [file for file in new.rglob("*") if file.is_file()]
    return {str(file.relative_to(new)): file.read_bytes() for file in files}


def test_threads_and_scratch_files_change_no_byte(tmp_path):
    (tmp_path / "x").mkdir()
    splits = {"train": [*range(3, 30)], "valid": [2, 0, 1]}
    one = Scratches(tmp_path, 30, seed=1, scratches=1)
    plan = one.plan(splits, 4)
    expected = written(plan, one.images(), tmp_path / "a")
    assert written(plan, one.images(), tmp_path / "b", num_workers=3) == expected
    # The last three of five are empty, or have nothing that is kept.
    planes = [pixels.transpose(2, 0, 1).tobytes() for pixels in one.pixels]
    scratch, offsets = np.arange(30) % 2, np.arange(30) // 2 * len(planes[0])
    contents = [b"".join(planes[0::2]), b"".join(planes[1::2]), b"", b"short", bytes(1000)]
    scratches = [str(tmp_path / "x" / str(n)) for n in range(5)]
    for path, content in zip(scratches, contents, strict=True):
        Path(path).write_bytes(content)
    images = replace(one.images(), scratches=scratches, scratch=scratch, offsets=offsets)
    assert written(plan, images, tmp_path / "c") == expected
    assert written(plan, images, tmp_path / "d", copy_bytes=1) == expected


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_the_manifest_says_what_was_left_out_and_skipped(tmp_path, container: Container):
    source = Scratches(tmp_path, 5, seed=2)
    skipped = (("train/cat/a.png", "cut"), ("train/\udcff/b.png", "empty"))
    bad = {1: "cut", 2: "empty"}
    plan = replace(source.plan({"train": [0, 4]}), skipped=skipped)
    write_pack(plan, replace(source.images(), bad=bad), tmp_path / "a", container, 1)
    manifest = cinicpack.open_pack(tmp_path / "a").manifest
    assert manifest.skipped == skipped
    assert manifest.classes == CLASSES
    assert manifest.image_shape == (HEIGHT, WIDTH, 3)
    assert manifest.splits["train"].name_bytes == max(len(source.names[n].encode()) for n in (0, 4))


@pytest.mark.parametrize(
    ("splits", "origin"),
    [
        ({"valid": [0, 1], "train": [2, 3, 4]}, "train"),
        ({"test": [0, 1, 2], "a": [3, 4]}, "test"),
    ],
)
def test_normalization_is_that_of_train_or_of_the_first_split(tmp_path, splits, origin):
    source = Scratches(tmp_path, 5, seed=3)
    write_pack(source.plan(splits), source.images(), tmp_path / "a", Npy(), 1)
    pack = cinicpack.open_pack(tmp_path / "a")
    values = source.pixels[splits[origin]].reshape(-1, 3) / 255
    assert pack.manifest.normalization.origin == origin
    np.testing.assert_allclose(pack.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(pack.std, values.std(0), rtol=1e-12)


@settings(max_examples=40)
@given(
    origins=st.lists(st.sampled_from(Origin), min_size=4, max_size=4),
    classes=st.sampled_from([cinic10.CLASSES, cinic10.CLASSES[::-1], CLASSES]),
)
def test_normalization_is_the_published_one_only_of_cinic10(origins, classes):
    with TemporaryDirectory() as name:
        source = Scratches(Path(name), 6, seed=4)
        # The last two are in no split, so it is not asked what they are.
        source.provenance["origin"] = [*origins, Origin.IMAGENET, Origin.UNKNOWN]
        plan = source.plan({"valid": [0, 1, 2], "test": [3]}, classes=classes)
        write_pack(plan, source.images(), Path(name, "a"), Npy(), 1)
        pack = cinicpack.open_pack(Path(name, "a"))
    normal = pack.manifest.normalization
    named = Origin.IMAGENET in origins and Origin.UNKNOWN not in origins
    assert pack.manifest.is_cinic10 == (named and classes == cinic10.CLASSES)
    if pack.manifest.is_cinic10:
        assert normal == (cinic10.MEAN, cinic10.STD, "published")
    else:
        assert normal.origin == "valid"
        values = source.pixels[:3].reshape(-1, 3) / 255
        np.testing.assert_allclose(normal.mean, values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(normal.std, values.std(0), rtol=1e-12)


@pytest.fixture(scope="module")
def some_of_cifar10() -> dict[str, NDArray[np.uint8]]:
    """Real images of CIFAR-10's training set, fifty of every class: (50, 32, 32, 3)."""
    images: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in cinic10.CLASSES}
    with tarfile.open(outside.require(outside.CIFAR10_JPEGS)) as archive:
        for member in archive:
            # train/CLASS/NNNN.jpg
            split, *place = member.name.split("/")
            if split == "train" and len(place) == 2 and int(Path(place[1]).stem) % 100 == 0:
                content = archive.extractfile(member)
                assert content is not None
                images[place[0]].append(np.asarray(Image.open(content).convert("RGB")))
    return {name: np.stack(found) for name, found in images.items()}


@pytest.mark.parametrize("name", ["{}.png", "cifar10-train-{}.png"])
def test_cifar10_is_normalized_by_its_own_statistics(some_of_cifar10, tmp_path, name):
    for number, (class_name, images) in enumerate(some_of_cifar10.items()):
        names = [name.format(100 * number + row) for row in range(len(images))]
        write_images(tmp_path / "tree" / "train" / class_name, names, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack = cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    values = np.concatenate([*some_of_cifar10.values()]).reshape(-1, 3) / 255
    assert pack.manifest.normalization.origin == "train"
    np.testing.assert_allclose(pack.mean, values.mean(0), rtol=1e-9)
    np.testing.assert_allclose(pack.std, values.std(0), rtol=1e-9)
    # Of all 50,000 images; CINIC-10's blue is 0.430.
    np.testing.assert_allclose(pack.mean, (0.491, 0.482, 0.447), atol=0.012)


def test_labels_have_two_bytes_above_256_classes(tmp_path):
    source = Scratches(tmp_path, 3, seed=5)
    rows = Rows(np.array([2, 0, 1]), np.array([0, 255, 256], np.uint16))
    classes = tuple(f"{n:03}" for n in range(257))
    plan = replace(source.plan({}, 2, classes), splits={"train": rows})
    write_pack(plan, source.images(), tmp_path / "a", Npy(), 1)
    split = cinicpack.open_pack(tmp_path / "a")["train"]
    assert split.labels.dtype == np.uint16
    assert split.labels.tolist() == [0, 255, 256]
    np.testing.assert_array_equal(np.asarray(split.images), source.pixels[[2, 0, 1]])


def test_what_cannot_be_written_is_an_error_and_no_thread_hangs(tmp_path, monkeypatch):
    source = Scratches(tmp_path, 9, seed=6)
    plan = source.plan({"train": [*range(9)]}, 2)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for what in ("write_all", "sync"):
        with monkeypatch.context() as patched:
            patched.setattr(assembly, what, fail)
            with pytest.raises(OSError, match="No space left"):
                write_pack(plan, source.images(), tmp_path / what, Npy(), 3)
        # Without a manifest it is no pack, whatever is in it.
        assert not (tmp_path / what / "pack.json").exists()
