"""Calls of the C library, counted below one folder, of which one is made to fail.

`calls.c` is loaded into processes before the C library and does what a shared file says. Only what
goes through the C library is seen, so neither writes to mapped memory nor those that the C library
makes for itself.
"""

import ctypes
import errno
import mmap
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["FAULTS", "Call", "Calls", "Fault", "compile_library", "find_compiler"]

_SOURCE: Final = Path(__file__).with_name("calls.c")
#: The variable that tells a new process where the shared file is.
_VARIABLE: Final = "FAULTS_CALLS"
_NEVER: Final = 2**31 - 1

# What calls.c calls these.
_READS, _WRITES = 1, 2
_COUNT, _KILL, _INTERRUPT, _FAIL = range(4)
_ONCE, _WHAT_GROWS_LATER, _ALL_LATER = range(3)
_NOTED = 4096


class Fault(NamedTuple):
    """What happens at a call.

    Attributes:
        text: what a table calls it.
        sides: whether it happens where files are read or written.
        action: the process is killed or interrupted, or the call fails.
        error: with this number.
        lasting: which later calls fail too: none, those that need room, or all.
    """

    text: str
    sides: int
    action: int
    error: int = 0
    lasting: int = _ONCE

    @property
    def kills(self) -> bool:
        """Whether the process has no chance to clear up."""
        return self.action == _KILL

    @property
    def interrupts(self) -> bool:
        """Whether it is Ctrl-C."""
        return self.action == _INTERRUPT

    @property
    def lasts(self) -> bool:
        """Whether nothing can be cleared up either."""
        return self.lasting == _ALL_LATER


FAULTS: Final = (
    Fault("killed (SIGKILL), amid a write", _WRITES, _KILL),
    Fault("interrupted (Ctrl-C)", _WRITES, _INTERRUPT),
    Fault("disk full (ENOSPC) from there on", _WRITES, _FAIL, errno.ENOSPC, _WHAT_GROWS_LATER),
    Fault("this call fails (EIO)", _WRITES, _FAIL, errno.EIO),
    Fault("all calls fail from there on (EIO)", _WRITES, _FAIL, errno.EIO, _ALL_LATER),
    Fault("reading fails once (EIO)", _READS, _FAIL, errno.EIO),
)


class Call(NamedTuple):
    """A call that was counted: its name, and the file within the folder."""

    name: str
    path: str


class _Noted(ctypes.Structure):
    _fields_ = (("call", ctypes.c_char * 16), ("path", ctypes.c_char * 240))


class _Plan(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("count", "at", "action", "error", "lasting", "sides")),
        ("root", ctypes.c_char * 240),
        ("noted", _Noted * _NOTED),
    )


class Calls:
    """What is to happen at which call, of this process and of all that it starts or forks.

    Args:
        file: a new file, through which the processes share it.
        library: the compiled ``calls.c``, which this process was started with.
    """

    def __init__(self, file: Path, library: Path) -> None:
        file.write_bytes(bytes(ctypes.sizeof(_Plan)))
        with file.open("r+b") as stream:
            self._plan: Any = _Plan.from_buffer(mmap.mmap(stream.fileno(), 0))
        os.environ[_VARIABLE] = str(file)
        ctypes.CDLL(str(library)).faults_follow(os.fsencode(file))

    def arm(self, root: Path, fault: Fault, at: int | None = None) -> None:
        """Count the calls below a folder from now on; let one have the fault, or none."""
        plan = self._plan
        plan.root = b""
        plan.count, plan.at = 0, _NEVER if at is None else at
        plan.action = _COUNT if at is None else fault.action
        plan.error, plan.lasting, plan.sides = fault.error, fault.lasting, fault.sides
        plan.root = os.fsencode(root) + b"/"

    def disarm(self) -> list[Call]:
        """Count no more; return the calls that there were."""
        plan = self._plan
        plan.root = b""
        if plan.count > _NOTED:
            raise OverflowError(f"expected {_NOTED} calls at most, found {plan.count}")
        return [
            Call(noted.call.decode(), os.fsdecode(noted.path)) for noted in plan.noted[: plan.count]
        ]


def find_compiler() -> str | None:
    """Find a C compiler; None where there is none."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def compile_library(folder: Path) -> Path:
    """Compile ``calls.c`` into a folder."""
    compiler = find_compiler()
    if compiler is None:
        raise SystemExit("expected a C compiler (cc, gcc or clang), found none; install one")
    library = folder / "calls.so"
    options = ["-O2", "-Wall", "-Wextra", "-Werror", "-U_FORTIFY_SOURCE", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, "-o", library, _SOURCE, "-ldl"], check=True)
    return library
