import hashlib
import io
import os
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cinicpack import cinic10
from cinicpack.errors import SourceError
from cinicpack.formats.pickles import Value, dump_pickle, load_pickle

TEXTS = st.binary(max_size=300)
BATCHES = st.fixed_dictionaries(
    {
        b"batch_label": TEXTS,
        b"labels": st.lists(st.integers(0, 2**31 - 1), max_size=300),
        b"data": arrays(np.uint8, st.tuples(st.integers(0, 4), st.integers(1, 300))),
        b"filenames": st.lists(TEXTS, max_size=5),
    }
)


def test_meta_file_is_the_official_one():
    meta: Value = {
        b"num_cases_per_batch": 10_000,
        b"label_names": [name.encode() for name in cinic10.CLASSES],
        b"num_vis": 3072,
    }
    # The MD5 of batches.meta in torchvision.datasets.CIFAR10.
    assert hashlib.md5(dump_pickle(meta)).hexdigest() == "5ff9c542aee3614f3951f8cda6e48888"


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return found.dtype == np.uint8 and np.array_equal(found, expected)
    return type(found) is type(expected) and found == expected


@given(BATCHES)
def test_readers_get_text_or_bytes_as_they_ask(batch):
    pickled = dump_pickle(batch)
    as_bytes = pickle.loads(pickled, encoding="bytes")
    assert list(as_bytes) == list(batch)
    assert all(same(as_bytes[key], batch[key]) for key in batch)
    as_text = pickle.loads(pickled, encoding="latin1")
    assert list(as_text) == [key.decode() for key in batch]
    assert as_text["batch_label"] == batch[b"batch_label"].decode("latin1")
    assert as_text["filenames"] == [name.decode("latin1") for name in batch[b"filenames"]]
    assert same(as_text["data"], batch[b"data"])


@given(BATCHES, st.sampled_from([None, 0, 1, 2, 3, 4]), st.sampled_from("CF"))
def test_pickles_of_any_python_are_read(batch, protocol, order):
    batch = {**batch, b"data": np.asarray(batch[b"data"], order=order)}
    pickled = dump_pickle(batch) if protocol is None else pickle.dumps(batch, protocol)
    content = load_pickle(pickled, "here")
    assert list(content) == [key.decode() for key in batch]
    assert content["labels"] == batch[b"labels"]
    assert same(content["data"], batch[b"data"])


def rename_core(pickled: bytes, protocol: int) -> bytes:
    """Name NumPy's modules as NumPy 1 does, whose name for them is a byte shorter."""
    if protocol < 4:
        return pickled.replace(b"numpy._core", b"numpy.core")
    # The whole is one frame, of a length that would change, so it goes.
    assert pickled[2:3] == b"\x95"
    pickled = pickled[:2] + pickled[11:]
    for module in (b".multiarray", b".numeric"):
        new, old = b"numpy._core" + module, b"numpy.core" + module
        pickled = pickled.replace(bytes([0x8C, len(new)]) + new, bytes([0x8C, len(old)]) + old)
    return pickled


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "<f8"])
def test_arrays_and_numbers_of_old_and_new_numpy_are_read(core, protocol, dtype):
    array = np.arange(6).astype(dtype).reshape(2, 3)
    pickled = pickle.dumps({"data": array, "labels": [array[1, 2]]}, protocol)
    if core == "numpy.core":
        pickled = rename_core(pickled, protocol)
    content = load_pickle(io.BytesIO(pickled), "here")
    assert content["data"].dtype == dtype
    assert np.array_equal(content["data"], array)
    assert content["labels"] == [5]


def test_as_many_strings_as_a_batch_has():
    names = [b"%d.png" % row for row in range(70_000)]
    pickled = dump_pickle({b"filenames": names})
    assert pickle.loads(pickled, encoding="bytes") == {b"filenames": names}
    assert load_pickle(pickled, "here")["filenames"][-1] == "69999.png"


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"data": Call(os.mkdir, "made")}, "a call of posix.mkdir, which is not made"),
        ({"data": Call(eval, "1")}, "a call of builtins.eval, which is not made"),
        ({"data": np.array([None])}, "an array of O8"),
        ({"data": np.array(["text"])}, "an array of U4"),
        ({"data": Call(np.dtype, "u1")}, "a part of NumPy where a value belongs"),
        ({"data": np.ndarray}, "a part of NumPy where a value belongs"),
        ([b"data"], "found list"),
        (None, "found NoneType"),
    ],
)
def test_other_pickles_are_refused(content, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=rf"^batch 1: expected a pickled .*{found}"):
        load_pickle(pickle.dumps(content, 4), "batch 1")
    assert not list(tmp_path.iterdir())


# Set the attribute of a function that the pickle may name, and make an object of one.
BUILD = b"\x80\x02}U\4datac_codecs\nencode\n(N}U\6markedK\1stbs."
NEW = b"\x80\x02}U\4datacnumpy\nndarray\n)\x81s."


@pytest.mark.parametrize("pickled", [BUILD, NEW])
def test_a_pickle_changes_and_makes_nothing(pickled):
    with pytest.raises(SourceError, match="expected a pickled dictionary"):
        load_pickle(pickled, "here")


def test_a_file_that_cannot_be_read_is_not_called_damaged():
    class Failing(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            raise OSError(5, "a reason")

        read = readline = readinto  # type: ignore[assignment]

    with pytest.raises(OSError, match="a reason"):
        load_pickle(Failing(), "here")


@given(st.binary(max_size=60), st.integers(0, 400))
@example(b"\x8e" + bytes(7) + b"\1", 0)  # of which the unpickler makes a MemoryError
def test_whatever_is_no_pickle_is_refused(data, size):
    whole = dump_pickle({b"labels": [1, 2], b"data": np.zeros((2, 50), np.uint8)})
    for damaged in (data, whole[:size][: len(whole) - 1]):
        with pytest.raises(SourceError, match="expected a pickled"):
            load_pickle(damaged, "here")
