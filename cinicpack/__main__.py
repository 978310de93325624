"""The command line as ``python -m cinicpack``, for where the command is not on the path."""

import sys

from cinicpack.cli import main

__all__ = []

if __name__ == "__main__":
    sys.exit(main())
