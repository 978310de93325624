import ast
import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cinicpack
from cinicpack import terminal
from cinicpack.cli import main
from cinicpack.errors import DestinationError
from cinicpack.study.unpack import unpack

ROOT = Path(cinicpack.__file__).parent
# A name that clears the screen, rings, turns text round, and has controls of 8 bits and a blank
# that is none.
EVIL = "\x1b[2J\a\u202egnp\x9b31m\x7f\r"
SHOWN = r"\x1b[2J\x07\u202egnp\x9b31m\x7f\r"


@settings(max_examples=30)
@given(st.text())
def test_what_is_printed_is_printable_and_means_the_same(text):
    shown = terminal.printable(text)
    assert shown.replace("\n", "").isprintable()
    assert terminal.printable(shown) == shown
    if text.isprintable():
        assert shown == text
    if "\\" not in text:
        lines = [
            ast.literal_eval(f'"""{line}"""') for line in shown.replace('"', r"\"").split("\n")
        ]
        assert "\n".join(lines) == text


def test_only_the_terminal_prints():
    for file in ROOT.rglob("*.py"):
        calls = re.findall(r"(?<![\w.>] )\b(?:print|tqdm\.write|tqdm)\(", file.read_text())
        assert not calls or file.name == "terminal.py", file


@pytest.mark.parametrize("code", ["show", "tell"])
def test_nothing_breaks_without_a_stream(monkeypatch, capsys, code):
    for stream in (None, io.StringIO()):
        if stream is not None:
            stream.close()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        getattr(terminal, code)("text")
        terminal.say("text", progress=True)
        terminal.flush()
        with terminal.progress_bar(shown=True, total=3) as bar:
            bar.update(3)


class Full(io.StringIO):
    """A stream to a full disk."""

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_named_on_output_and_suffered_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Full())
    terminal.tell("text")
    terminal.say("text", progress=True)
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(DestinationError, match="standard output: it cannot be written: No space"):
        terminal.show("text")


@pytest.fixture
def evil(tree, tmp_path):
    """A tree and its pack whose path, class and file names are evil."""
    source = tmp_path / EVIL
    for split in ("train", "test"):
        for name in ("airplane", f"={EVIL}"):
            folder = source / split / name
            folder.mkdir(parents=True)
            for number, file in enumerate((tree / "train" / "cat").iterdir()):
                (folder / f"{number}{EVIL}.png").write_bytes(file.read_bytes())
            (folder / file.name).write_bytes(file.read_bytes())
        (source / split / "airplane" / f"@{EVIL}.png").write_bytes(b"")
    pack = tmp_path / f"{EVIL}.pack"
    with pytest.warns(UserWarning, match="2 images that cannot be packed are left out"):
        cinicpack.pack(source, pack, progress=False, skip_bad=True)
    return source, pack


@pytest.mark.filterwarnings("default")
def test_control_characters_never_reach_the_terminal(evil, tmp_path, capsys):
    source, pack = map(str, evil)
    other = tmp_path / f"{EVIL}.npy"
    for command in (
        ["pack", source, str(tmp_path / f"a{EVIL}")],
        ["pack", source, str(tmp_path / f"a{EVIL}"), "--skip-bad"],
        ["info", pack],
        ["info", str(other)],
        ["verify", pack],
        ["stats", pack, "--by", "class"],
        ["contributors", pack],
        ["audit", pack],
        ["audit", pack, "--against", pack],
        ["audit", pack, "-o", str(other)],
        ["sheet", pack, "-o", str(tmp_path / f"{EVIL}.png"), "--class", f"={EVIL}"],
        ["sheet", pack, "-o", str(tmp_path / "a.png"), "--class", EVIL],
        ["unpack", pack, str(tmp_path / f"b{EVIL}")],
        ["cifar10", pack, str(tmp_path / f"c{EVIL}")],
        ["shift", pack, str(other)],
    ):
        main(command)
        out, errors = capsys.readouterr()
        assert (out + errors).replace("\n", "").isprintable(), command
        assert SHOWN in out + errors, command


@pytest.mark.parametrize("command", [[EVIL], ["info", "a", EVIL], ["pack", "a", "b", f"--{EVIL}"]])
def test_wrong_usage_is_not_repeated_as_it_is(command, capsys):
    with pytest.raises(SystemExit):
        main(command)
    errors = capsys.readouterr().err
    assert errors.replace("\n", "").isprintable()
    assert SHOWN in errors


def test_json_stays_json(evil, capsys):
    assert main(["info", "--json", str(evil[1])]) == 0
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert json.loads(out)["path"] == str(evil[1])


PACK = (sys.executable, "-m", "cinicpack", "pack")


@pytest.mark.parametrize(
    ("closed", "workers"), [((1,), "0"), ((2,), "0"), ((0, 1, 2), "0"), ((0, 1, 2), "2")]
)
def test_a_pack_is_made_with_closed_streams(tree, npy_pack, tmp_path, closed, workers):
    def close() -> None:
        for number in closed:
            os.close(number)

    command = [*PACK, tree, tmp_path / "a", "--workers", workers]
    done = subprocess.run(command, capture_output=True, preexec_fn=close, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"packed 36 images") == (1 not in closed)
    assert cinicpack.open_pack(tmp_path / "a").fingerprint == (
        cinicpack.open_pack(npy_pack).fingerprint
    )


def test_an_error_with_closed_streams_is_a_status():
    command = [sys.executable, "-m", "cinicpack", "info", "nothing"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2), check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")


def test_packing_and_unpacking_need_no_standard_error(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    cinicpack.pack(tree, tmp_path / "a")
    assert sum(unpack(tmp_path / "a", tmp_path / "b").values()) == 36


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_on_a_full_disk_is_one_error(npy_pack, unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cinicpack", "info", npy_pack],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        b"cinicpack: error: [Errno 28] standard output: it cannot be written: No space left on "
        b"device\n"
    )
