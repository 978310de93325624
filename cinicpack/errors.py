"""The exceptions that cinicpack raises.

CinicPackError
├── ArgumentError        ValueError    an argument out of its domain
├── SelectionError       ValueError    a split, class or source that the pack does not have
├── SourceError          ValueError    a tree or archive that cannot be packed
│   └── BadImagesError                 images of a source that cannot be packed, with reasons
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
    """The base class of all exceptions of this package."""


class ArgumentError(CinicPackError, ValueError):
    """An argument is out of its domain."""


class SelectionError(CinicPackError, ValueError):
    """A split, class or source is named that the pack does not have."""


class SourceError(CinicPackError, ValueError):
    """A tree or archive cannot be packed."""


class BadImagesError(SourceError):
    """Images of a source cannot be packed.

    Attributes:
        images: ``(path, reason)`` of every bad image, in path order.
    """

    def __init__(self, message: str, images: list[tuple[str, str]]) -> None:
        super().__init__(message)
        self.images = images

    def __reduce__(self) -> tuple[Any, ...]:
        # By default unpickling calls the class with ``args`` alone, which lacks the images.
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

    The loader was closed, runs where it must not, or lacks a process group or pinned memory.
    """
