"""Index maps: partitions that others published, as the rows of every client.

A map is text: ``{0: [3, 1, 4], 1: [5, 9, 2]}``, with clients and rows as whole numbers. The outer
braces, commas between clients, quotes around them, line breaks and blanks may be there or not, so
that FedML's ``net_dataidx_map.txt`` can be read, and JSON too.
"""

import os
import re
from pathlib import Path
from typing import Final

import numpy as np

from cinicpack.errors import ArgumentError, SelectionError
from cinicpack.paths import naming_file
from cinicpack.store.split import Split

__all__ = ["read_partition"]

_CLIENT: Final = re.compile(r"""[\s,]*(["']?)(?P<client>\d{1,18})\1\s*:\s*\[(?P<rows>[\d\s,]*)\]""")


def read_partition(file: str | os.PathLike[str], split: Split) -> list[Split]:
    """Read which rows of a split each client has, from a published index map.

    Args:
        file: a text such as FedML's ``net_dataidx_map.txt``: ``{0: [3, 1, 4], 1: [5, 9, 2]}``.
        split: whose rows they are: of CINIC-10, row i is the image i of ImageFolder.

    Returns:
        The clients in the order of their numbers, each with its rows in the order of the file.

    Raises:
        FileNotFoundError: there is nothing at ``file``.
        ArgumentError: the file is no such map, or names a client twice.
        SelectionError: a client has no rows, or one that is not in the split.

    >>> import pathlib, cinicpack
    >>> train = cinicpack.open_pack("cinic10.pack")["train"]
    >>> _ = pathlib.Path("map.txt").write_text("{ 0: [ 3, 1, 4 ], 1: [ 5, 9, 2 ] }")
    >>> [client.rows.tolist() for client in cinicpack.read_partition("map.txt", train)]
    [[3, 1, 4], [5, 9, 2]]
    """
    if not isinstance(split, Split):
        raise ArgumentError(f"expected split to be a Split, as pack['train'] is, found {split!r}")
    with naming_file(file):
        text = Path(file).read_text("utf-8", "replace").strip()
    body = text.removeprefix("{").removesuffix("}")
    rows_of: dict[int, list[int]] = {}
    end = 0
    while entry := _CLIENT.match(body, end):
        client = int(entry["client"])
        if client in rows_of:
            raise ArgumentError(f"{file}: expected every client once, found {client} twice")
        # Nineteen digits are enough to be no row of any split, and few enough for `int`.
        rows_of[client] = [int(row[:19]) for row in re.findall(r"\d+", entry["rows"])]
        end = entry.end()
    if (rest := body[end:].strip(" \t\r\n,")) or not rows_of:
        raise ArgumentError(
            f"{file}: expected rows of clients, as in {{0: [3, 1, 4], 1: [5, 9, 2]}}, found "
            f"{rest[:40]!r}" + (f" after client {client}" if rows_of else "")
        )
    return [_select(file, split, client, rows_of[client]) for client in sorted(rows_of)]


def _select(file: str | os.PathLike[str], split: Split, client: int, rows: list[int]) -> Split:
    if not rows:
        raise SelectionError(f"{file}: expected rows of client {client}, found none")
    if (last := max(rows)) >= len(split):
        raise SelectionError(
            f"{file}: expected rows of {split!r}, found {last} of client {client}: is the map of "
            "another split?"
        )
    return split.select(indices=np.array(rows))
