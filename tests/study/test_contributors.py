import csv

import numpy as np
import pytest

import cinicpack
from cinicpack import Pack, cinic10
from cinicpack.cinic10 import Origin
from cinicpack.cli import main
from cinicpack.errors import SourceError
from cinicpack.study.contributors import (
    SynsetCount,
    count_synsets,
    format_contributors,
    format_counts,
    format_unlisted,
    read_contributors,
)
from cinicpack.study.synsets import Synset
from cinicpack.synthetic import write_images

# A cab is a car as well as a taxi here; a bus is listed under trucks only.
SYNSETS = {
    "automobile": [
        Synset(11, "car, auto", (11,)),
        Synset(12, 'taxi "yellow"', (11, 12)),
        Synset(13, "cab, hack", (11, 13)),
        Synset(13, "cab, hack", (11, 12, 13)),
    ],
    "truck": [Synset(21, "truck", (21,)), Synset(22, "bus", (21, 22))],
}

TREE = {
    ("train", "automobile"): ["n00000011_7.png", "n00000022_5.png", "cifar10-train-3.png"],
    ("train", "truck"): ["n00000099_8.png", "other.png"],
    ("test", "automobile"): ["n00000013_123456789.png", "n00000013_2.png"],
    ("test", "truck"): ["cifar10-test-4.png"],
}


def make_pack(folder, tree) -> Pack:
    for (split, name), files in tree.items():
        write_images(
            folder / "tree" / split / name, files, np.zeros((len(files), 2, 2, 3), np.uint8)
        )
    return cinicpack.pack(folder / "tree", folder / "a.pack", progress=False)


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Pack:
    return make_pack(tmp_path_factory.mktemp("contributors"), TREE)


def test_list_is_like_the_authors(pack):
    assert format_contributors(pack) == (
        "synset, image_num, cinic_set, class\n"
        "n00000011, 7, train, automobile\n"
        "n00000022, 5, train, automobile\n"
        "n00000099, 8, train, truck\n"
        "n00000013, 123456789, test, automobile\n"
        "n00000013, 2, test, automobile\n"
    )


def test_list_with_synsets_tells_words_and_place(pack):
    cab = '"cab, hack", "car > cab | car > taxi ""yellow"" > cab"'
    assert format_contributors(pack, SYNSETS) == (
        "synset, image_num, cinic_set, class, words, place\n"
        'n00000011, 7, train, automobile, "car, auto", car\n'
        "n00000022, 5, train, automobile, , \n"
        "n00000099, 8, train, truck, , \n"
        f"n00000013, 123456789, test, automobile, {cab}\n"
        f"n00000013, 2, test, automobile, {cab}\n"
    )


def test_list_holds_every_imagenet_image_once(any_pack):
    pack = cinicpack.open_pack(any_pack)
    rows = list(csv.reader(format_contributors(pack).splitlines(), skipinitialspace=True))
    assert rows[0] == ["synset", "image_num", "cinic_set", "class"]
    expected = [
        [name[:9], name[10:-4], split, pack.classes[label]]
        for split in pack.splits
        for label, name in zip(
            pack[split].labels, pack[split].names.astype(str).tolist(), strict=True
        )
        if cinic10.parse_name(name).origin is Origin.IMAGENET
    ]
    assert rows[1:] == expected


def test_names_with_commas_are_quoted(tmp_path):
    pack = make_pack(tmp_path, {("a, b", 'c"d'): ["n00000001_2.png"]})
    text = format_contributors(pack, {})
    rows = list(csv.reader(text.splitlines(), skipinitialspace=True))
    assert rows[1] == ["n00000001", "2", "a, b", 'c"d', "", ""]


def test_counts_are_per_class_and_synset(pack):
    counts = count_synsets(pack, SYNSETS)
    place = 'car > cab | car > taxi "yellow" > cab'
    assert counts == [
        SynsetCount(13, "automobile", {"train": 0, "test": 2}, ("automobile",), "cab, hack", place),
        SynsetCount(11, "automobile", {"train": 1, "test": 0}, ("automobile",), "car, auto", "car"),
        SynsetCount(22, "automobile", {"train": 1, "test": 0}, ("truck",), "", ""),
        SynsetCount(99, "truck", {"train": 1, "test": 0}, (), "", ""),
    ]
    assert format_counts(counts).splitlines()[:3] == [
        "synset, class, train, test, words, place",
        'n00000013, automobile, 0, 2, "cab, hack", "car > cab | car > taxi ""yellow"" > cab"',
        'n00000011, automobile, 1, 0, "car, auto", car',
    ]
    assert [count[:3] for count in count_synsets(pack)] == [count[:3] for count in counts]


