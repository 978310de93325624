import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core.caching import FunctionCache

from cinicpack import jit as jit_module
from cinicpack.errors import CinicPackError
from cinicpack.jit import jit
from tests.limits import file_size_limit

SOURCE = """
from cinicpack.jit import jit

@jit
def scale(x):
    return x * {}
"""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a module with a kernel, as a program does that is started anew."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "kernel.py"

    def load(factor: int) -> Any:
        path.write_text(SOURCE.format(factor))
        spec = importlib.util.spec_from_file_location("kernel", path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.scale

    return load


def cache_hits(kernel: Any) -> int:
    return sum(kernel.stats.cache_hits.values())


def test_a_kernel_is_compiled_once_and_then_loaded(load):
    first = load(2)
    assert first(21) == 42
    assert cache_hits(first) == 0
    second = load(2)
    assert second(21) == 42
    assert cache_hits(second) == 1


def test_compiling_is_announced_once_and_loading_is_not(load, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(jit_module, "_is_announced", False)
    load(2)(21)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "another cache"))
    other = load(2)
    other(21)
    other(2.5)
    [record] = caplog.records
    start = "cinicpack is compiling its kernels, which takes up to half a minute, once; the first "
    assert record.getMessage().startswith(f"{start}is kept in {tmp_path / 'cache'}")


INLINED = """
from numba.extending import register_jitable

@register_jitable
def add(x):
    return x + {}
"""
INLINING = """
import inlined
from cinicpack.jit import jit

@jit(inlines=(inlined,))
def scale(x):
    return inlined.add(x) * {}
"""


def test_a_kernel_is_compiled_anew_when_a_module_that_it_inlines_changes(
    load, tmp_path, monkeypatch
):
    monkeypatch.setattr(f"{__name__}.SOURCE", INLINING)
    monkeypatch.syspath_prepend(tmp_path)
    for number, hits in ((1, 0), (1, 1), (1000, 0), (1000, 1)):
        if not hits:
            (tmp_path / "inlined.py").write_text(INLINED.format(number))
        monkeypatch.delitem(sys.modules, "inlined", raising=False)
        kernel = load(2)
        assert kernel(20) == 2 * (20 + number)
        assert cache_hits(kernel) == hits
    monkeypatch.delitem(sys.modules, "inlined")


def test_numba_has_the_private_parts_that_are_used():
    """If not, look at `_OptionalCache` and what it overrides in numba's `caching.Cache`."""
    assert jit_module._has_known_numba()


@pytest.fixture
def numba_of_another_kind(monkeypatch):
    """Numba whose cache has a method with another argument."""
    index_key = FunctionCache._index_key

    def other(self, overload, codegen):
        return index_key(self, overload, codegen)

    monkeypatch.setattr(FunctionCache, "_index_key", other)
    jit_module._has_known_numba.cache_clear()
    yield
    jit_module._has_known_numba.cache_clear()


def test_with_another_numba_its_own_cache_is_used(load, numba_of_another_kind, caplog):
    first = load(2)
    assert type(first._cache) is FunctionCache
    assert first(21) == 42
    second = load(2)
    assert second(21) == 42
    assert cache_hits(second) == 1
    [record] = caplog.records
    assert f"numba {numba.__version__} from inside" in record.getMessage()


def test_with_another_numba_no_directory_is_fit_for_a_cache(
    load, tmp_path, monkeypatch, numba_of_another_kind
):
    forbid_caches(tmp_path, monkeypatch)
    assert load(2)(21) == 42


def test_a_numba_that_does_not_compile_is_refused(load, monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    with pytest.raises(CinicPackError, match="found NUMBA_DISABLE_JIT set: unset it"):
        load(2)


@pytest.mark.parametrize(
    ("command", "status"), [("pack {tree} {new}", 1), ("info {pack}", 0), ("audit {pack}", 1)]
)
def test_commands_say_in_a_line_that_numba_does_not_compile(
    tree, npy_pack, tmp_path, command, status
):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cinicpack"),
            *command.format(tree=tree, pack=npy_pack, new=tmp_path / "a").split(),
        ],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert [line[:38] for line in done.stderr.splitlines()] == (
        ["cinicpack: error: expected numba to co"] * status
    )


def test_kernels_call_kernels():
    @jit
    def inner(x: int) -> int:
        return x + 1

    @jit
    def outer(x: int) -> int:
        return inner(x) * 2

    assert outer(20) == 42


def test_division_by_zero_is_as_in_numpy():
    @jit
    def divide(x: float, y: float) -> float:
        return x / y

    assert divide(1.0, 0.0) == float("inf")


def forbid_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("cache", "home", "__pycache__"):
        (tmp_path / name).write_bytes(b"a file where a directory should be")


def test_no_directory_is_fit_for_a_cache(load, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(jit_module, "_is_announced", False)
    forbid_caches(tmp_path, monkeypatch)
    assert load(2)(21) == 42
    assert load(2)(21) == 42
    [record] = caplog.records
    assert "set NUMBA_CACHE_DIR" in record.getMessage()


def test_the_directory_turns_unfit_after_import(load, tmp_path):
    kernel = load(2)
    (tmp_path / "cache").rename(tmp_path / "gone")
    (tmp_path / "cache").write_bytes(b"a file where a directory should be")
    assert kernel(21) == 42


def test_a_full_disk_leaves_no_trace_of_an_older_source(load):
    assert load(2)(21) == 42
    newer = load(3)
    with file_size_limit(2048):  # the index fits, the code does not
        assert newer(21) == 63
    assert load(3)(21) == 63


@pytest.mark.parametrize("content", [b"", b"\x80\x04"], ids=["empty", "cut"])
@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_a_damaged_cache_is_repaired(load, tmp_path, suffix, content):
    assert load(2)(21) == 42
    [damaged] = (tmp_path / "cache").rglob(f"*.{suffix}")
    damaged.write_bytes(content)
    assert load(2)(21) == 42
    assert load(2)(21) == 42
    repaired = load(2)
    assert repaired(21) == 42
    assert cache_hits(repaired) == 1
