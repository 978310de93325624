"""Mirrors: which servers have a data set, in which files, and what is published of these.

CINIC-10's archive is that of https://datashare.ed.ac.uk/handle/10283/3192 (README of
BayesWatch/cinic-10, "Download"), with the repository's older address and its two newer ones. The
hub's files are the same images by https://huggingface.co/datasets/flwrlabs/cinic10. CIFAR's
archives are those of https://www.cs.toronto.edu/~kriz/cifar.html, and their MD5s are torchvision's.
"""

from typing import Final, NamedTuple

from cinicpack.cinic10 import ARCHIVE_BYTES, ARCHIVE_MD5, ARCHIVE_SHA256, ARCHIVE_URL
from cinicpack.fetch.kinds import PARQUET, TAR_GZ, Kind

__all__ = ["CIFAR10", "CIFAR100", "CINIC10", "Mirror", "RemoteFile"]

_BITSTREAM: Final = "e8e186cc-2688-48f1-aa5a-3fda1a43f8b6"
_REPOSITORY: Final = "https://datashare.ed.ac.uk"
_HUB: Final = "https://huggingface.co/datasets/flwrlabs/cinic10/resolve/main/data"
_TORONTO: Final = "https://www.cs.toronto.edu/~kriz"


class RemoteFile(NamedTuple):
    """A file on a server.

    Attributes:
        name: its file name.
        urls: addresses of the same file, the one to try first before the others.
        kind: what it is.
        nbytes: its size; None: the server is asked.
        digests: its digests, each with the name of the algorithm; none where only the server knows.
    """

    name: str
    urls: tuple[str, ...]
    kind: Kind
    nbytes: int | None = None
    digests: tuple[tuple[str, str], ...] = ()


class Mirror(NamedTuple):
    """A server that has a data set.

    Attributes:
        name: what the option ``mirror`` calls it.
        host: what messages call it.
        files: the files that are the data set.
        nbytes: the size of all of them.
        folder: the folder that they belong in, if they are several.
        needs: the module without which they cannot be packed.
    """

    name: str
    host: str
    files: tuple[RemoteFile, ...]
    nbytes: int
    folder: str | None = None
    needs: str | None = None


def _official(host: str, name: str, urls: tuple[str, ...], nbytes: int, **digests: str) -> Mirror:
    file = RemoteFile(name, urls, TAR_GZ, nbytes, tuple(digests.items()))
    return Mirror("official", host, (file,), nbytes)


#: Mirrors of CINIC-10, in the order in which they are tried.
CINIC10: Final = (
    _official(
        "datashare.ed.ac.uk",
        "CINIC-10.tar.gz",
        (
            ARCHIVE_URL,
            f"{_REPOSITORY}/bitstreams/{_BITSTREAM}/download",
            f"{_REPOSITORY}/server/api/core/bitstreams/{_BITSTREAM}/content",
        ),
        ARCHIVE_BYTES,
        md5=ARCHIVE_MD5,
        sha256=ARCHIVE_SHA256,
    ),
    Mirror(
        "hub",
        "huggingface.co",
        tuple(
            RemoteFile(name, (f"{_HUB}/{name}",), PARQUET)
            for split in ("train", "validation", "test")
            for name in (f"{split}-00000-of-00001.parquet",)
        ),
        771_149_160,
        folder="CINIC-10-parquet",
        needs="pyarrow",
    ),
)
CIFAR10: Final = (
    _official(
        "www.cs.toronto.edu",
        "cifar-10-python.tar.gz",
        (f"{_TORONTO}/cifar-10-python.tar.gz",),
        170_498_071,
        md5="c58f30108f718f92721af3b95e74349a",
    ),
)
CIFAR100: Final = (
    _official(
        "www.cs.toronto.edu",
        "cifar-100-python.tar.gz",
        (f"{_TORONTO}/cifar-100-python.tar.gz",),
        169_001_437,
        md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
)