def test_contributors_that_are_not_listed_under_their_class_are_reported(pack):
    assert format_unlisted(count_synsets(pack, SYNSETS)) == (
        "2 images have a synset that is not listed under their class\n"
        "  1 of n00000022 in automobile: listed under truck\n"
        "  1 of n00000099 in truck: not listed"
    )


def test_pack_without_imagenet_has_no_contributors(tmp_path, capsys):
    pack = make_pack(tmp_path, {("train", "cat"): ["cifar10-train-3.png", "other.png"]})
    assert format_contributors(pack) == "synset, image_num, cinic_set, class\n"
    assert count_synsets(pack) == []
    assert format_counts([]) == "synset, class, words, place\n"
    file = tmp_path / "a.csv"
    assert main(["contributors", str(pack.path), "-o", str(file)]) == 1
    assert capsys.readouterr().err == (
        f"cinicpack: error: {pack.path}: expected images of ImageNet, which their file names tell, "
        "found none\n"
    )
    assert not file.exists()


@pytest.mark.parametrize("synsets", [None, SYNSETS])
def test_a_list_is_read_again(pack, tmp_path, synsets):
    file = tmp_path / "c.csv"
    file.write_text(format_contributors(pack, synsets).replace("test,", "valid,"))
    assert read_contributors(file) == {
        ("train", "automobile"): [(11, 7), (22, 5)],
        ("train", "truck"): [(99, 8)],
        ("valid", "automobile"): [(13, 123456789), (13, 2)],
    }


def test_columns_are_known_by_their_names(tmp_path):
    (tmp_path / "c.csv").write_text(
        "class,by,cinic_set,image_num,synset\n\ncat,me,test,2,n00000001"
    )
    assert read_contributors(tmp_path / "c.csv") == {("test", "cat"): [(1, 2)]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected the columns synset, image_num, cinic_set, class, found $"),
        ("synset,image_num,class", r"found synset, image_num, class"),
        ("synset, image_num, cinic_set, class", r"found no line"),
        ("class,cinic_set,image_num,synset\ncat,train,x,n1", r"c.csv:2: .* found 'cat, train, x,"),
        ("synset,image_num,cinic_set,class\nn1,1,dev,cat", r"c.csv:2: "),
        ("synset,image_num,cinic_set,class\nn1,1,train,lion", r"c.csv:2: "),
        ("synset,image_num,cinic_set,class\nn1,1,train", r"c.csv:2: "),
        (
            "synset,image_num,cinic_set,class\nn1,1,train," + "c" * 200_000,
            r"c.csv:2: .* a CSV file",
        ),
        ("synset,image_num,cinic_set,class" + "\nn1,1,train,cat" * 2, r"c.csv:3: .* once, found"),
    ],
)
def test_other_lists_are_refused(tmp_path, text, message):
    (tmp_path / "c.csv").write_bytes(text.encode())
    with pytest.raises(SourceError, match=message):
        read_contributors(tmp_path / "c.csv")


def test_command_prints_or_writes_the_list(pack, tmp_path, capsys):
    path, file, synsets = str(pack.path), tmp_path / "a.csv", tmp_path / "synsets.txt"
    synsets.write_text("automobile\n--n00000011: car, auto\ntruck\n--n00000022: bus\n")
    listed = {
        "automobile": [Synset(11, "car, auto", (11,))],
        "truck": [Synset(22, "bus", (22,))],
    }
    assert main(["contributors", path]) == 0
    out, err = capsys.readouterr()
    assert out == format_contributors(pack)
    assert err == "5 contributors\n"

    assert main(["contributors", path, "-o", str(file), "--synsets", str(synsets)]) == 0
    assert file.read_text() == format_contributors(pack, listed)
    unlisted = format_unlisted(count_synsets(pack, listed))
    assert capsys.readouterr().out == f"{file}: 5 contributors; {unlisted}\n"

    assert main(["contributors", path, "--counts", "--synsets", str(synsets)]) == 0
    assert capsys.readouterr().out == format_counts(count_synsets(pack, listed))

    assert main(["contributors", path, "-o", str(tmp_path / "a.pack")]) == 1
    assert "ends in .csv" in capsys.readouterr().err
