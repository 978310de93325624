"""Checkpoints: one file that is always whole, whenever the process is killed."""

import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["load_checkpoint", "replace_file", "save_checkpoint"]


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a state beside ``path``, then put it there at once.

    All ranks have the same weights, so one file of one rank holds everything.
    """
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        torch.save(state, file)
    replace_file(part, path)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Read the state at ``path``, with its tensors on ``device``; None: there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def replace_file(part: Path, path: Path) -> None:
    """Put a finished file in the place of another, also if the machine stops at any moment."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
