import errno
import zlib

import pytest
from PIL import ImageFile, UnidentifiedImageError

from cinicpack.shortage import is_shortage

NAMES = ("EMFILE", "ENFILE", "ENOMEM", "EIO", "EINTR", "ESTALE", "ENOSPC", "ENOENT", "EACCES")


@pytest.mark.parametrize("name", NAMES)
def test_what_the_system_numbers_is_one(name):
    assert is_shortage(OSError(getattr(errno, name), "a reason"))


def test_want_of_memory_is_one_whoever_says_so():
    assert is_shortage(MemoryError())
    assert is_shortage(ImageFile._get_oserror(-9, encoder=False))


def test_a_module_that_cannot_be_imported_is_one():
    assert is_shortage(ImportError("too many open files"))


@pytest.mark.parametrize(
    "error",
    [
        OSError("image file is truncated"),
        OSError(errno.EINVAL, "a place before the start of the file"),
        UnidentifiedImageError("no image"),
        ImageFile._get_oserror(-2, encoder=False),
        SyntaxError("broken PNG file"),
        ValueError("no header"),
        zlib.error("no stream"),
    ],
)
def test_what_is_wrong_with_a_file_is_none(error):
    assert not is_shortage(error)
