"""The exceptions that cinicpack raises.

CinicPackError
├── ArgumentError        ValueError    an argument out of its domain
├── SelectionError       ValueError    a split, class or source that the pack does not have
├── SourceError          ValueError    a tree or archive that cannot be packed
│   └── BadImagesError                 images in it that cannot be packed, each with its reason
├── DestinationError     OSError       a destination that cannot be written
├── PackError            ValueError    a pack that is not what its manifest says
│   └── FormatVersionError             a pack of a version that is not read here
├── StateError           ValueError    a loader state that belongs to other data or options
└── LoaderError          RuntimeError  a loader or iterator that cannot go on like this
"""

from typing import Any

__all__ = [
    "ArgumentError",
    "BadImagesError",
    "CinicPackError",
    "DestinationError",
    "FormatVersionError",
    "LoaderError",
    "PackError",
    "SelectionError",
    "SourceError",
    "StateError",
]


class CinicPackError(Exception):
    """What every exception of this package is."""


class ArgumentError(CinicPackError, ValueError):
    """An argument is out of its domain."""


class SelectionError(CinicPackError, ValueError):
    """A split, class or source is named that the pack does not have."""


class SourceError(CinicPackError, ValueError):
    """A tree or archive cannot be packed."""


class BadImagesError(SourceError):
    """Images of a source cannot be packed.

    Attributes:
        images: ``(path, reason)`` of every one of them, in path order.
    """

    def __init__(self, message: str, images: list[tuple[str, str]]) -> None:
        super().__init__(message)
        self.images = images

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickling calls the class with ``args``, which has no images.
        return type(self), (*self.args, self.images), self.__dict__


class DestinationError(CinicPackError, OSError):
    """A destination cannot be written."""


class PackError(CinicPackError, ValueError):
    """A pack is not what its manifest says."""


class FormatVersionError(PackError):
    """A pack has a format version that this cinicpack does not read."""


class StateError(CinicPackError, ValueError):
    """A loader state belongs to other data or options."""


class LoaderError(CinicPackError, RuntimeError):
    """A loader or one of its iterators cannot go on like this.

    It was closed, or is running where it must not be, or has no process group or pinned memory.
    """
