"""Packs that a test may write to, as nobody may to the files of a pack."""

import shutil
from pathlib import Path

__all__ = ["copy_pack", "make_writable"]


def copy_pack(pack: Path, path: Path) -> Path:
    """Copy a pack to ``path``, a new one, without the permissions of its files."""
    if pack.is_dir():
        shutil.copytree(pack, path, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(pack, path)
    return path


def make_writable(pack: Path) -> None:
    """Let the owner write to the files of a pack."""
    for file in (pack, *pack.rglob("*")):
        file.chmod(file.stat().st_mode | 0o200)
