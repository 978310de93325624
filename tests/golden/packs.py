"""Golden packs: digests of every file that packing makes, and what it warns of."""

import contextlib
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import PIL

import cinicpack
from tests.golden.sources import digest

Found = dict[str, dict[str, Any]]

# What is packed, and in how many processes: every pair gives the same files.
_SOURCES = {
    "npy": (
        *(("tree", 0), ("nested", 0), ("tree.tar", 0), ("tree.tar.gz", 0), ("tree.zip", 0)),
        *(("tree", 2), ("tree.tar.gz", 2)),
    ),
    "hdf5": (("tree", 0), ("tree.tar", 0), ("tree.zip", 2)),
}
# A process takes 0.4 s to start.
_WITHOUT_PROCESSES = {("npy", "tree", 5), ("npy", "tree.tar.gz", None), ("hdf5", "tree.zip", 5)}
_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "300 classes": ("classes.tar", {"shard_rows": 7}),
    "a split by name": ("tree", {"splits": "valid"}),
    "splits by name": ("tree.zip", {"splits": ["test", "train"]}),
    "allow_missing": ("missing", {"allow_missing": True}),
    "allow_missing, a split": ("missing", {"allow_missing": True, "splits": "train"}),
    "5x7": ("5x7.tar", {}),
}
# Pillow decodes these, or says what is wrong with them.
_UNUSUAL: dict[str, tuple[str, dict[str, Any]]] = {
    "skip_bad": ("bad", {"skip_bad": True}),
    "kinds": ("kinds", {}),
}


def collect_packs(folder: Path) -> Found:
    """Pack everything, in a folder with what `write_sources` writes, which is the current one."""
    files: Found = {"npy": {}, "hdf5": {}}
    told: dict[str, Any] = {}
    unusual: dict[str, Any] = {}
    new = folder / "new" / "a"
    new.parent.mkdir()
    for form, found in files.items():
        for (source, workers), shard_rows in product(_SOURCES[form], (None, 5)):
            if workers and (form, source, shard_rows) in _WITHOUT_PROCESSES:
                continue
            name = f"{source}, shard_rows={shard_rows}, num_workers={workers}"
            options = {"shard_rows": shard_rows, "num_workers": workers}
            found[name], told[name] = _pack(source, new, form, options)
        for name, (source, options) in _OPTIONS.items():
            found[name], told[name] = _pack(source, new, form, options)
        for name, (source, options) in _UNUSUAL.items():
            name = f"{form}, {name}"
            unusual[name], unusual[f"{name}, told"] = _pack(source, new, form, options)
    hdf5, pillow = f"HDF5 {h5py.version.hdf5_version}", f"Pillow {PIL.__version__}"
    return {
        "npy": _shorten(files["npy"]),
        f"hdf5 with {hdf5}": _shorten(files["hdf5"]),
        f"unusual PNG files with {pillow} and {hdf5}": _shorten(unusual),
        "told": _shorten(told),
    }


def _pack(
    source: str, destination: Path, form: str, options: dict[str, Any]
) -> tuple[dict[str, str], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pack = cinicpack.pack(
            source, destination, format=form, overwrite=True, progress=False, **options
        )
    files = [destination] if destination.is_file() else sorted(destination.rglob("*"))
    digests = {
        str(file.relative_to(destination.parent)): digest(file.read_bytes())
        for file in files
        if file.is_file()
    }
    shown = repr(pack).replace(str(destination), "PACK")
    statistics = [*map(float.hex, pack.mean), *map(float.hex, pack.std)]
    return digests, [shown, pack.fingerprint, *statistics, *(str(w.message) for w in caught)]


def _shorten(entries: dict[str, Any]) -> dict[str, Any]:
    """Say of what is like an earlier entry only that it is."""
    shown: dict[str, Any] = {}
    for name, value in entries.items():
        same = next((other for other in shown if entries[other] == value), None)
        shown[name] = value if same is None else f"as {same}"
    return shown


@contextlib.contextmanager
def loose() -> Any:
    """Let warnings pass, for what is made on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
