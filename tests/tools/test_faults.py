import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fetch.server import CONTENT
from tools.faults.calls import compile_library, find_compiler
from tools.faults.matrix import PARTS, fill_page
from tools.faults.trial import take_snapshot

ROOT = Path(__file__).parents[2]

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or find_compiler() is None, reason="needs Linux and a C compiler"
)


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_compiler
def test_no_promise_is_broken(tmp_path):
    """In short; `python -m tools.faults` does all of it."""
    done = run("-m", "tools.faults", "--short", "--json", tmp_path / "faults.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "faults.json").read_text())["rows"]
    assert {row["part"] for row in rows} == PARTS.keys()
    assert sum(sum(row["outcomes"].values()) for row in rows) > 900
    assert not any(row["wrong"] for row in rows)


# Commands that do without what `cinicpack.store.publish` does: each breaks one promise.
CARELESS = """
import sys
from pathlib import Path
from tests.fetch.server import Server
from tools.faults.calls import FAULTS, Calls
from tools.faults.commands import Command
from tools.faults.trial import Place

def write_in_place():
    Path("made/a").write_bytes(b"new" * 100)
    return 0

def leave_litter():
    Path("made/.a").write_bytes(b"new")
    try:
        Path("made/.a").rename("made/a")
    except OSError:
        print("cinicpack: error: made/a: cannot be made", file=sys.stderr)
        return 1
    return 0

def write_to_source():
    Path("given/a").write_bytes(b"new")
    Path("made/a").touch()
    return 0

def hide_errors():
    try:
        Path("made/a").mkdir()
    except OSError:
        pass
    return 0

def make_or_say(text):
    try:
        Path("made/a").mkdir()
    except OSError:
        print(f"cinicpack: error: {text}", file=sys.stderr)
        return 1
    return 0

def name_nothing():
    return make_or_say("it cannot be done")

def name_scratch():
    return make_or_say("made/.a.tmp/scratch: it cannot be made")

root = Path(sys.argv[1])
calls = Calls(root / "calls", Path(sys.argv[2]))
for run in (
    write_in_place, leave_litter, write_to_source, hide_errors, name_nothing, name_scratch
):
    here = root / run.__name__
    (here / "given").mkdir(parents=True)
    place = Place(here, Command(run.__name__, run))
    for fault in FAULTS[:4]:
        for at in range(4):
            _, problems = place.try_fault(calls, fault, at)
            for problem in problems:
                print(f"{run.__name__}: {fault.text}: {problem}")
"""


@needs_compiler
def test_what_breaks_a_promise_is_found(tmp_path):
    library = compile_library(tmp_path)
    (tmp_path / "careless.py").write_text(CARELESS)
    done = run(tmp_path / "careless.py", tmp_path, library, LD_PRELOAD=str(library))
    assert done.returncode == 0, done.stderr
    for text in (
        "write_in_place: killed (SIGKILL), amid a write: neither as before nor whole",
        "write_in_place: interrupted (Ctrl-C): said Traceback",
        "name_nothing: disk full (ENOSPC) from there on: names no path",
        "name_scratch: this call fails (EIO): named /.a.tmp/scratch:, which is no file",
        "leave_litter: this call fails (EIO): .a is left there",
        "write_to_source: killed (SIGKILL), amid a write: what was given is changed",
        "hide_errors: this call fails (EIO): status 0, and it is as before",
    ):
        assert text in done.stdout, f"{text}\n{done.stdout}"


def test_all_processes_have_the_same_archive():
    """Otherwise none could download what the server of another has."""
    time_of_gzip = CONTENT[4:8]
    assert time_of_gzip == bytes(4)


def test_holes_are_not_read_into_memory(tmp_path):
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 40)
    before = take_snapshot(tmp_path)
    assert take_snapshot(tmp_path) == before
    os.truncate(tmp_path / "hole", 2 << 40)
    assert take_snapshot(tmp_path) != before


def test_the_page_of_faults_says_what_the_committed_results_say():
    report: dict[str, Any] = json.loads((ROOT / "benchmarks/results/faults.json").read_text())
    page = (ROOT / "docs" / "faults.md").read_text("utf-8")
    # Where they differ: python -m tools.faults --json benchmarks/results/faults.json
    assert fill_page(page, report) == page
    assert not any(row["wrong"] for row in report["rows"])
    with pytest.raises(SystemExit, match="expected the lines <!-- faults:"):
        fill_page("", report)
