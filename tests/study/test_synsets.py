from pathlib import Path

import pytest

from cinicpack import cinic10
from cinicpack.errors import SourceError
from cinicpack.study.synsets import Synset, read_synsets
from tests import outside

LIST = """\
bird
----n01503061: bird
--------n01503976: dickeybird, dickey-bird
------------n01514752: a
--------n01515303: b
cat
--n02120997: feline, felid
n is also a class

----n00000001:
----n00000002: two: words
"""


def read(tmp_path: Path, text: str) -> dict[str, list[Synset]]:
    (tmp_path / "list.txt").write_text(text)
    return read_synsets(tmp_path / "list.txt")


def test_tree_follows_dashes(tmp_path):
    assert read(tmp_path, LIST) == {
        "bird": [
            Synset(1503061, "bird", (1503061,)),
            Synset(1503976, "dickeybird, dickey-bird", (1503061, 1503976)),
            Synset(1514752, "a", (1503061, 1503976, 1514752)),
            Synset(1515303, "b", (1503061, 1515303)),
        ],
        "cat": [Synset(2120997, "feline, felid", (2120997,))],
        "n is also a class": [Synset(1, "", (1,)), Synset(2, "two: words", (2,))],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("----n01503061: bird\n", r"list.txt:1: expected the name of a class"),
        ("bird\n----n0150306: bird\n", r"list.txt:2: .*'----n0150306: bird'"),
        ("bird\n--n01503061: bird\nbird\n", r"list.txt:3: expected every class once, found 'bird'"),
        ("bird\n--n01503061: bird\ncat\n", r"found none of 'cat'"),
        ("", r"found no class"),
    ],
)
def test_other_texts_are_refused(tmp_path, text, message):
    with pytest.raises(SourceError, match=message):
        read(tmp_path, text)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\x89PNG")
    with pytest.raises(SourceError, match=r"list.txt: expected a list of synsets as text"):
        read_synsets(tmp_path / "list.txt")


def test_the_authors_list():
    classes = read_synsets(outside.require(outside.SYNSETS))
    assert tuple(classes) == cinic10.CLASSES
    assert sum(map(len, classes.values())) == 1362
    # A minicab is a cab as well as a minicar.
    assert len({synset.number for listed in classes.values() for synset in listed}) == 1359
    for listed in classes.values():
        root = listed[0].path
        assert len(root) == 1
        assert all(synset.path[:1] == root for synset in listed)
    minicab = [synset.path for synset in classes["automobile"] if synset.number == 3769967]
    assert minicab == [(2958343, 2930766, 3769967), (2958343, 3770085, 3769967)]
