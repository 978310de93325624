"""Workers: they convert tasks, each in a process of its own.

They are fresh Python processes that are spoken to over a socket. Unlike multiprocessing's they do
not import the caller's main module again, and they end when the caller does, however it ends.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Final, Protocol

from cinicpack.convert.conversion import Converted, Converter, Task
from cinicpack.errors import CinicPackError

__all__ = ["Worker", "serve", "starting_workers"]


_ENVIRONMENT: Final = {
    # NumPy would start a thread for every core, in every worker, and none has work.
    "OPENBLAS_NUM_THREADS": "1",
    # Else glibc gives the memory of a batch back to the system after each, and a tenth of the time
    # goes into getting it again: pages come one by one, with zeros in them.
    "MALLOC_TOP_PAD_": str(64 << 20),
}


class Worker(Protocol):
    """What converts tasks: here, or in a process of its own."""

    def __call__(self, task: Task) -> Converted:
        """Convert one task."""


@contextlib.contextmanager
def starting_workers(count: int, root: Path, folder: Path) -> Iterator[list[Worker]]:
    """Start ``count`` worker processes, or with 0 convert in this one; stop them at the end.

    ``root`` is the tree that paths are relative to; scratch files are created in ``folder``.
    """
    with contextlib.ExitStack() as stack:
        if count == 0:
            yield [stack.enter_context(Converter(root, folder / "scratch-0"))]
            return
        yield [
            stack.enter_context(_Process(root, folder / f"scratch-{number}"))
            for number in range(count)
        ]


class _Process:
    """A converter in another process; ends with the connection to it."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self._connection, other = Pipe()
        # The same modules as here, also where the package is not installed but on the path.
        path = os.pathsep.join(os.fspath(entry) or os.getcwd() for entry in sys.path)
        arguments = (other.fileno(), str(root), str(scratch))
        command = f"from {__name__} import serve; serve(*{arguments!r})"
        self._process = subprocess.Popen(
            # -P: not from the working directory, unless it is on the caller's path.
            [sys.executable, "-P", "-c", command],
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, **_ENVIRONMENT},
            # Ctrl-C is for the caller, who ends the worker in good order.
            process_group=0,
        )
        other.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def __call__(self, task: Task) -> Converted:
        try:
            self._connection.send(task)
            answer = self._connection.recv()
        except (EOFError, OSError):
            status = self._process.wait()
            raise CinicPackError(
                f"a worker process ended with status {status} (a negative one is the signal that "
                "killed it, -9 often for want of memory); run again, with fewer workers if need be"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Converted)
        return answer


def serve(descriptor: int, root: str, scratch: str) -> None:
    """Be a worker process: answer the tasks that come over ``descriptor`` until it is closed."""
    with (
        Connection(descriptor) as connection,
        # Either means that the caller has gone.
        contextlib.suppress(EOFError, ConnectionError),
    ):
        try:
            converter = Converter(Path(root), Path(scratch))
        except OSError as error:
            connection.recv()
            connection.send(error)
            return
        with converter as convert:
            while True:
                connection.send(_answer(convert, connection.recv()))


def _answer(convert: Worker, task: Task) -> Converted | Exception:
    try:
        return convert(task)
    except (CinicPackError, OSError, MemoryError) as error:
        return error
