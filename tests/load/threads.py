"""The engine's threads, as tests look at them."""

import threading
import time
from pathlib import Path

__all__ = ["count_switches", "threads", "time_on_cores", "wait_until"]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cinicpack"]


def count_switches() -> int:
    """Count how often the engine's threads have given a core up, which a sleeping one does not."""
    total = 0
    for thread in threads():
        for line in Path(f"/proc/self/task/{thread.native_id}/status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[-1])
    return total


def time_on_cores() -> float:
    """Add up the seconds that the engine's threads have spent on a core."""
    paths = [Path(f"/proc/self/task/{thread.native_id}/schedstat") for thread in threads()]
    return sum(int(path.read_text().split()[0]) for path in paths) / 1e9


def wait_until(condition: object, seconds: float = 20) -> None:
    """Wait until a function without arguments returns something true."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
