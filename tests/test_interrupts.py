import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from textwrap import dedent

import pytest

from cinicpack.interrupts import holding_interrupts


def raise_and(act: Callable[[str], None]) -> None:
    signal.raise_signal(signal.SIGINT)
    act("all")


def test_an_interrupt_takes_effect_at_the_end():
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), holding_interrupts():
        raise_and(done.append)
    assert done == ["all"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_is_told_with_the_interrupt():
    def fail() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ImportError("no such module")

    with pytest.raises(KeyboardInterrupt) as raised, holding_interrupts():
        fail()
    assert isinstance(raised.value.__context__, ImportError)


def test_the_programs_own_handler_is_called(monkeypatch):
    came = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        with holding_interrupts():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert came == []
        assert came == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_need_not_hold_them():
    done = []

    def work() -> None:
        with holding_interrupts():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]


# Interrupts the program at the end of a module, which then counts as not imported.
PROGRAM = """
    import signal, sys
    from importlib.machinery import PathFinder

    class Finder:
        def find_spec(self, name, path, target=None):
            if name != sys.argv[1]:
                return None
            sys.meta_path.remove(self)
            spec = PathFinder.find_spec(name, path)
            run = spec.loader.exec_module
            def run_and_interrupt(module):
                run(module)
                signal.raise_signal(signal.SIGINT)
            spec.loader.exec_module = run_and_interrupt
            return spec

    sys.meta_path.insert(0, Finder())
    import cinicpack
    caught = 0
    try:
        loader = cinicpack.Loader(sys.argv[2], "train", batch_size=12)
        assert set(sys.argv[3:]) <= {*sys.modules}, "the first batch would import it"
        next(iter(loader))
    except KeyboardInterrupt:
        caught += 1
    [[images, _]] = cinicpack.Loader(sys.argv[2], "train", batch_size=12)
    assert images.isfinite().all()
    print("interrupts:", caught)
"""


@pytest.mark.parametrize("module", ["torch._torch_docs", "numba.np.arrayobj"])
def test_an_interrupt_amid_an_import_leaves_a_process_that_can_go_on(npy_pack, module):
    command = [sys.executable, "-c", dedent(PROGRAM), module, npy_pack, "torch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "interrupts: 1\n"
