"""What exists once: it has memory, addresses or threads that a copy of it could not have."""

from typing import NoReturn, SupportsIndex

__all__ = ["Unique"]


class Unique:
    """Refuses to be copied or pickled, as `copy.copy`, `copy.deepcopy` and `pickle` would do it.

    A copy would read where its original's memory was, hand memory out that the original still
    lends, or wait for threads that are not there.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"cannot copy or pickle {type(self).__name__}: its memory and threads are those of "
            "this process; copy or pickle the Loader, which goes on from where it is"
        )
