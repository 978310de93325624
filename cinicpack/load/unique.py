"""Objects that exist once: a copy could not have their memory, addresses or threads."""

from typing import NoReturn, SupportsIndex

__all__ = ["Unique"]


class Unique:
    """Refuses to be copied by `copy.copy` and `copy.deepcopy`, and to be pickled.

    A copy would read from memory that its original has freed, lend memory that the original lends
    too, or wait for threads that do not exist.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"cannot copy or pickle {type(self).__name__}: its memory and threads are those of "
            "this process; copy or pickle the Loader, which goes on from where it is"
        )
