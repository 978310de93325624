"""The README's code runs as it stands, on a small CINIC-10."""

import re
import shlex
import tarfile
from pathlib import Path

import pytest

import cinicpack
from cinicpack import cli
from cinicpack.synthetic import write_tree

README = Path(__file__).parent.parent / "README.md"

# What needs the internet, or files of many gigabytes.
NOT_HERE = ("pip install", "cinicpack download")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    write_tree(folder / "CINIC-10", 14)
    with tarfile.open(folder / "CINIC-10.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(folder / "CINIC-10", ".")
    return folder


@pytest.mark.filterwarnings("default::UserWarning")  # that it is not the whole of CINIC-10
def test_the_commands_run(folder, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the histogram needs matplotlib")
    monkeypatch.chdir(folder)
    ran = set()
    for line in "".join(blocks("console")).splitlines():
        assert line.startswith("$ "), line
        if not line[2:].startswith(NOT_HERE):
            program, *arguments = shlex.split(line[2:])
            assert program == "cinicpack"
            assert cli.main(arguments) == 0, capsys.readouterr().err
            ran.add(arguments[0])
    assert {"pack", "info", "verify", "bench", "unpack", "cifar10", "stats"} <= ran


def test_the_python_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    if not Path("cinic10.pack").exists():
        with pytest.warns(UserWarning, match="like CINIC-10"):
            cinicpack.pack("CINIC-10.tar.gz", "cinic10.pack", progress=False)
    scope: dict[str, object] = {}
    code = blocks("python")
    assert len(code) >= 3
    for block in code:
        exec(compile(block, str(README), "exec"), scope)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text("utf-8")):
        if not target.startswith("http"):
            assert (README.parent / target).exists(), target
