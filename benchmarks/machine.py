"""What machine figures were measured on."""

import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["describe_machine", "use_cores"]


def use_cores(count: int) -> list[int]:
    """Keep this process and its children on the first ``count`` usable cores."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)
    return cores


def describe_machine() -> dict[str, Any]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores_used": len(os.sched_getaffinity(0)),
        "memory_gb": round(pages / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Return name, family and model: virtual machines often hide the exact name."""
    text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in fields.items()}
    name = facts.get("model name", platform.processor())
    family, model = facts.get("cpu family", "?"), facts.get("model", "?")
    return f"{name} (family {family}, model {model}, cache {facts.get('cache size', '?')})"
