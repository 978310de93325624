"""Reading what is at a path as a pack, while others may replace it."""

import errno
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from numpy.typing import NDArray

from cinicpack.cinic10 import MEAN, STD
from cinicpack.errors import PackError
from cinicpack.paths import why_missing
from cinicpack.store.container import Container, found_at
from cinicpack.store.manifest import Manifest, channel_statistics
from cinicpack.store.publish import recover
from cinicpack.store.region import Region
from cinicpack.text import some

__all__ = ["check_labels", "check_normalization", "find_other", "locate_pack", "read_steadily"]

Result = TypeVar("Result")

# What is there if opening gives one of these errors.
_NO_FILE: Final = {
    errno.ENXIO: "a socket or a device",
    errno.ENODEV: "a device",
    errno.ELOOP: "a symbolic link that leads in a circle",
}


def read_steadily(path: Path, read: Callable[[Path], Result]) -> Result:
    """Call ``read(path)``, once more if the pack there is replaced in the middle of it.

    Otherwise the manifest could be that of the former pack, and the arrays those of the new one.
    """
    while True:
        try:
            # The descriptor stays open while the pack is read: otherwise a new pack could get the
            # inode number of this one, and pass for it.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            # A writer may be between its two renames, or may have died there.
            if recover(Path(os.path.realpath(path))):
                continue
            why = why_missing(path) or f"make one with 'cinicpack pack SOURCE {path}'"
            raise FileNotFoundError(f"{path}: there is no such pack; {why}") from None
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            raise PackError(
                f"{path}: expected a directory or an HDF5 file, found {_NO_FILE[error.errno]}"
            ) from None
        try:
            result = read(path)
        except (PackError, OSError) as error:
            if _is_still(path, descriptor):
                if isinstance(error, OSError) and error.filename is None:
                    # A call that was given a descriptor does not know the name of the file.
                    raise OSError(error.errno, error.strerror, str(path)) from error
                raise
        else:
            if _is_still(path, descriptor):
                return result
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def locate_pack(path: Path) -> tuple[Container, Manifest, list[Region]]:
    """Find the container of a pack, read and check its manifest, and say where its arrays lie."""
    container = found_at(path)
    return container, *container.open(path)


def find_other(path: Path) -> str | None:
    """Describe what would be lost at ``path`` besides a pack, were it removed; None: nothing.

    What is to be lost without asking has to be a pack, be it damaged or of another version, and
    nothing else: its manifest begins as one, and there are no files, datasets, attributes or links
    but its own (`Container.find_others`).
    """
    try:
        others = found_at(path).find_others(path)
    except PackError:
        others = ["no HDF5 that can be read as a pack"]
    return some(others) if others else None


def check_labels(place: str, labels: NDArray[Any], manifest: Manifest) -> None:
    """Raise `PackError` if a label, in the array that errors call ``place``, is of no class."""
    highest = int(labels.max())
    if highest >= len(manifest.classes):
        raise PackError(
            f"{place}: expected labels below {len(manifest.classes)}, found {highest} in "
            f"row {labels.argmax()}; restore the file or pack again"
        )


def check_normalization(path: Path, manifest: Manifest) -> None:
    """Raise `PackError` if mean and std are not those of the origin that the manifest names."""
    mean, std, origin = manifest.normalization
    # A split may be called "published" too.
    expected = [(MEAN, STD)] if origin == "published" else []
    if origin in manifest.splits:
        groups = manifest.splits[origin].groups
        expected.append(channel_statistics(groups, manifest.image_shape))
    close = partial(math.isclose, rel_tol=1e-9, abs_tol=1e-12)
    if not any(all(map(close, (*mean, *std), (*means, *stds))) for means, stds in expected):
        raise PackError(
            f"{path}: expected mean and std {expected[-1]}, those of {origin}, found "
            f"{(mean, std)}; pack again"
        )
