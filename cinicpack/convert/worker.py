"""Workers: they convert tasks, each in a process of its own.

All workers are forked from one fresh Python process, the server, which imports what they need:
that takes as long as converting 15,000 images, and 100 MB. Tasks and answers go over sockets.
Unlike the processes of multiprocessing, workers do not import the caller's main module again, and
they end when the caller does, however it ends (if the caller is killed and had forked itself, when
that fork ends too).
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, Pipe
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Final, Protocol, Self

from cinicpack.convert.conversion import Converted, Converter, Task, load_kernels
from cinicpack.convert.files import Read
from cinicpack.errors import CinicPackError

__all__ = ["Worker", "serve", "starting_workers"]


_ENVIRONMENT: Final = {
    # Otherwise NumPy starts a thread for every core, which has no work here, and which a fork of
    # the server would not copy.
    "OPENBLAS_NUM_THREADS": "1",
    # Otherwise glibc gives the memory of each batch back to the system, and a tenth of the time is
    # spent on getting it again, page by page, filled with zeros.
    "MALLOC_TOP_PAD_": str(64 << 20),
}


class Worker(Protocol):
    """What converts tasks: here, or in a process of its own."""

    def __call__(self, task: Task) -> Converted:
        """Convert one task."""


@contextlib.contextmanager
def starting_workers(
    count: int, source: str, read: Read | None, folder: Path
) -> Iterator[list[Worker]]:
    """Start ``count`` worker processes, or with 0 convert in this one; stop them at the end.

    ``source`` is what messages name, ``read`` gives the contents of images that come without them,
    and scratch files are created in ``folder``.

    Gives workers that can be called at the same time. Every process is listed twice, so that its
    next task is there when it has done one.
    """
    scratches = [folder / f"scratch-{number}" for number in range(max(1, count))]
    if count == 0:
        with Converter(source, read, scratches[0]) as converter:
            yield [converter]
        return
    try:
        starting = _Server(source, read, scratches)
    except OSError as error:
        raise _explain_start(error) from error
    with starting as server:
        yield [*server.processes, *server.processes]


class _Server:
    """The process that forks the workers, and the caller's connections to server and workers."""

    def __init__(self, source: str, read: Read | None, scratches: Sequence[Path]) -> None:
        pipes = [Pipe() for _ in range(1 + len(scratches))]
        descriptors = [theirs.fileno() for _, theirs in pipes]
        # Let the server find the modules of this process, also where the package is not installed
        # but on the path.
        path = os.pathsep.join(os.fspath(entry) or os.getcwd() for entry in sys.path)
        arguments = (descriptors, [str(scratch) for scratch in scratches])
        command = f"from {__name__} import serve; serve(*{arguments!r})"
        self._process = subprocess.Popen(
            # -P keeps modules of the working directory out, unless it is on the caller's path.
            [sys.executable, "-P", "-c", command],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, **_ENVIRONMENT},
            # In a process group of its own the server gets no Ctrl-C of the terminal: the caller
            # gets it, and ends the workers in good order.
            process_group=0,
        )
        for _, theirs in pipes:
            theirs.close()
        (self._connection, _), *others = pipes
        # A server that has ended already is explained when a task is sent to its workers.
        with contextlib.suppress(OSError):
            self._connection.send((source, read))
        self._lock = threading.Lock()
        self.processes = [
            _Process(connection, self, number) for number, (connection, _) in enumerate(others)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # This ends the server and all workers at once, whatever they are doing.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for process in self.processes:
            process.close()
        self._connection.close()

    def explain(self, number: int) -> Exception:
        """Say why a worker has ended."""
        with self._lock:
            try:
                self._connection.send(number)
                status = self._connection.recv()
            except (EOFError, OSError):
                status = self._process.wait()
        if isinstance(status, OSError):
            return _explain_start(status)
        return CinicPackError(
            f"a worker process ended with status {status} (a negative one is the signal that "
            "killed it, -9 often for want of memory); run again, with fewer workers if need be"
        )


class _Process:
    """A converter in another process."""

    def __init__(self, connection: Connection, server: _Server, number: int) -> None:
        self._connection = connection
        self._server = server
        self._number = number
        self._sending = threading.Lock()
        self._receiving = threading.Lock()

    def close(self) -> None:
        """Wait until the process has ended, which closes its end, and close this one."""
        with contextlib.suppress(EOFError, OSError):
            while self._connection.poll(10):
                self._connection.recv_bytes()
        self._connection.close()

    def __call__(self, task: Task) -> Converted:
        try:
            with self._sending:
                self._connection.send(task)
                # Taken before another thread can send a task, so that each gets its own answer.
                self._receiving.acquire()
            try:
                answer = self._connection.recv()
            finally:
                self._receiving.release()
        except (EOFError, OSError):
            raise self._server.explain(self._number) from None
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Converted)
        return answer


