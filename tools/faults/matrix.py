"""The fault matrix: what was injected, how often, and what happened."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from benchmarks.report import fill_between

__all__ = ["PARTS", "Row", "draw_matrix", "fill_page", "join_rows", "list_wrong"]

#: The parts of the matrix, with what their first two columns say.
PARTS: Final = {
    "commands": ("command", "at one of its calls"),
    "packs": ("pack", "damage"),
    "sources": ("source", "damage"),
    "loaders": ("loaders", "what is done"),
}
_MARKS: Final = "<!-- faults: python -m tools.faults -->\n", "<!-- /faults -->\n"
#: How many texts a row keeps of what is wrong.
_SHOWN: Final = 5


@dataclass
class Row:
    """One kind of fault in one thing.

    Attributes:
        part: which table it belongs to.
        what: the thing: a command, a pack, a source.
        fault: what was injected.
        outcomes: how often what happened.
        wrong: how many faults broke a promise.
        texts: what the first of these were.
    """

    part: str
    what: str
    fault: str
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    texts: list[str] = field(default_factory=list)

    def add(self, outcome: str, problems: Iterable[str] = ()) -> None:
        """Count one fault."""
        self.outcomes[outcome] += 1
        if text := "; ".join(problems):
            self.wrong += 1
            self.texts = [*self.texts, " ".join(text.split())][:_SHOWN]

    def describe(self) -> dict[str, Any]:
        """Return what JSON has of it."""
        return {**asdict(self), "outcomes": dict(self.outcomes)}


def join_rows(rows: Iterable[Row]) -> list[Row]:
    """Join the rows of one fault in one thing, in the order of the parts."""
    joined: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        same = joined.setdefault(
            (row.part, row.what, row.fault), Row(row.part, row.what, row.fault)
        )
        same.outcomes += row.outcomes
        same.wrong += row.wrong
        same.texts = [*same.texts, *row.texts][:_SHOWN]
    return sorted(joined.values(), key=lambda row: [*PARTS].index(row.part))


def draw_matrix(report: Mapping[str, Any]) -> str:
    """Lay out a report as Markdown: of each part a table by fault and one by thing."""
    rows = report["rows"]
    total, wrong = _count(rows), sum(row["wrong"] for row in rows)
    machine = report["machine"]
    text = [
        f"{total:,} faults in {report['seconds'] / 60:.1f} minutes on {machine['cores_used']} "
        f"cores ({machine['system']}, Python {machine['python']}): {wrong or 'none'} broke a "
        "promise.\n"
    ]
    for part, (thing, fault) in PARTS.items():
        mine = [row for row in rows if row["part"] == part]
        if part == "commands":
            text.append(_draw(fault, mine, lambda row: row["fault"]))
            text.append(_draw(thing, mine, lambda row: row["what"]))
        else:
            text.append(
                _draw(f"{thing}: {fault}", mine, lambda row: f"{row['what']}: {row['fault']}")
            )
    return "\n".join(text)


def _draw(head: str, rows: list[Any], key: Any) -> str:
    lines = [f"| {head} | faults | what happened | wrong |", "| --- | ---: | --- | ---: |"]
    for name in dict.fromkeys(map(key, rows)):
        mine = [row for row in rows if key(row) == name]
        outcomes: Counter[str] = Counter()
        for row in mine:
            outcomes.update(row["outcomes"])
        happened = ", ".join(f"{text} {count:,}" for text, count in outcomes.most_common())
        wrong = sum(row["wrong"] for row in mine)
        lines.append(f"| {name} | {_count(mine):,} | {happened} | {wrong} |")
    return "\n".join([*lines, ""])


def _count(rows: Iterable[Any]) -> int:
    return sum(sum(row["outcomes"].values()) for row in rows)


def list_wrong(rows: Iterable[Row]) -> list[str]:
    """List what broke a promise, the first few of each row."""
    return [
        f"{row.what}: {row.fault}: {row.wrong} of {row.outcomes.total()}, such as: {text}"
        for row in rows
        for text in row.texts
    ]


def fill_page(page: str, report: Mapping[str, Any]) -> str:
    """Write the matrix between its marks in the text of a page."""
    return fill_between("docs/faults.md", page, *_MARKS, draw_matrix(report))
