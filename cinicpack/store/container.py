"""Containers: the forms that a pack can have on disk, and the one table of them.

To add a container: write an object with the seven names of `Container`, and `register` it here.
Command line, `Pack.format`, ``verify``, ``compile`` and suffixes ask this table and nothing else.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from cinicpack.errors import ArgumentError, PackError
from cinicpack.store.format import ArraySpec
from cinicpack.store.hdf5 import Hdf5
from cinicpack.store.manifest import Manifest
from cinicpack.store.npy import Npy
from cinicpack.store.region import Region, open_file

__all__ = [
    "CONTAINERS",
    "Container",
    "for_suffix",
    "found_at",
    "named",
    "register",
    "unregister",
]

# How many bytes of a file that is no pack an error shows: as many as HDF5's signature has.
_START_BYTES: Final = 8


class Container(Protocol):
    """One form of a pack.

    Attributes:
        name: what ``format=`` and ``--format`` call it, and `Pack.format` is.
        suffixes: endings of file names that mean this container, with their dot, the preferred one
            first; none: no ending means it.
    """

    name: str
    suffixes: tuple[str, ...]

    def holds(self, path: Path) -> bool:
        """Tell, from its kind or its first bytes, whether what is at ``path`` has this form.

        A damaged pack has its form still. The other methods that read are called only for a path
        that the container holds.
        """

    def find_others(self, path: Path) -> list[str]:
        """Name what keeps ``path`` from being a pack and nothing else; empty: nothing does.

        A pack may be replaced, be it damaged or of another version; anything else would be lost.
        """

    def create(self, path: Path, specs: Sequence[ArraySpec]) -> list[Region]:
        """Make all arrays at full size, and say where they lie, in the order of ``specs``.

        Raises ``OSError`` for a full disk and `ArgumentError` for more files than can be opened.
        """

    def finish(self, path: Path, manifest: Manifest, regions: Sequence[Region]) -> None:
        """Write the manifest; the arrays, at ``regions``, are filled and hashed by now."""

    def open(self, path: Path) -> tuple[Manifest, list[Region]]:
        """Read and check the manifest, and say where the arrays lie, in the order of its specs.

        Raises `PackError` for what is damaged, and `FormatVersionError` for another version.
        """


#: All containers by their names, in the order in which `Container.holds` is asked.
CONTAINERS: Final[dict[str, Container]] = {}


def register(container: Container) -> None:
    """Add a container to the table; raises `ArgumentError` if its name or a suffix is taken."""
    taken = {suffix for other in CONTAINERS.values() for suffix in other.suffixes}
    if container.name in CONTAINERS or taken & set(container.suffixes):
        raise ArgumentError(
            f"expected a container with a name and suffixes of its own, found {container.name!r} "
            f"{container.suffixes}"
        )
    CONTAINERS[container.name] = container


def unregister(name: str) -> None:
    """Take a container out of the table, as a test does with its own."""
    del CONTAINERS[name]


def named(name: str) -> Container:
    """Return the container of this name; raises `ArgumentError` if there is none."""
    if name not in CONTAINERS:
        expected = " or ".join(map(repr, CONTAINERS))
        raise ArgumentError(f"expected format {expected}, found {name!r}")
    return CONTAINERS[name]


def for_suffix(path: Path) -> Container | None:
    """Return the container that the suffix of a name means; None: it means none."""
    return next((each for each in CONTAINERS.values() if path.suffix in each.suffixes), None)


def found_at(path: Path) -> Container:
    """Return the container of what is at ``path``; raises `PackError` if it is of none."""
    for container in CONTAINERS.values():
        if container.holds(path):
            return container
    if not path.is_file():
        raise PackError(f"{path}: expected a directory or an HDF5 file, found neither")
    with open_file(path) as stream:
        start = stream.read(_START_BYTES)
    raise PackError(
        f"{path}: expected a pack, found a file that is not HDF5 (it starts with {start!r}); if it "
        f"holds images, make a pack of it with 'cinicpack pack {path} NAME.pack', "
        "and if it was a pack, restore it"
    )


register(Npy())
register(Hdf5())
