import json
from typing import Any, cast

import numpy as np
import pytest

import cinicpack
from cinicpack.errors import ArgumentError, SelectionError


@pytest.fixture
def train(npy_pack) -> cinicpack.Split:
    return cinicpack.open_pack(npy_pack)["train"]


def read(tmp_path, text, split):
    path = tmp_path / "net_dataidx_map.txt"
    path.write_text(text)
    return [np.asarray(client.rows).tolist() for client in cinicpack.read_partition(path, split)]


@pytest.mark.parametrize(
    "text",
    [
        # As FedML reads it: lines for a client, for its rows, and for each bracket.
        "{\n0: [\n3, 1, 4\n]\n1: [\n5, 9, 2\n]\n}\n",
        "{\n1: [\n 5, 9,\n 2\n],\n0: [\n3, 1, 4\n],\n}\n",
        "{0: [3, 1, 4], 1: [5, 9, 2]}",
        '{"0": [3, 1, 4], "1": [5, 9, 2]}',
        "{'0': [3, 1, 4,], '1': [5 9 2]}",
        "0: [3,1,4]\r\n1: [5,9,2]",
        json.dumps({1: [5, 9, 2], 0: [3, 1, 4]}, indent=2),
    ],
)
def test_maps_are_read_however_they_are_laid_out(tmp_path, train, text):
    assert read(tmp_path, text, train) == [[3, 1, 4], [5, 9, 2]]


def test_rows_are_those_of_the_split_that_is_given(tmp_path, train):
    cats = train.select(classes="cat")
    (client,) = cinicpack.read_partition(_write(tmp_path, "{0: [5, 0]}"), cats)
    np.testing.assert_array_equal(client.rows, [11, 6])
    np.testing.assert_array_equal(client.names, cats.names[[5, 0]])


def test_a_partition_that_was_written_is_read(tmp_path, train):
    parts = train.partition(3, "shards", min_size=1)
    rows = [np.asarray(part.rows).tolist() for part in parts]
    assert read(tmp_path, json.dumps(dict(enumerate(rows))), train) == rows


def _write(tmp_path, text):
    path = tmp_path / "map.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ArgumentError, r"expected rows of clients, as in \{0: .* found ''"),
        ("{}", ArgumentError, r"found ''"),
        ("<html>", ArgumentError, r"found '<html>'"),
        ("{0: [1, 2], 1: [3}", ArgumentError, r"found '1: \[3' after client 0"),
        ("{0: [1, -2]}", ArgumentError, r"found '0: \[1, -2\]'"),
        ("{0: [1, 2.5]}", ArgumentError, r"found '0: \[1, 2.5\]'"),
        ("{0: [__import__('os')]}", ArgumentError, r"expected rows of clients"),
        ("{0: [1], 0: [2]}", ArgumentError, r"expected every client once, found 0 twice"),
        ("{0: [1], 1: []}", SelectionError, r"expected rows of client 1, found none"),
        ("{0: [1], 5: [3, 12]}", SelectionError, r"12 images\), found 12 of client 5: is the map"),
        ("{0: [" + "9" * 5000 + "]}", SelectionError, r"found 9{19} of client 0"),
    ],
)
def test_what_is_no_map_of_the_split_is_refused(tmp_path, train, text, error, message):
    path = _write(tmp_path, text)
    with pytest.raises(error, match=message) as raised:
        cinicpack.read_partition(path, train)
    assert str(raised.value).startswith(f"{path}: ")


def test_other_arguments_are_refused(tmp_path, train):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        cinicpack.read_partition(tmp_path / "nowhere.txt", train)
    with pytest.raises(ArgumentError, match=r"expected split to be a Split, .* found 'train'"):
        cinicpack.read_partition(_write(tmp_path, "{0: [1]}"), cast(Any, "train"))
