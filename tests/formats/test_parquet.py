import base64
import os
import pickle
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cinicpack.errors import SourceError
from cinicpack.formats.parquet import find_columns, read_rows
from tests.parquet_files import CLASSES, IMAGE, describe, write

ROWS = [{"bytes": b"one", "path": "a.png"}, {"bytes": b"two", "path": None}, None]


def read(path, columns=None):
    return [row for rows in read_rows(find_columns(path, columns)) for row in rows]


def test_rows_come_in_their_order(tmp_path):
    path = write(tmp_path / "x", {"image": ROWS, "label": [1, 0, 1]})
    table = find_columns(path)
    assert table == (path, "image", "label", CLASSES, 3)
    assert read(path) == [(1, "a.png", b"one"), (0, None, b"two"), (1, None, None)]


@pytest.mark.parametrize(
    "kind",
    [
        pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary())]),
        pa.struct([("bytes", pa.binary())]),
        pa.struct([("bytes", pa.binary()), ("path", pa.null()), ("more", pa.int8())]),
    ],
)
@pytest.mark.parametrize("label", [pa.int8(), pa.uint16(), pa.int32()])
def test_other_types_of_the_same_are_read(tmp_path, kind, label):
    image = {"bytes": b"one"} | ({"path": "a"} if kind[0].name == "path" else {})
    path = write(tmp_path / "x", {"image": [image], "label": [1]}, {"image": kind, "label": label})
    assert read(path) == [(1, image.get("path"), b"one")]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["image", "label"], ("image", "label")),
        (["img", "coarse_label", "fine_label"], ("img", "fine_label")),
        (["mask", "image", "other_label", "label"], ("image", "label")),
        (["picture", "kind_label"], ("picture", "kind_label")),
    ],
)
def test_columns_are_found_by_kind_and_name(tmp_path, names, found):
    images = [name for name in names if "label" not in name]
    columns = {name: ROWS if name in images else [0, 1, 0] for name in names}
    path = write(tmp_path / "x", {**columns, "note": ["a", "b", "c"]})
    assert find_columns(path)[1:3] == found
    for image in images:
        for label in set(names) - set(images):
            assert find_columns(path, [image, label])[1:3] == (image, label)


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (["label"], None, r"expected a column of images.*found label \(int64\); name the two"),
        (["a", "b", "label"], None, "expected a column of images"),
        (["image", "label"], ["img", "label"], "expected a column of images"),
        (["image", "label"], ["label", "image"], "expected a column of images"),
        (["image"], None, "expected a column of labels.*found names for none of image"),
        (["image", "a_label", "b_label"], None, "found names for a_label, b_label of image"),
        (["image", "label"], ["image", "fine"], "expected a column of labels.*name the two"),
    ],
)
def test_columns_that_are_not_there_are_told(tmp_path, names, columns, message):
    columns_of = {name: [0, 1, 0] if "label" in name else ROWS for name in names}
    path = write(tmp_path / "x", columns_of)
    with pytest.raises(SourceError, match=rf"^{path}: .*{message}"):
        find_columns(path, columns)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "found names for none"),
        (b"{}", "found names for none"),
        (b"[1, 2]", "found names for none"),
        (b'{"info": 3}', "found names for none"),
        (b'{"info": {"features": {"label": "ClassLabel"}}}', "found names for none"),
        (b'{"info": {"features": {"label": {"_type": "Value"}}}}', "found names for none"),
        (describe({"label": None}), "expected a list of names for column 'label', found None"),
        (describe({"label": ["a", 3]}), "expected a list of names"),
        (b"{", "expected a whole parquet file, found it damaged"),
        (b"\xff", "expected a whole parquet file, found it damaged"),
        (b"[" * 100_000, "expected a whole parquet file, found it damaged"),
    ],
)
def test_metadata_are_not_trusted(tmp_path, metadata, message):
    path = write(tmp_path / "x", {"image": ROWS, "label": [0, 0, 0]}, metadata=metadata)
    with pytest.raises(SourceError, match=rf"^{path}: .*{message}"):
        find_columns(path)


@pytest.mark.parametrize("label", [-1, 2, None])
def test_a_label_of_no_class_is_told_with_its_row(tmp_path, label):
    labels = [0] * 300 + [label]
    path = write(tmp_path / "x", {"image": ROWS[:1] * 301, "label": labels})
    with pytest.raises(SourceError, match=rf"labels from 0 to 1.*found {label} in row 300;"):
        read(path)


def test_labels_that_are_no_integers_are_no_labels(tmp_path):
    path = write(tmp_path / "x", {"image": ROWS[:1], "label": [0.5]})
    with pytest.raises(SourceError, match=r"found names for label of .*label \(double\)"):
        find_columns(path)


def test_memory_does_not_grow_with_a_row_group(tmp_path):
    pool = pa.default_memory_pool()
    most = []
    for count in (4_000, 16_000):
        images = [{"bytes": os.urandom(1_000), "path": "a.png"} for _ in range(count)]
        path = write(tmp_path / "x", {"image": images, "label": [0] * count})
        assert pq.ParquetFile(path).metadata.num_row_groups == 1
        before = pool.bytes_allocated()
        del images
        peaks = [pool.bytes_allocated() - before for _ in read_rows(find_columns(path))]
        assert len(peaks) >= count / 256
        most.append(max(peaks))
    assert most[1] < 1.1 * most[0]


def test_damage_is_an_error_or_changes_nothing_but_the_rows(tmp_path):
    path = write(tmp_path / "x", {"image": ROWS * 20, "label": [0, 1, 0] * 20})
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(SourceError, match=rf"^{path}: expected a whole parquet file, found"):
            read(path)
    said = []
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read(path)
        except (SourceError, MemoryError) as error:
            said.append(str(error))
    assert len(said) > len(whole) // 20
    # A message of pyarrow's may have several lines.
    assert not any("\n" in text for text in said)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    path = write(tmp_path / "x", {"image": ROWS, "label": [0, 0, 0]})
    table = find_columns(path)
    path.unlink()
    for use in (find_columns, lambda _: list(read_rows(table))):
        with pytest.raises(FileNotFoundError):
            use(path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.filterwarnings("ignore")
def test_nothing_that_is_read_is_executed(tmp_path, monkeypatch):
    # pyarrow before 14.0.1 loads the pickle of such a type when it opens a file.
    monkeypatch.chdir(tmp_path)
    named = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Evil()),
    }
    note = pa.field("note", pa.int64(), metadata=named)
    fields = [pa.field("image", IMAGE), pa.field("label", pa.int64()), note]
    schema = pa.schema(fields, metadata={"huggingface": describe({"label": [*CLASSES]})})
    columns = {"image": ROWS, "label": [0, 1, 0], "note": [1, 2, 3]}
    pq.write_table(pa.table(columns, schema=schema), "x")
    kept = pq.ParquetFile("x").metadata.metadata[b"ARROW:schema"]
    assert b"executed" in base64.b64decode(kept)
    assert [label for label, _, _ in read(tmp_path / "x")] == [0, 1, 0]
    assert not (tmp_path / "executed").exists()


def test_without_pyarrow_the_error_says_what_to_install(tmp_path):
    path = write(tmp_path / "train.parquet", {"image": ROWS, "label": [0, 0, 0]})
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from cinicpack.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "pack", str(path), str(tmp_path / "new.pack")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{path}: expected pyarrow, which reads parquet" in done.stderr
    assert done.stderr.endswith("pip install 'cinicpack[parquet]'\n")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train.parquet"]
