"""The code of the README and of the pages in docs/ runs as it stands, on a small CINIC-10."""

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tarfile
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

import cinicpack
from cinicpack import cli
from cinicpack.synthetic import write_tree

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}

# Commands that need the internet.
NOT_HERE = ("pip install", "cinicpack download")


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_no_code_is_overlooked():
    languages = {found for text in PAGES.values() for found in re.findall(r"```(\w+)", text)}
    assert languages == {"console", "python"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    write_tree(folder / "CINIC-10", 14)
    with tarfile.open(folder / "CINIC-10.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(folder / "CINIC-10", ".")
    for number, size in enumerate([(90, 60), (60, 90), (300, 200)]):
        path = folder / "photographs" / ("indoors", "outdoors")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (50 * number, 100, 0)).save(path)
    return folder


# pack() warns that the small CINIC-10 is not the whole.
@pytest.mark.filterwarnings("default::UserWarning")
def test_the_commands_run(folder, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the histogram needs matplotlib")
    monkeypatch.chdir(folder)
    ran = set()
    for line in "".join(blocks("console", "\n".join(PAGES.values()))).splitlines():
        assert line.startswith("$ "), line
        if not line[2:].startswith(NOT_HERE):
            program, *arguments = shlex.split(line[2:])
            assert program == "cinicpack"
            if arguments[0] == "cifar10":
                # The small CINIC-10 has only the first of CIFAR-10's images.
                arguments.append("--allow-missing")
            assert cli.main(arguments) == 0, capsys.readouterr().err
            ran.add(arguments[0])
    assert {"pack", "info", "verify", "bench", "unpack", "cifar10", "stats"} <= ran


def sections() -> dict[str, str]:
    """The Python under every heading, by page and heading."""
    found = {}
    for page, text in PAGES.items():
        parts = re.split(r"^##+ (.*)\n", text, flags=re.MULTILINE)
        for title, section in zip(parts[1::2], parts[2::2], strict=True):
            if code := "\n".join(blocks("python", section)):
                found[f"{page}: {title}"] = code
    return found


# The program that runs the sections of the pages: each alone, as if copied to a file, and then all
# as one. It has a process of its own, because a process that imported JAX must not fork. With more
# than one rank it starts a process group first, as docs/loading.md says, unless the section does.
PROGRAM = """
import importlib.util, json, os, pathlib, sys, warnings

from torch import distributed

warnings.simplefilter("error")
# Warnings of libraries about themselves are no fault of the pages.
for category in (FutureWarning, UserWarning):
    warnings.filterwarnings("ignore", category=category, module="(lightning|torch)[.].*")
if importlib.util.find_spec("lightning") and importlib.util.find_spec("torchvision"):
    # Lightning imports torchvision.
    from tests.torchvision_here import import_torchvision
    import_torchvision()

sections, ports = json.loads(pathlib.Path("program.json").read_text("utf-8"))

def run(titles, folder):
    os.chdir(folder)
    os.environ["MASTER_PORT"] = str(ports.pop())
    starts = "init_process_group(" in sections[titles[0]]
    if os.environ["WORLD_SIZE"] != "1" and not starts:
        distributed.init_process_group("gloo")
    names = {}
    for title in titles:
        print(f"{title}, after {titles[0]}", flush=True)
        exec(compile(sections[title], title, "exec"), names)
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
    os.chdir("..")

for title in sections:
    run([title], "alone")
run(list(sections), "together")
"""


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_python_runs(folder, tmp_path, world_size):
    if not (folder / "cinic10.pack").exists():
        with pytest.warns(UserWarning, match="like CINIC-10"):
            cinicpack.pack(folder / "CINIC-10.tar.gz", folder / "cinic10.pack", progress=False)
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cinic10.pack").symlink_to(folder / "cinic10.pack")
    imports = {
        title: set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
        for title, code in sections().items()
    }
    wanted = set.union(*imports.values())
    assert {"cinicpack", "torch", "lightning", "jax"} <= wanted
    absent = sorted(name for name in wanted if find_spec(name) is None)
    runnable = {
        title: code for title, code in sections().items() if imports[title].isdisjoint(absent)
    }
    assert len(runnable) >= len(imports) - 2
    if world_size > 1:
        # Each rank would have a trainer of its own, and remove the checkpoints of the other's:
        # a trainer of several ranks is made with devices=, as tests/test_lightning.py does. And
        # each would make the same packs.
        once = ("docs/loading.md: Lightning", "docs/packing.md: From arrays and datasets")
        assert set(once) <= set(imports)
        runnable = {title: code for title, code in runnable.items() if title not in once}
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(len(runnable) + 1)
        ]
        ports = [server.getsockname()[1] for server in servers]
    (tmp_path / "program.json").write_text(json.dumps([runnable, ports]), "utf-8")
    # The environment as torchrun sets it. A single process is not under torchrun: it is the one
    # rank of a group that it starts itself.
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    if world_size > 1:
        shared |= {"LOCAL_WORLD_SIZE": str(world_size), "TORCHELASTIC_RUN_ID": "none"}
    with contextlib.ExitStack() as stack:
        processes = []
        for rank in range(world_size):
            ranks = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            output = stack.enter_context(open(tmp_path / f"output {rank}", "wb"))
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                cwd=tmp_path,
                env={**os.environ, **ranks, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        end = time.monotonic() + 200
        # Stop at the first failure: the other ranks would wait for the failed one.
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            if any(process.poll() for process in processes):
                break
            time.sleep(0.1)
        statuses = [process.poll() for process in processes]
    shown = "".join((tmp_path / f"output {rank}").read_text("utf-8") for rank in range(world_size))
    assert statuses == [0] * world_size, shown
    assert (tmp_path / "together" / "third.ckpt").exists() or not any(
        "Lightning" in title for title in runnable
    )
    if absent:
        pytest.skip(f"all of it ran but what needs {', '.join(absent)}")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / path if path else ROOT / page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text("utf-8")), target
