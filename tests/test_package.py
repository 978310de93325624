import ast
import importlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cinicpack
from tests.torchvision_here import import_torchvision

ROOT = Path(cinicpack.__file__).parent
SOURCES = {
    file.relative_to(ROOT).with_suffix("").as_posix(): ast.parse(file.read_text(), str(file))
    for file in sorted(ROOT.rglob("*.py"))
}
FACTS = {
    "arguments",
    "cells",
    "cinic10",
    "cores",
    "errors",
    "interrupts",
    "jit",
    "paths",
    "shortage",
    "terminal",
    "text",
}
# What each room may import from, besides itself.
GRAPH = {
    **dict.fromkeys(FACTS, FACTS),
    "formats": FACTS,
    "store": FACTS,
    "convert": FACTS | {"formats", "store"},
    "load": FACTS | {"store"},
    "fetch": FACTS | {"formats", "store", "convert"},
    "study": FACTS | {"formats", "store", "convert", "load"},
    "datasets": FACTS | {"store", "load", "fetch"},
    "lightning": FACTS | {"store", "load"},
    "synthetic": FACTS,
    "limit": FACTS | {"load"},
    "bench": FACTS | {"store", "convert", "load", "limit", "synthetic"},
    "demo": FACTS | {"store", "convert", "load", "synthetic", "bench"},
}
# These show everything, and import it when it is used.
DOORS = ("__init__", "__main__", *(name for name in SOURCES if name.startswith("cli/")))


