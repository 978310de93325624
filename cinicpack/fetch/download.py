"""Downloading a data set: from whichever of its mirrors has it, as an archive or in other files."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from cinicpack.cinic10 import ARCHIVE_URL
from cinicpack.errors import ArgumentError, DestinationError, SourceError
from cinicpack.fetch.mirrors import CINIC10, Mirror
from cinicpack.fetch.transfer import Patience, learn, transfer
from cinicpack.store.lock import locked
from cinicpack.store.publish import tidy
from cinicpack.terminal import say

__all__ = ["download", "fetch_first"]


def download(
    destination: str | os.PathLike[str] = ".",
    *,
    mirror: str | None = None,
    url: str | None = None,
    to_pack: bool = False,
    progress: bool = True,
    patience: Patience = Patience(),  # noqa: B008  it cannot be changed
    mirrors: Sequence[Mirror] = CINIC10,
) -> Path:
    """Fetch CINIC-10 and check it, as an alternative to the authors' wget.

    The official archive is asked for first, then the hub's parquet files. What has come is kept in
    ``NAME.part``, and a later call goes on from there. What is there already is checked.

    Args:
        destination: a directory to write ``CINIC-10.tar.gz`` or the folder ``CINIC-10-parquet``
            in, or the file to write; a folder beside it is then named after it.
        mirror: ask only this one: "official" or "hub".
        url: where to get the archive instead; at that address has to be the same file.
        to_pack: ask only mirrors whose files can be packed by what is installed here.
        progress: say on standard error why and when it tries again, and what else there is if it
            takes long; and show a bar if that is a terminal.
        patience: how long to wait for what.
        mirrors: the servers to ask, in this order.

    Returns:
        Where the archive or the folder of parquet files is.

    Raises:
        SourceError: no server answers, or none has the files.
        DestinationError: another file is there, the disk is full or cannot be written, or another
            process is downloading to the same place.
        ArgumentError: ``url`` is no http or https address, there is no such ``mirror``, or both are
            given.

    >>> download("data")  # doctest: +SKIP
    PosixPath('data/CINIC-10.tar.gz')
    """
    if url is not None and (mirror is not None or not _is_web_address(url)):
        found = f"{url!r} and a mirror" if mirror is not None else repr(url)
        raise ArgumentError(f"expected an address like {ARCHIVE_URL}, found {found}")
    if mirror is not None:
        names = [one.name for one in mirrors]
        if mirror not in names:
            raise ArgumentError(f"expected a mirror out of {', '.join(names)}, found {mirror!r}")
        mirrors = [one for one in mirrors if one.name == mirror]
    if url is not None:
        [file] = mirrors[0].files
        host = urlsplit(url).netloc
        mirrors = [mirrors[0]._replace(host=host, files=(file._replace(urls=(url,)),))]
    try:
        return fetch_first(mirrors, Path(destination), patience, to_pack=to_pack, progress=progress)
    except SourceError as error:
        raise SourceError(f"{error}, or get the archive elsewhere with --url (url=)") from None


def fetch_first(
    mirrors: Sequence[Mirror],
    destination: Path,
    patience: Patience,
    *,
    to_pack: bool = False,
    progress: bool = True,
) -> Path:
    """Fetch a data set from the first mirror that has it; of which something is there, comes first.

    Raises `SourceError`, which says of every mirror why not.
    """
    wanted = sorted(mirrors, key=lambda one: not os.path.lexists(_place(one, destination)))
    problems = []
    for number, mirror in enumerate(wanted):
        others = wanted[number + 1 :]
        try:
            if to_pack and mirror.needs is not None and find_spec(mirror.needs) is None:
                raise SourceError(
                    f"{mirror.host}: its files need {mirror.needs} to be packed; install it"
                )
            return _fetch(mirror, destination, patience, _offer(others), progress)
        except SourceError as error:
            problems.append(str(error))
            if others:
                say(f"{error}; going on with {others[0].host}", progress=progress)
    raise SourceError("; ".join(problems))


def _offer(others: Sequence[Mirror]) -> str:
    if not others:
        return ""
    return (
        f"{others[0].host} has the same images: to get them from there, stop this with Ctrl-C and "
        f"pass --mirror {others[0].name} (mirror={others[0].name!r}); what has come is kept"
    )


def _place(mirror: Mirror, destination: Path) -> Path:
    """Return where the files of a mirror belong."""
    if destination.is_dir():
        return destination / (mirror.folder or mirror.files[0].name)
    if mirror.folder is None:
        return destination
    stem = destination.name.removesuffix(".tgz").removesuffix(".gz").removesuffix(".tar")
    return destination.with_name(f"{stem}-{mirror.folder.rpartition('-')[2]}")


def _fetch(
    mirror: Mirror, destination: Path, patience: Patience, offer: str, progress: bool
) -> Path:
    place = _place(mirror, destination)
    if mirror.folder is None:
        return transfer(mirror.files[0], place, patience, offer=offer, progress=progress)
    if os.path.lexists(place):
        # The folder gets its name when all of its files are there and have been checked.
        if lacking := [file.name for file in mirror.files if not (place / file.name).is_file()]:
            raise DestinationError(
                f"{place}: expected nothing there, or the files of {mirror.host}, found no "
                f"{', '.join(lacking)}; move or remove it, and run again"
            )
        tidy(place)
        return place
    with locked(place, wait=False):
        files = [learn(file, patience, progress=progress) for file in mirror.files]
        total = sum(file.nbytes or 0 for file in files)
        if total != mirror.nbytes:
            raise SourceError(
                f"{mirror.host}: expected files of {mirror.nbytes:,} bytes in all, found "
                f"{total:,}: they have been replaced"
            )
        folder = place.with_name(f"{place.name}.part")
        folder.mkdir(exist_ok=True)
        for file in files:
            transfer(file, folder / file.name, patience, offer=offer, progress=progress)
        os.rename(folder, place)
    return place


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
