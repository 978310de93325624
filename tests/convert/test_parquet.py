import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pyarrow.parquet import ParquetFile, write_table

from cinicpack.cli import main
from cinicpack.convert.files import Content
from cinicpack.convert.packer import Pace
from cinicpack.convert.parquet import Parquet
from cinicpack.convert.source import open_source
from cinicpack.errors import ArgumentError, BadImagesError, SourceError
from cinicpack.store.verify import verify_pack
from tests.convert.parquet.make import HERE, list_images, write_hub
from tests.convert.sources_here import NotingWorkers, bytes_of, pack, pack_slowly, put, tiny
from tests.parquet_files import CLASSES, write

HUBS = sorted(path for path in HERE.iterdir() if (path / "data").is_dir())
HUB_IDS = [path.name for path in HUBS]
SHARDS = ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"]


def image(name: str | None, seed: int = 0) -> dict[str, bytes | str | None]:
    return {"bytes": tiny(seed), "path": name}


def write_split(path: Path, labels: Sequence[int | None], **options) -> Path:
    # Names differ between shards.
    images = [image(f"{path.stem[5:11]}{row}.png", row) for row in range(len(labels))]
    return write(path, {"image": images, "label": labels}, **options)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """What the files of `datasets` were made of."""
    return put(
        tmp_path_factory.mktemp("parquet") / "tree",
        {
            f"{'valid' if split == 'validation' else split}/{path}": content
            for split, path, content in list_images()
        },
    )


def test_two_versions_of_datasets_are_here():
    assert HUB_IDS == ["2.14.7", "5.2.0"]


# Packs of what datasets wrote


@pytest.mark.parametrize("hub", HUBS, ids=HUB_IDS)
@pytest.mark.parametrize("options", [{}, {"num_workers": 2, "format": "hdf5"}])
def test_the_bytes_are_those_of_the_tree(hub, tree, tmp_path, options):
    one = pack(tree, tmp_path / "tree", **options)
    other = pack(hub / "data", tmp_path / "hub", **options)
    assert bytes_of(one.path) == bytes_of(other.path)
    assert other.splits == ("train", "valid", "test")
    assert other.fingerprint == one.fingerprint