def imports_of(module: ast.Module) -> Iterator[str]:
    """Iterate over the modules of this package that a module imports, wherever in it."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cinicpack":
            # A public name counts as an import of the module that defines it.
            shown = getattr(cinicpack, node.attr)
            yield getattr(shown, "__module__", f"cinicpack.{node.attr}")


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in DOORS])
def test_imports_go_one_way(name):
    room = name.split("/")[0]
    for imported in imports_of(SOURCES[name]):
        package, _, module = imported.partition(".")
        if package == "cinicpack" and not module.startswith("__") and module:
            assert module.split(".")[0] in GRAPH[room] | {room}, f"{name} imports {imported}"


def test_no_module_imports_itself_through_others():
    graph = {
        name: {
            found
            for found in map(find_module, imports_of(without_types(module)))
            if found != "__init__"
        }
        for name, module in SOURCES.items()
    }
    list(TopologicalSorter(graph).static_order())


def without_types(module: ast.Module) -> ast.Module:
    """Leave out ``if TYPE_CHECKING:``, which no program runs: a split and its pack name each other.

    What rooms may import from each other holds for types too.
    """
    body = [
        node
        for node in module.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.Module(body, [])


def find_module(imported: str) -> str:
    """Find the module of this package that has what is imported; ``__init__`` for any other."""
    package, *parts = imported.split(".")
    for end in range(len(parts) if package == "cinicpack" else 0, 0, -1):
        name = "/".join(parts[:end])
        for module in (name, f"{name}/__init__"):
            if module in SOURCES:
                return module
    return "__init__"


@pytest.mark.parametrize("name", SOURCES)
def test_no_file_over_350_and_no_function_over_60(name):
    lines = (ROOT / f"{name}.py").read_text().count("\n")
    assert lines <= 350
    long = {
        node.name: length
        for node in ast.walk(SOURCES[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > 60
    }
    assert not long


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"fetch/download"}))
def test_every_example_runs(name):
    skipped = (ROOT / f"{name}.py").read_text().count("+SKIP")
    assert skipped == 0


ARCHITECTURE = ROOT.parent / "ARCHITECTURE.md"


@pytest.mark.skipif(not ARCHITECTURE.is_file(), reason="needs the project's source")
def test_the_table_of_rooms_names_files_that_are_there():
    rooms = re.findall(
        r"^\| (?:`(\w+)/`|facts|the rest) \| (.*) \|$", ARCHITECTURE.read_text(), re.M
    )
    assert len(rooms) == 9
    for room, text in rooms:
        for name in re.findall(r"`(\w+)/?`", text):
            assert {f"{room}/{name}".strip("/"), f"{room}/{name}/__init__"} & SOURCES.keys(), name


@pytest.mark.parametrize("name", SOURCES)
def test_every_module_starts_with_a_sentence(name):
    docstring = ast.get_docstring(SOURCES[name]) or ""
    sentence = docstring.split("\n\n")[0].replace("\n", " ")
    assert sentence.endswith((".", ":")), name
    assert sentence[0].isupper()


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.endswith("__init__")])
def test_every_all_is_sorted_and_complete(name):
    tree = SOURCES[name]
    [exported] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert exported == _sorted(exported)
    assert len(set(exported)) == len(exported)
    defined = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {ast.unparse(target) for target in targets}
    assert set(exported) <= defined


def _sorted(names: list[str]) -> list[str]:
    """Sort as ruff does: constants, classes, then the rest."""
    return sorted(names, key=lambda n: (0 if n.isupper() else 1 if n[0].isupper() else 2, n))


def test_the_public_names_are_there():
    assert cinicpack.__all__ == _sorted(cinicpack.__all__)
    assert dir(cinicpack) == sorted(cinicpack.__all__)
    for name in cinicpack.__all__:
        assert getattr(cinicpack, name) is not None
        assert getattr(cinicpack, name) is getattr(cinicpack, name)
    with pytest.raises(AttributeError, match=r"module 'cinicpack' has no attribute 'nope'"):
        cinicpack.nope  # noqa: B018


@pytest.mark.parametrize("name", SOURCES)
def test_every_module_can_be_imported(name):
    if name == "lightning":
        # Lightning imports torchvision where that is installed.
        import_torchvision()
    try:
        importlib.import_module(f"cinicpack.{name}".replace("/", ".").removesuffix(".__init__"))
    except ModuleNotFoundError as error:
        if error.name not in ("triton", "lightning"):
            raise
        pytest.skip(f"needs {error.name}, which is not installed")


HEAVY = ("torch", "numba", "h5py", "PIL", "tqdm", "deflate", "zlib_ng", "pyarrow")
RUN = "from cinicpack.cli import main; status = main(ARGUMENTS)"
OPEN = "import cinicpack; pack = cinicpack.open_pack(PACK)"


@pytest.mark.parametrize(
    "code",
    [
        "import cinicpack; dir(cinicpack), cinicpack.cinic10.MEAN, cinicpack.PackError",
        f"{OPEN}; pack['train'].select(classes='cat').images[0]",
        "import cinicpack.cli",
        f"ARGUMENTS = ['info', PACK]; {RUN}",
        f"ARGUMENTS = ['info', '--json', PACK]; {RUN}",
        f"ARGUMENTS = ['verify', PACK]; {RUN}",
        f"ARGUMENTS = ['--help']; {RUN}",
        f"ARGUMENTS = ['pack', '--help']; {RUN}",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(npy_pack, code):
    # List modules at the exit of the process: --help ends it before a line after it could run.
    listing = f"atexit.register(lambda: print(*[x for x in {HEAVY!r} if x in sys.modules]))"
    program = f"import atexit, sys; PACK = {str(npy_pack)!r}; {listing}; {code}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == ""


def test_the_version_is_that_of_the_project():
    assert importlib.metadata.version("cinicpack") == cinicpack.__version__


def test_the_package_is_typed():
    assert (ROOT / "py.typed").is_file()


def test_the_wheel_has_the_package_and_its_types(tmp_path):
    # The installed backend builds the wheel: an isolated build would download the backend anew.
    pytest.importorskip("hatchling.build", reason="needs hatchling")
    # Build from a copy: the backend would walk everything else that lies in the folder.
    if not (ROOT.parent / "pyproject.toml").is_file():
        pytest.skip("needs the project's source")
    project = tmp_path / "project"
    shutil.copytree(ROOT, project / "cinicpack", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT.parent / name, project)
    program = "from hatchling.build import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", program], cwd=project, check=True)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name == f"cinicpack-{cinicpack.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"cinicpack/{name}.py" for name in SOURCES} <= names
    assert "cinicpack/py.typed" in names
    assert not [name for name in names if not name.startswith(("cinicpack/", "cinicpack-"))]


@pytest.mark.skipif(not (ROOT.parent / "tests").is_dir(), reason="needs the project's source")
def test_no_file_but_one_names_what_lies_outside_of_the_clone():
    for room in ("cinicpack", "tests", "benchmarks", "tools", "examples"):
        for file in (ROOT.parent / room).rglob("*.py"):
            place = file.relative_to(ROOT.parent)
            above = [int(level) for level in re.findall(r"parents\[(\d+)\]", file.read_text())]
            if place.as_posix() != "tests/outside.py":
                assert max(above, default=0) < len(place.parts), place


LOADING = """
import sys

for name in ("deflate", "zlib_ng", "h5py", "PIL", "tqdm", "matplotlib"):
    sys.modules[name] = None
import cinicpack

loader = cinicpack.Loader(sys.argv[1], augment=cinicpack.Augment())
print(sum(len(labels) for _, labels in loader))
"""


def test_loading_needs_nothing_that_only_packing_needs(npy_pack):
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(npy_pack)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "12\n"), done.stderr
