"""A shortage: something fails for want of what the machine has, with nothing wrong in the file."""

import errno

__all__ = ["is_shortage"]


def is_shortage(error: Exception) -> bool:
    """Tell whether an error is the machine's, so that the same may succeed at another time.

    It is where the operating system gave a number for it, for libraries give none to what they
    find in a file; and where memory, or a module to import, could not be had.

    >>> is_shortage(OSError(24, "Too many open files")), is_shortage(OSError("broken PNG file"))
    (True, False)
    """
    if isinstance(error, OSError):
        # EINVAL comes of a place to seek that a damaged file names. What Pillow's decoders say of
        # memory has no number.
        numbered = error.errno not in (None, errno.EINVAL)
        return numbered or str(error).startswith("out of memory")
    return isinstance(error, MemoryError | ImportError)