def write_rows(folder: Path, order: Sequence[int]) -> Path:
    """Write images of two classes, whose row i is image i of a tree if the order is that."""
    images = [image(f"{row:03}.png", row) for row in order]
    labels = [row // 20 for row in order]
    write(folder / "train.parquet", {"image": images, "label": labels}, row_group_size=7)
    return folder


def test_sorted_rows_are_written_to_their_places_and_others_copied(tmp_path):
    packs, targets = [], []
    # Of large images a task comes in parts, which are copied.
    cases = [(range(40), Pace(5)), (range(39, -1, -1), Pace(5)), (range(40), Pace(5, 20))]
    for number, (order, pace) in enumerate(cases):
        workers = NotingWorkers()
        source = write_rows(tmp_path / str(number), [*order])
        packs.append(pack_slowly(source, tmp_path / f"{number}.pack", pace, workers.start))
        assert [len(task.contents or ()) for task in workers.tasks] == [
            len(task.paths) for task in workers.tasks
        ]
        targets.append({task.target is not None for task in workers.tasks})
    assert targets == [{True}, {False}, {False}]
    assert len({tuple(bytes_of(one.path).items()) for one in packs}) == 1


def test_rows_that_change_between_listing_and_reading_are_an_error(tmp_path):
    class Changing(Parquet):
        def list_paths(self) -> Iterator[str]:
            yield from super().list_paths()
            write_rows(tmp_path, range(1, 40))

    write_rows(tmp_path, range(40))
    source = Changing(tmp_path, [tmp_path / "train.parquet"])
    with pytest.raises(SourceError, match=r"expected the images that it listed, found others"):
        pack_slowly(source, tmp_path / "a.pack")


def test_a_split_without_rows_is_refused_or_accepted(tmp_path):
    write_split(tmp_path / "train.parquet", [0, 1])
    schema = ParquetFile(tmp_path / "train.parquet").schema_arrow
    write_table(schema.empty_table(), tmp_path / "test.parquet")
    with pytest.raises(SourceError, match="found no images in the splits 'test'"):
        pack(tmp_path, tmp_path / "a")
    assert pack(tmp_path, tmp_path / "b", allow_missing=True).splits == ("train",)


@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupt_at_the_end_of_a_stream_is_not_lost(tmp_path, number):
    class Interrupted(Parquet):
        streams = 0

        def stream(self) -> Iterator[tuple[str, Content]]:
            self.streams += 1
            try:
                yield from super().stream()
            finally:
                if self.streams == number:
                    raise KeyboardInterrupt

    write_rows(tmp_path, range(40))
    source = Interrupted(tmp_path, [tmp_path / "train.parquet"])
    with pytest.raises(KeyboardInterrupt):
        pack_slowly(source, tmp_path / "a.pack")
    assert source.streams == number


@pytest.mark.parametrize("hub", HUBS, ids=HUB_IDS)
def test_images_without_a_path_are_numbered(hub, tmp_path):
    one = pack(hub / "numbered", tmp_path / "pack")
    assert one.classes == CLASSES
    # Their labels are 1, 0, 1, 0, 1, 0.
    assert one["test"].names.tolist() == [b"0000000%d.png" % row for row in (1, 3, 5, 0, 2, 4)]
    assert one["test"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert not verify_pack(one.path).problems


@pytest.mark.filterwarnings("ignore")
def test_what_datasets_writes_here_is_packed(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("datasets")
    write_hub(tmp_path / "hub")
    one, other = pack(tree, tmp_path / "a"), pack(tmp_path / "hub" / "data", tmp_path / "b")
    assert one.fingerprint == other.fingerprint


# Which files, and of which splits


@pytest.mark.parametrize(
    "names",
    [
        ["train.parquet", "valid.parquet", "test.parquet"],
        [f"data/{name}-00000-of-00001.parquet" for name in ("train", "validation", "test")],
        [f"plain_text/{name}-00000-of-00001.parquet" for name in ("train", "validation", "test")],
        [f"default/{name}/0000.parquet" for name in ("train", "validation", "test")],
    ],
)
def test_repositories_as_hubs_have_them(tmp_path, names):
    put(tmp_path, {"README.md": b"", ".cache/train.parquet": b"", "data/notes.txt": b""})
    for name in names:
        write_split(tmp_path / name, [0, 1])
    source = open_source(tmp_path)
    found = [path.split("/")[0] for path in source.paths()]
    assert sorted(found) == ["test", "test", "train", "train", "valid", "valid"]


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    write_split(tmp_path / "test.parquet", [0, 1])
    os.mkfifo(tmp_path / "train.parquet")
    with pytest.raises(SourceError, match=r"train\.parquet: expected a parquet file, found a fold"):
        pack(tmp_path, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_one_file_and_several(tmp_path):
    files = [write_split(tmp_path / f"{name}.parquet", [1, 0]) for name in SHARDS]
    alone = pack(files[2], tmp_path / "alone")
    assert (alone.splits, len(alone["valid"])) == (("valid",), 2)
    assert pack([files[2]], tmp_path / "listed").fingerprint == alone.fingerprint
    assert main(["pack", *map(str, files[:0:-1]), str(files[0]), str(tmp_path / "all")]) == 0
    assert bytes_of(tmp_path / "all") == bytes_of(pack(tmp_path, tmp_path / "b").path)


def test_shards_are_counted_through(tmp_path):
    for number in range(2):
        images = [image(None, 2 * number + row) for row in range(2)]
        path = tmp_path / f"train-0000{number}-of-00002.parquet"
        write(path, {"image": images, "label": [1, 0]})
    source = open_source(tmp_path)
    assert [*source.paths()] == [
        f"train/{name}/0000000{row}.png" for row, name in enumerate(["bee", "ant"] * 2)
    ]


@pytest.mark.parametrize(
    "names",
    [
        SHARDS[1:2],
        [*SHARDS[:1], "train-00001-of-00003"],
        ["train", "train-00000-of-00001"],
        ["a/train", "b/train"],
        ["valid", "validation"],
        ["train/0000", "train/0002"],
    ],
)
def test_shards_that_do_not_belong_together_are_refused(tmp_path, names):
    for name in names:
        write_split(tmp_path / "source" / f"{name}.parquet", [0, 1])
    expected = r"expected one file of split '(train|valid)', or all of its shards, found .*parquet"
    with pytest.raises(SourceError, match=expected):
        pack(tmp_path / "source", tmp_path / "pack")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_tree_with_parquet_in_it_stays_a_tree(tmp_path):
    put(tmp_path, {"train/ant/a.png": tiny(0)})
    write_split(tmp_path / "metadata.parquet", [0])
    write_split(tmp_path / "train" / "metadata.parquet", [0])
    assert [*open_source(tmp_path).paths()] == ["train/ant/a.png"]


def test_several_sources_of_other_kinds_are_refused(tmp_path, tree):
    file = write_split(tmp_path / "train.parquet", [0, 1])
    for sources in ([], [file, tree], [tree, tree]):
        with pytest.raises(SourceError, match="expected one source, or several parquet files"):
            pack(sources, tmp_path / "pack")


# Columns, classes and labels


def test_columns_can_be_given(tmp_path):
    columns = {"image": [image("a"), image("b")], "picture": [image("c"), image("d")]}
    path = write(tmp_path / "train.parquet", {**columns, "label": [0, 1], "a_label": [1, 0]})
    one = pack(path, tmp_path / "one")
    assert one["train"].names.tolist() == [b"a", b"b"]
    assert main(["pack", str(path), str(tmp_path / "b"), "--columns", "picture,a_label"]) == 0
    other = pack(path, tmp_path / "other", columns=("picture", "a_label"))
    assert other["train"].names.tolist() == [b"d", b"c"]
    assert bytes_of(tmp_path / "b") == bytes_of(other.path)


def test_columns_are_for_parquet_and_are_two(tmp_path, tree):
    with pytest.raises(ArgumentError, match=f"^{tree}: expected no columns, since only parquet"):
        pack(tree, tmp_path / "pack", columns=("a", "b"))
    path = write_split(tmp_path / "train.parquet", [0, 1])
    for columns in ("image", ["image"], ["a", "b", "c"]):
        with pytest.raises(ArgumentError, match="expected two columns, of images and of labels"):
            pack(path, tmp_path / "pack", columns=columns)
    with pytest.raises(SourceError, match=r"of image \(struct.*with --columns IMAGE,LABEL"):
        pack(path, tmp_path / "pack", columns=("image", "no"))
    assert not (tmp_path / "pack").exists()


def test_classes_keep_their_order_and_rows_are_sorted_by_class_and_name(tmp_path):
    classes = ["wasp", "ant", "none", "ant lion"]
    names, labels = ["b", "c", "a", "a", "0"], [1, 0, 3, 0, 1]
    images = [image(name, 1) for name in names]
    write(tmp_path / "train.parquet", {"image": images, "label": labels}, classes=classes)
    write(tmp_path / "test.parquet", {"image": [image("z")], "label": [3]}, classes=classes)
    one = pack(tmp_path, tmp_path / "pack")
    assert one.classes == tuple(classes)
    assert one["train"].labels.tolist() == [0, 0, 1, 1, 3]
    assert one["train"].names.tolist() == [b"a", b"c", b"0", b"b", b"a"]
    assert one["test"].labels.tolist() == [3]
    assert not verify_pack(one.path).problems


@pytest.mark.parametrize("label", [-1, 2, None])
def test_a_label_of_no_class_is_refused(tmp_path, label):
    path = write_split(tmp_path / "train.parquet", [0, 1, label])
    with pytest.raises(SourceError, match=f"^{path}: expected labels from 0 to 1.*in row 2"):
        pack(path, tmp_path / "pack", skip_bad=True)
    assert [file.name for file in tmp_path.iterdir()] == ["train.parquet"]


@pytest.mark.parametrize("classes", [["a", "a"], ["a", "b/c"], ["a", ""], ["a", "x" * 256]])
def test_classes_that_no_folder_can_be_are_refused(tmp_path, classes):
    path = write_split(tmp_path / "train.parquet", [0, 1], classes=classes)
    with pytest.raises(SourceError, match=f"^{path}: expected a name for every class"):
        pack(path, tmp_path / "pack")


def test_files_with_other_classes_are_refused(tmp_path):
    write_split(tmp_path / "train.parquet", [0, 1])
    path = write_split(tmp_path / "valid.parquet", [0, 1], classes=["ant", "wasp"])
    with pytest.raises(SourceError, match=f"^{path}: expected the classes of .*found ant, wasp"):
        pack(tmp_path, tmp_path / "pack")


# Names, and images that are not there


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b/n01440764_7.png", b"n01440764_7.png"),
        ("photo.jpg", b"photo.jpg"),
        ("no suffix", b"no suffix"),
        ("é.png", "é.png".encode()),
        ("folder/", b"00000000.png"),
        ("", b"00000000.png"),
        (None, b"00000000.png"),
    ],
)
def test_names_are_the_last_part_of_the_path(tmp_path, path, name):
    file = write(tmp_path / "train.parquet", {"image": [image(path)], "label": [1]})
    one = pack(file, tmp_path / "pack")
    assert one["train"].names.tolist() == [name]
    assert one["train"].sources["number"].tolist() == [7 if b"n0144" in name else 0]


@pytest.mark.parametrize("path", ["a/..", ".", "a\0b.png", "x" * 256])
def test_names_that_no_file_can_have_are_refused(tmp_path, path):
    images = [image("a"), image(path)]
    file = write(tmp_path / "train.parquet", {"image": images, "label": [0, 1]})
    with pytest.raises(SourceError, match=r"expected a path that ends in the name .* in row 1;"):
        pack(file, tmp_path / "pack")


def test_the_same_name_twice_is_refused(tmp_path):
    images = [image("a/b.png"), image("c/b.png", 1)]
    file = write(tmp_path / "train.parquet", {"image": images, "label": [1, 1]})
    with pytest.raises(SourceError, match=r"every path once, found more of 'train/bee/b\.png'"):
        pack(file, tmp_path / "pack")


def test_images_without_bytes_are_bad_images(tmp_path):
    images = [image("a"), None, {"bytes": None, "path": "/x/c"}, {"bytes": b"", "path": "d"}]
    path = write(tmp_path / "train.parquet", {"image": [*images, image("e")], "label": [0] * 5})
    with pytest.raises(BadImagesError, match="3 of 5 images cannot be packed") as raised:
        pack(path, tmp_path / "pack")
    where = "in row {} of train.parquet, found"
    bad = [
        ("train/ant/00000001.png", f"expected bytes {where.format(1)} none"),
        (
            "train/ant/c",
            f"expected bytes {where.format(2)} only the path '/x/c'; embed the images",
        ),
        ("train/ant/d", "truncated: it ends at byte 0, before its IEND chunk"),
    ]
    assert raised.value.images == bad
    assert not (tmp_path / "pack").exists()
    with pytest.warns(UserWarning, match="3 images that cannot be packed are left out"):
        one = pack(path, tmp_path / "pack", skip_bad=True)
    assert one["train"].names.tolist() == [b"a", b"e"]
    assert [*one.manifest.skipped] == bad


def test_a_damaged_file_is_told_and_nothing_is_published(tmp_path):
    write_split(tmp_path / "source" / "train.parquet", [0, 1] * 50)
    path = write_split(tmp_path / "source" / "valid.parquet", [0, 1] * 50)
    whole = path.read_bytes()
    for content in (b"", b"version https://git-lfs.github.com/spec/v1", whole[:-9]):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=f"^{path}: expected a whole parquet file, found it"):
            pack(tmp_path / "source", tmp_path / "pack")
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


def test_a_file_that_goes_is_not_called_damaged(tmp_path):
    path = write_split(tmp_path / "train.parquet", [0, 1])
    source = open_source(path)
    path.unlink()
    with pytest.raises(SourceError, match=f"^{path}: could not be read .*, so nothing is packed"):
        list(source.paths())


def test_many_rows_go_through_workers_and_the_fraction_grows(tmp_path):
    labels = np.arange(600) % 2
    write_split(tmp_path / "train.parquet", labels.tolist(), row_group_size=100)
    source = open_source(tmp_path)
    fractions = [source.fraction, *(source.fraction for _ in source.stream())]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert [source.is_small(1, nbytes) for nbytes in (1, 1 << 20)] == [False, True]
    one = pack_slowly(source, tmp_path / "a", num_workers=2)
    assert bytes_of(one.path) == bytes_of(pack(tmp_path, tmp_path / "b").path)
    names = [[f"{row}.png".encode() for row in range(label, 600, 2)] for label in (0, 1)]
    assert one["train"].names.tolist() == [*sorted(names[0]), *sorted(names[1])]
