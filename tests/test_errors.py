import copy
import pickle

import pytest

import cinicpack
from cinicpack import errors

KINDS = {
    "ArgumentError": ValueError,
    "SelectionError": ValueError,
    "SourceError": ValueError,
    "BadImagesError": ValueError,
    "DestinationError": OSError,
    "PackError": ValueError,
    "FormatVersionError": ValueError,
    "StateError": ValueError,
    "LoaderError": RuntimeError,
}


def test_each_is_also_a_built_in_error():
    assert {*KINDS, "CinicPackError"} == set(errors.__all__)
    for name, builtin in KINDS.items():
        assert issubclass(getattr(errors, name), errors.CinicPackError)
        assert issubclass(getattr(errors, name), builtin)


def test_leaves_hang_where_the_docstring_says():
    assert issubclass(errors.BadImagesError, errors.SourceError)
    assert issubclass(errors.FormatVersionError, errors.PackError)
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__


@pytest.mark.parametrize("name", errors.__all__)
def test_users_get_them_from_the_package(name):
    assert getattr(cinicpack, name) is getattr(errors, name)


ERRORS = [
    *(getattr(errors, name)("what, where and what to do") for name in KINDS if "Bad" not in name),
    errors.CinicPackError("what, where and what to do"),
    errors.BadImagesError("2 of 3 images", [("a.png", "cut"), ("b.png", "empty")]),
    errors.DestinationError(28, "no room"),
]


for error in ERRORS:
    error.add_note("found in the second of three")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "copied", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy]
)
def test_they_come_back_from_other_processes_and_as_copies(error, copied):
    came = copied(error)
    assert type(came) is type(error)
    assert str(came) == str(error)
    assert came.args == error.args
    assert vars(came) == vars(error)
    assert getattr(came, "errno", None) == getattr(error, "errno", None)


def test_bad_images_are_listed():
    error = errors.BadImagesError("2 of 3 images", [("a.png", "cut"), ("b.png", "empty")])
    assert str(error) == "2 of 3 images"
    assert error.images == [("a.png", "cut"), ("b.png", "empty")]


def test_destination_errors_have_a_number():
    error = errors.DestinationError(28, "no room")
    assert error.errno == 28
    assert str(error) == "[Errno 28] no room"
