"""Results as files and as lines on the screen."""

import json
import sys
import time
from typing import Any

__all__ = ["fill_between", "format_json", "say"]


def format_json(report: dict[str, Any]) -> str:
    """One line a row, so that a change of a figure is a change of a line."""
    lines = []
    for key, value in report.items():
        if isinstance(value, list):
            items = ",\n".join(f"    {json.dumps(item, ensure_ascii=False)}" for item in value)
            lines.append(f"  {json.dumps(key)}: [\n{items}\n  ]" if value else f'  "{key}": []')
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def fill_between(name: str, page: str, begin: str, end: str, text: str) -> str:
    """Write a text between two lines of a page, both with their line breaks."""
    before, opening, rest = page.partition(begin)
    _, closing, after = rest.partition(end)
    if not (opening and closing):
        raise SystemExit(
            f"{name}: expected the lines {begin.strip()} and {end.strip()}, found not both; put "
            "them back around what is drawn"
        )
    return before + begin + text + end + after


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
