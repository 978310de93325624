"""A trial: a command is run in a forked process, with a fault or without, and its end is judged."""

import hashlib
import os
import re
import shutil
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tools.faults.calls import Calls, Fault
from tools.faults.commands import Command

__all__ = ["Ending", "Place", "run_apart"]

#: The paths below a folder, each with its kind and a digest of its content, or where it leads.
#: Contents themselves would fill the memory of this process, and so make each fork take longer.
Snapshot = dict[str, tuple[int, bytes]]

_PATIENCE_SECONDS: Final = 60
#: What is larger is a hole, and compared by its size.
_READ_BYTES: Final = 1 << 30
# Lines that add to an error: a bad image, what was made nevertheless, what could not be removed,
# and the one warning of a CINIC-10 that is small.
_NOTE: Final = re.compile(
    r"^  \S|\bmade\b.* (was made|stays)\b|^cinicpack: warning: .*like CINIC-10"
)


class Ending(NamedTuple):
    """How a process ended: its status, minus the signal if one killed it, and what it said."""

    status: int
    output: str
    errors: str

    @property
    def lines(self) -> list[str]:
        """The lines of its standard error, but for notes."""
        return [line for line in self.errors.splitlines() if not _NOTE.search(line)]

    def find_problem(self) -> str | None:
        """Say what no process should have said, or that it hung."""
        if self.status == -signal.SIGALRM:
            return f"did not end within {_PATIENCE_SECONDS} s"
        if found := re.search(
            r"Traceback|Exception ignored|^\S*(Error|Warning):", self.errors, re.M
        ):
            return f"said {found[0]}: {self.errors[-300:]}"
        if found := re.search(r"/\.[^/\s]+\.tmp/\S+", "\n".join(self.lines)):
            return f"named {found[0]}, which is no file of the user's: {self.errors[-300:]}"
        return None

    def find_problem_of_error(self) -> str | None:
        """Say what is wrong with the end of a command that failed: one error names a path."""
        lines = self.lines
        if self.status != 1:
            return f"status {self.status}: {self.errors[-300:]}"
        if len(lines) != 1 or not lines[0].startswith("cinicpack: error: "):
            return f"expected one line, found: {self.errors}"
        if not re.search(r"\b(given|made)\b|/dev/|worker process", lines[0]):
            return f"names no path: {self.errors}"
        return None


def run_apart(run: Callable[[], int], folder: Path) -> Ending:
    """Run a command in a forked process, in ``folder`` as its working directory."""
    said = [folder.with_name(f"{folder.name}.{number}") for number in (1, 2)]
    child = os.fork()
    if not child:
        status = 70
        try:
            os.chdir(folder)
            for descriptor, file in enumerate(said, start=1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)
            # Else Ctrl-C would be ignored where this runs in a shell's background.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_PATIENCE_SECONDS)
            status = run()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ending(status, *(file.read_text(errors="replace") for file in said))


def take_snapshot(folder: Path) -> Snapshot:
    found: Snapshot = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        content = b""
        if stat.S_ISLNK(status.st_mode):
            content = os.fsencode(os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            # A hole of a terabyte has no room in memory.
            huge = status.st_size > _READ_BYTES
            content = b"%d bytes" % status.st_size if huge else path.read_bytes()
            content = hashlib.blake2b(content, digest_size=16).digest()
        found[path.relative_to(folder).as_posix()] = stat.S_IFMT(status.st_mode), content
    return found


def take_stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    """Note what tells whether anything in a folder was changed."""
    stamps: dict[str, tuple[int, ...]] = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        stamps[str(path)] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)
    return stamps


