"""Write the golden files: ``python -m tests.golden.make``.

They say how the package behaves, so that a change of its insides can be seen to change nothing.
Write them anew only where the behaviour is meant to change, and look at what ``git diff`` shows.
Stored states are never written again, since what is in a checkpoint has to load for ever: delete
`states.json` to start anew.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.golden.batches import collect_batches, collect_orders, open_packs
from tests.golden.commands import collect_commands
from tests.golden.packs import collect_packs, loose
from tests.golden.sources import to_json, write_sources
from tests.golden.states import make_states

HERE = Path(__file__).parent
AREAS = ("packs", "batches", "orders", "commands")
STATES = HERE / "states.json"


def read(area: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((HERE / f"{area}.json").read_text())
    return found


class Golden:
    """All that is compared, made once in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, dict[str, dict[str, Any]]] = {}
        write_sources(folder)
        with loose():
            self.packs = open_packs(folder)

    def collect(self, area: str) -> dict[str, dict[str, Any]]:
        """Make what an area is about: for each of its groups digests or texts, by name."""
        if area not in self._found:
            with contextlib.chdir(self.folder):
                self._found[area] = self._make(area)
        return self._found[area]

    def _make(self, area: str) -> dict[str, dict[str, Any]]:
        if area == "packs":
            return collect_packs(self.folder)
        if area == "batches":
            return collect_batches(self.packs)
        if area == "orders":
            return collect_orders(self.packs)
        return collect_commands()


@contextlib.contextmanager
def making() -> Iterator[Golden]:
    with tempfile.TemporaryDirectory() as folder:
        yield Golden(Path(folder))


def main() -> None:
    with making() as golden:
        for area in AREAS:
            (HERE / f"{area}.json").write_text(to_json(golden.collect(area)))
        if not STATES.exists():
            STATES.write_text(to_json(make_states(golden.packs)))


if __name__ == "__main__":
    main()
