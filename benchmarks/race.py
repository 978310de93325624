"""Races: cases measured in turns, each beside the case that it is compared with."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.report import say

__all__ = ["Case", "measure_rates", "race"]


class Case(NamedTuple):
    """A run that is measured, and the one it is compared with.

    Attributes:
        name: what the table calls it.
        run: loads whole epochs and returns how many images.
        base: name of the case whose images per second are the ratio's 1; None: there is no ratio.
        wanted: the ratio that it should reach.
        weight: bytes of one image, in units of 32x32's.
        rest: is called after every run, while the clock stands.
    """

    name: str
    run: Callable[[], int]
    base: str | None = None
    wanted: float | None = None
    weight: int = 1
    rest: Callable[[], object] = lambda: None


def race(cases: list[Case], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure all cases in turns, each in shorter turns with the case that is its base.

    A ratio is taken between neighbours in time, because the speed of a virtual machine changes
    within seconds.
    """
    cases_by_name = {case.name: case for case in cases}
    rates: dict[str, list[float]] = {case.name: [] for case in cases}
    ratios: dict[str, list[float]] = {case.name: [] for case in cases}
    for case in cases:
        case.run()
        case.rest()
    for number in range(rounds):
        for place in range(len(cases)):
            case = cases[(place + number * 5) % len(cases)]
            pair = [case, *([cases_by_name[case.base]] if case.base else [])]
            rate, *base = measure_rates(pair, seconds)
            rates[case.name].append(case.weight * rate)
            ratios[case.name] += [case.weight * rate / other for other in base]
        say(f"round {number + 1}: " + ", ".join(f"{v[-1] / 1e3:,.0f}" for v in rates.values()))
    return [_summarise_case(case, rates[case.name], ratios[case.name]) for case in cases]


def _summarise_case(case: Case, rates: list[float], ratios: list[float]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": case.name,
        "median": round(statistics.median(rates)),
        "lowest": round(min(rates)),
        "highest": round(max(rates)),
    }
    if ratios:
        row |= {"base": case.base, "ratio": round(statistics.median(ratios), 3)}
    if case.wanted:
        row |= {"wanted": case.wanted, "reached": row["ratio"] >= case.wanted}
    return row


def measure_rates(cases: list[Case], seconds: float) -> list[float]:
    """Run all cases in turn until each has run for ``seconds``; return their images per second."""
    counts, spent = [0] * len(cases), [0.0] * len(cases)
    while min(spent) < seconds:
        for number, case in enumerate(cases):
            start = time.perf_counter()
            counts[number] += case.run()
            spent[number] += time.perf_counter() - start
            case.rest()
    return [count / total for count, total in zip(counts, spent, strict=True)]