class Place:
    """A folder with ``given``, which has to stay as it is, and ``made``.

    Args:
        root: the folder; it has ``given`` already.
        command: what makes something there.
    """

    def __init__(self, root: Path, command: Command) -> None:
        self.root, self.given, self.made = root, root / "given", root / "made"
        self.command = command
        self._stamps = take_stamps(self.given)
        #: The snapshots that a further run has made whole.
        self._mended: list[Snapshot] = []
        self.prepare()
        self.before = take_snapshot(self.made)
        ending = run_apart(command.run, root)
        if ending.status:
            raise RuntimeError(f"{command.text}: ended with {ending}")
        self.after = take_snapshot(self.made)

    def prepare(self) -> None:
        """Make ``made`` anew, as it is before the command."""
        shutil.rmtree(self.made, ignore_errors=True)
        self.made.mkdir()
        self.command.fill(self.given, self.made)

    def try_fault(self, calls: Calls, fault: Fault, at: int) -> tuple[str, list[str]]:
        """Run the command with a fault at one of its calls; return outcome and problems."""
        self.prepare()
        calls.arm(self.root, fault, at)
        ending = run_apart(self.command.run, self.root)
        calls.disarm()
        found = take_snapshot(self.made)
        outcome, problems = self._judge(fault, ending, found)
        problems += self._run_again(found)
        if take_stamps(self.given) != self._stamps:
            problems.append("what was given is changed")
        return outcome, problems

    def _judge(self, fault: Fault, ending: Ending, found: Snapshot) -> tuple[str, list[str]]:
        outcome, problems = self._judge_made(fault, ending, found)
        if fault.kills and ending.status == -signal.SIGKILL:
            return outcome, problems
        if problem := ending.find_problem():
            problems.append(problem)
        if ending.status == 0:
            if outcome != "whole":
                problems.append(f"status 0, and it is {outcome}")
            return f"{outcome}, with a warning" if ending.errors else outcome, problems
        if fault.interrupts and ending.status == 130:
            if ending.lines != ["cinicpack: interrupted"]:
                problems.append(f"expected one line, found: {ending.errors}")
        elif problem := ending.find_problem_of_error():
            problems.append(problem)
        return outcome, problems

    def _judge_made(self, fault: Fault, ending: Ending, found: Snapshot) -> tuple[str, list[str]]:
        """Tell what is at the destination, and whether anything is beside it."""
        problems = []
        may_litter = fault.kills or fault.lasts
        known = {**self.before, **self.after}
        litter = {name.split("/")[0] for name in found} - {name.split("/")[0] for name in known}
        litter -= {*self.command.kept}
        left = {
            name: value
            for name, value in found.items()
            if name.split("/")[0] not in litter | {*self.command.kept}
        }
        for name in sorted(litter):
            ours = re.fullmatch(r"\..*\.tmp", name)
            if not ours or not (may_litter or name in ending.errors):
                problems.append(f"{name} is left there")
        kept = {name: value for name, value in self.before.items() if name in self.command.kept}
        for outcome, expected in (("whole", self.after), ("as before", self.before)):
            if left == {name: value for name, value in expected.items() if name not in kept}:
                return outcome, problems
        return "neither", [*problems, f"neither as before nor whole: {_compare(left, self.after)}"]

    def _run_again(self, found: Snapshot) -> list[str]:
        """Run the command once more, without a fault: then all is there, and nothing else."""
        if found == self.after or found == self.before or found in self._mended:
            return []
        ending = run_apart(self.command.run, self.root)
        made = take_snapshot(self.made)
        if made != self.after:
            return [f"after a further run ({ending}): {_compare(made, self.after)}"]
        if (problem := ending.find_problem()) or ending.status not in (0, 1):
            return [f"a further run: {problem or ending}"]
        self._mended.append(found)
        return []


def _compare(found: Snapshot, expected: Snapshot) -> str:
    lacks = sorted(expected.keys() - found.keys())[:3]
    has = sorted(found.keys() - expected.keys())[:3]
    differ = [
        name for name in sorted(found.keys() & expected.keys()) if found[name] != expected[name]
    ]
    return f"lacks {lacks}, has {has}, differs in {differ[:3]}"
