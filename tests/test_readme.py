"""The README's code runs as it stands, on a small CINIC-10."""

import os
import re
import shlex
import socket
import subprocess
import sys
import tarfile
from importlib.util import find_spec
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
            if arguments[0] == "cifar10":
                # The small CINIC-10 has the first images only.
                arguments.append("--allow-missing")
            assert cli.main(arguments) == 0, capsys.readouterr().err
            ran.add(arguments[0])
    assert {"pack", "info", "verify", "bench", "unpack", "cifar10", "stats"} <= ran


# What libraries say that is no fault of the README's.
PRELUDE = """
import importlib.util, warnings
warnings.simplefilter("error")
for category in (FutureWarning, UserWarning):
    warnings.filterwarnings("ignore", category=category, module="(lightning|torch)[.].*")
if importlib.util.find_spec("lightning") and importlib.util.find_spec("torchvision"):
    # Lightning imports it.
    from tests.torchvision_here import import_torchvision
    import_torchvision()
"""


def test_the_python_runs(folder, tmp_path):
    """All of it as one program, in a process of its own: of those that import JAX none may fork."""
    if not (folder / "cinic10.pack").exists():
        with pytest.warns(UserWarning, match="like CINIC-10"):
            cinicpack.pack(folder / "CINIC-10.tar.gz", folder / "cinic10.pack", progress=False)
    code = blocks("python")
    imports = {
        name for block in code for name in re.findall(r"^(?:import|from) (\w+)", block, re.M)
    }
    assert {"cinicpack", "torch", "lightning", "jax"} <= imports
    absent = sorted(name for name in imports if find_spec(name) is None)
    runnable = [
        block
        for block in code
        if not any(re.search(rf"^(?:import|from) {name}\b", block, re.M) for name in absent)
    ]
    assert len(runnable) >= len(code) - 2
    program = tmp_path / "readme.py"
    program.write_text("\n".join([PRELUDE, *runnable]), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # As torchrun sets them.
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=folder,
        env={**os.environ, **ranks, "PYTHONPATH": str(README.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert (folder / "third.ckpt").exists() or "lightning" in absent
    if absent:
        pytest.skip(f"all of it ran but what needs {', '.join(absent)}")


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text("utf-8")):
        if not target.startswith("http"):
            assert (README.parent / target).exists(), target