def _explain_start(error: OSError) -> CinicPackError:
    return CinicPackError(
        f"worker processes could not be started ({error}); run again, with fewer workers"
    )


def serve(descriptors: Sequence[int], scratches: Sequence[str]) -> None:
    """Be the server: fork a worker for each scratch file, and end with the caller.

    The first of ``descriptors`` is the server's connection to the caller. Over it come ``source``
    and ``read`` of `starting_workers`, then numbers of workers that have ended, each of which is
    answered by that worker's status. The other descriptors are the workers' connections.
    """
    # Ctrl-C is for the caller to handle, also where the system sends it to all processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load_kernels()
    # Freeze everything imported so far: a child's garbage collector would otherwise touch these
    # shared pages, and so copy them.
    gc.freeze()
    control, *theirs = descriptors
    with (
        Connection(control) as connection,
        # Either error means that the caller has gone.
        contextlib.suppress(EOFError, OSError),
    ):
        source, read = connection.recv()
        workers, failure = _fork_workers(control, theirs, source, read, scratches)
        try:
            while True:
                number = connection.recv()
                connection.send(_end(workers[number]) if number < len(workers) else failure)
        finally:
            for worker in workers:
                worker.kill()


def _fork_workers(
    control: int, theirs: Sequence[int], source: str, read: Read | None, scratches: Sequence[str]
) -> tuple[list[ForkProcess], OSError | None]:
    """Fork a worker for each of ``theirs`` and close that; say why where a fork failed."""
    fork = multiprocessing.get_context("fork")
    workers: list[ForkProcess] = []
    failure = None
    for number, (descriptor, scratch) in enumerate(zip(theirs, scratches, strict=True)):
        others = (control, *theirs[number + 1 :])
        arguments = (descriptor, others, source, read, scratch)
        worker = fork.Process(target=_work, args=arguments, daemon=True)
        try:
            worker.start()
        except OSError as error:
            failure = error
            break
        workers.append(worker)
        os.close(descriptor)
    for descriptor in theirs[len(workers) :]:
        os.close(descriptor)
    return workers, failure


def _end(worker: ForkProcess) -> int | None:
    """Return the status of a process that ends, or make it end."""
    worker.join(10)
    worker.kill()
    worker.join()
    return worker.exitcode


def _work(
    descriptor: int, others: Sequence[int], source: str, read: Read | None, scratch: str
) -> None:
    """Be a worker: answer the tasks that come over ``descriptor`` until it is closed.

    ``others`` are descriptors of the server and of other workers, which are closed here.
    """
    for other in others:
        os.close(other)
    with (
        Connection(descriptor) as connection,
        # Either error means that the caller has gone.
        contextlib.suppress(EOFError, OSError),
    ):
        try:
            converter = Converter(source, read, Path(scratch))
        except OSError as error:
            while True:
                connection.recv()
                connection.send(error)
        with converter as convert:
            while True:
                connection.send(_answer(convert, connection.recv()))


def _answer(convert: Worker, task: Task) -> Converted | Exception:
    try:
        return convert(task)
    except (CinicPackError, OSError, MemoryError) as error:
        return error
