"""A pack that is made once: from what lies in a folder, or from what is downloaded into it."""

from pathlib import Path
from typing import Final, NamedTuple

from cinicpack.convert.packer import pack
from cinicpack.errors import DestinationError, SourceError
from cinicpack.fetch import mirrors
from cinicpack.fetch.download import fetch_first
from cinicpack.fetch.mirrors import Mirror
from cinicpack.fetch.transfer import Patience
from cinicpack.store.lock import locked
from cinicpack.store.publish import recover, tidy

__all__ = ["CIFAR10", "CIFAR100", "CINIC10", "DataSet", "make_ready"]


class DataSet(NamedTuple):
    """A data set that can be had.

    Attributes:
        pack: the file name of its pack.
        sources: file names of what it can be made from, the first of which that is there is taken.
        mirrors: who has it.
    """

    pack: str
    sources: tuple[str, ...]
    mirrors: tuple[Mirror, ...]


CINIC10: Final = DataSet(
    "cinic10.pack", ("CINIC-10.tar.gz", "CINIC-10", "CINIC-10-parquet"), mirrors.CINIC10
)
CIFAR10: Final = DataSet(
    "cifar10.pack",
    (
        *("cifar-10-python.tar.gz", "cifar-10-batches-py"),
        *("cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
    ),
    mirrors.CIFAR10,
)
CIFAR100: Final = DataSet(
    "cifar100.pack",
    (
        *("cifar-100-python.tar.gz", "cifar-100-python"),
        *("cifar-100-binary.tar.gz", "cifar-100-binary"),
    ),
    mirrors.CIFAR100,
)


def make_ready(
    root: Path,
    data: DataSet,
    *,
    download: bool = False,
    progress: bool = True,
    patience: Patience = Patience(),  # noqa: B008  it cannot be changed
) -> Path:
    """Return where the pack of a data set in ``root`` is, and make it first if it is not there.

    Of several processes that need it at the same time one makes it, and the others wait.

    Raises:
        SourceError: there is nothing to make it from, or it cannot be downloaded.
        DestinationError: ``root`` cannot be written.
    """
    path = root / data.pack
    # The pack's own lock is taken when it is written, so whoever makes it has another one.
    making = root / f"{data.pack}.source"
    if recover(path):
        tidy(path)
        tidy(making)
        return path
    if download:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DestinationError(
                error.errno, f"{root}: expected a folder, or that it can be made: {error.strerror}"
            ) from None
    elif not any((root / name).exists() for name in data.sources):
        raise SourceError(
            f"{root}: expected {_list(data.pack, *data.sources)} in it, found none; put one there, "
            "or have it downloaded with download=True"
        )
    with locked(making, wait=True):
        if not recover(path):
            source = next((root / name for name in data.sources if (root / name).exists()), None)
            if source is None:
                source = _download(root, data, patience, progress)
            pack(source, path, progress=progress)
    return path


def _download(root: Path, data: DataSet, patience: Patience, progress: bool) -> Path:
    try:
        return fetch_first(data.mirrors, root, patience, to_pack=True, progress=progress)
    except SourceError as error:
        raise SourceError(f"{error}; or put {_list(*data.sources)} into {root} yourself") from None


def _list(*names: str) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
