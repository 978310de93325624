"""A shortage: the machine lacks memory, descriptors or the like, and no file is at fault."""

import errno

__all__ = ["is_shortage"]


def is_shortage(error: Exception) -> bool:
    """Tell whether an error is the machine's, so that the same call may succeed later.

    An error is the machine's if it has a number of the operating system, because libraries give no
    number to the faults they find in a file; or if memory or a module to import was lacking.

    >>> is_shortage(OSError(24, "Too many open files")), is_shortage(OSError("broken PNG file"))
    (True, False)
    """
    if isinstance(error, OSError):
        # EINVAL is the file's fault: a damaged file can name an offset that no seek accepts. And
        # Pillow's decoders raise an OSError without a number where memory is lacking.
        numbered = error.errno not in (None, errno.EINVAL)
        return numbered or str(error).startswith("out of memory")
    return isinstance(error, MemoryError | ImportError)
