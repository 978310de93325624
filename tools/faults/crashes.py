"""Crashes: at every call of every command that makes something, it is killed or the call fails."""

from collections.abc import Callable
from functools import cache, partial
from typing import Final

from tools.faults.calls import FAULTS, Fault
from tools.faults.campaign import Campaign
from tools.faults.commands import Command, list_commands
from tools.faults.matrix import Row
from tools.faults.trial import Place, run_apart

__all__ = ["list_tasks"]

#: In the short campaign a command has a fault at so many of its calls.
_SHORT_CALLS: Final = 8
#: Every so many calls of a command that starts processes, which takes ten times as long.
_SLOW_STEP: Final = 3


def list_tasks(campaign: Campaign) -> dict[str, Callable[[], Row]]:
    """List what is to be done: each fault in each command."""
    prepare = cache(partial(Place, campaign.root))
    return {
        f"{command.text}: {fault.text}": partial(_crash, campaign, prepare, command, fault)
        for command in list_commands(campaign.server)
        for fault in FAULTS
        if command.short or not campaign.short
    }


def _crash(
    campaign: Campaign, prepare: Callable[[Command], Place], command: Command, fault: Fault
) -> Row:
    place, row = prepare(command), Row("commands", command.text, fault.text)
    calls = campaign.calls
    place.prepare()
    calls.arm(place.root, fault)
    run_apart(command.run, place.root)
    noted = calls.disarm()
    step = _SLOW_STEP if command.slow else 1
    if campaign.short:
        step = max(1, len(noted) // _SHORT_CALLS)
    for at in range(0, len(noted), step):
        outcome, problems = place.try_fault(calls, fault, at)
        row.add(outcome, [f"{noted[at].name} of {noted[at].path}: {text}" for text in problems])
    return row
