"""A summary of a pack: what ``cinicpack info`` shows."""

from typing import Any

from cinicpack.cinic10 import MEAN, STD, Origin
from cinicpack.store.manifest import channel_statistics
from cinicpack.store.pack import Pack
from cinicpack.text import counted, table

__all__ = ["describe_pack", "format_summary"]

_ORIGIN_NAMES = {
    Origin.CIFAR10_TRAIN: "cifar10 train",
    Origin.CIFAR10_TEST: "cifar10 test",
    Origin.IMAGENET: "imagenet",
    Origin.UNKNOWN: "unknown",
}


def describe_pack(pack: Pack) -> dict[str, Any]:
    """Collect what a pack holds, as JSON has it; nothing but the manifest is read.

    ``is_cinic10`` says whether the images are of CINIC-10, as `cinic10.is_cinic10` has it.
    Per split: images, shards, fingerprint, images per class and per source, and the population mean
    and std of each channel for pixels in [0, 1]. ``resize`` is there if images were resized.
    """
    manifest = pack.manifest
    splits = {}
    for name, info in manifest.splits.items():
        mean, std = channel_statistics(info.groups, manifest.image_shape)
        splits[name] = {
            "images": info.rows,
            "shards": len(info.shards),
            "fingerprint": info.fingerprint,
            "classes": {
                class_name: sum(group.rows for group in info.groups if group.label == label)
                for label, class_name in enumerate(manifest.classes)
            },
            "sources": {
                text: count
                for origin, text in _ORIGIN_NAMES.items()
                if (count := sum(group.rows for group in info.groups if group.origin == origin))
            },
            "mean": mean,
            "std": std,
        }
    resize = {} if manifest.resize is None else {"resize": manifest.resize._asdict()}
    return {
        "path": str(pack.path),
        "format": pack.format,
        "fingerprint": pack.fingerprint,
        "image_shape": manifest.image_shape,
        **resize,
        "bytes": sum(spec.nbytes for spec in manifest.specs()),
        "is_cinic10": manifest.is_cinic10,
        "normalization": manifest.normalization._asdict(),
        "splits": splits,
        "skipped": [{"path": path, "reason": reason} for path, reason in manifest.skipped],
    }


def format_summary(summary: dict[str, Any]) -> str:
    """Lay out what `describe_pack` collected for people to read."""
    height, width, _ = summary["image_shape"]
    total = sum(split["images"] for split in summary["splits"].values())
    normalization = summary["normalization"]
    where = f"computed on {normalization['origin']}"
    # Ask the figures and not the origin's name, since a split may be called "published".
    if (tuple(normalization["mean"]), tuple(normalization["std"])) == (MEAN, STD):
        where = "published for CINIC-10"
        if not summary["is_cinic10"]:
            where += ", which these images are not of; pack again to have their own"
    lines = [
        f"{summary['path']}: {summary['format']} pack, {counted(total, 'image')} of "
        f"{height}x{width}, {summary['bytes']:,} bytes",
        f"fingerprint    {summary['fingerprint']}",
        f"normalization  mean {_figures(normalization['mean'])}  std "
        f"{_figures(normalization['std'])}  ({where})",
    ]
    if (resize := summary.get("resize")) is not None:
        lines.append(f"resized        with filter {resize['filter']} and fit {resize['fit']}")
    lines.append("")
    columns = list(summary["splits"].items())
    rows = [["", *(name for name, _ in columns)]]
    rows.append(["images", *(f"{split['images']:,}" for _, split in columns)])
    rows.append(["shards", *(f"{split['shards']:,}" for _, split in columns)])
    names = {"sources": _ORIGIN_NAMES.values(), "classes": columns[0][1]["classes"]}
    for field in ("sources", "classes"):
        keys = [key for key in names[field] if any(key in split[field] for _, split in columns)]
        rows += [[key, *(f"{split[field].get(key, 0):,}" for _, split in columns)] for key in keys]
    for field in ("mean", "std"):
        for channel, colour in enumerate(("red", "green", "blue")):
            cells = (f"{split[field][channel]:.6f}" for _, split in columns)
            rows.append([f"{field} {colour}", *cells])
    rows.append(["fingerprint", *(split["fingerprint"][:12] for _, split in columns)])
    lines += table(rows)
    if summary["skipped"]:
        lines += ["", f"left out when packing: {counted(len(summary['skipped']), 'image')}"]
        lines += [f"  {skip['path']}: {skip['reason']}" for skip in summary["skipped"]]
    return "\n".join(lines)


def _figures(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.6f}" for value in values)
