"""The command train: one run, from its checkpoint if it has one, to its results."""

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import cinicpack
from benchmarks.machine import describe_machine
from benchmarks.paper.checkpoint import hold, load_checkpoint, save_checkpoint, write_file
from benchmarks.paper.device import is_first, name_device, open_device, set_arithmetic
from benchmarks.paper.networks import count_parameters
from benchmarks.paper.options import choose_folder, read_pack, read_plan
from benchmarks.paper.plan import Plan, choose_images
from benchmarks.paper.testing import measure_errors
from benchmarks.paper.training import Training
from benchmarks.report import format_json, say

__all__ = ["run", "train"]


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    plan = read_plan(options, options.model, options.train_on, options.seed, options.source)
    with open_device(options.device) as device:
        pack = read_pack(options)
        train(
            plan,
            pack,
            device,
            choose_folder(options, pack),
            every=options.checkpoint_every,
            resident=options.resident and device.type == "cuda",
            tensorboard=options.tensorboard,
        )


def train(
    plan: Plan,
    pack: cinicpack.Pack,
    device: torch.device,
    output: Path,
    *,
    every: int = 1000,
    resident: bool = False,
    tensorboard: Path | None = None,
) -> dict[str, Any]:
    """Train by a plan, test once at the end, and write OUTPUT/NAME.json; return what that holds.

    OUTPUT/NAME.pt has the state of every ``every`` steps and of every epoch's end, from which the
    run goes on. The test split is read when the last epoch is over, and nothing is chosen by it.
    """
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / f"{plan.name}.pt"
    held = hold(checkpoint) if is_first() else nullcontext()
    with held, set_arithmetic(device, plan.precision):
        training = Training(plan, choose_images(pack, plan), device, resident=resident)
        if (state := load_checkpoint(checkpoint, device)) is not None:
            training.load_state_dict(state)
            say(f"{plan.name}: goes on after {len(training.history)} epochs")

        def save() -> None:
            if is_first():
                save_checkpoint(training.state_dict(), checkpoint)

        log = _open_log(tensorboard, plan)
        while len(training.history) < plan.recipe.epochs:
            _report(plan, training.train_epoch(save, every), log)
        training.close()
        report = _describe(plan, pack, training, device) | _test(plan, pack, training, device)
    if is_first():
        write_file(output / f"{plan.name}.json", format_json(report))
        say(f"{plan.name}: test error {report['last']['error']:.2f} %")
    return report


def _test(
    plan: Plan, pack: cinicpack.Pack, training: Training, device: torch.device
) -> dict[str, Any]:
    """Test the last epoch, and the one that was best in validation."""
    test = pack["test"]
    report = {"last": measure_errors(training.network, test, plan, device), "best": None}
    if training.best is not None:
        best = dict(training.best)
        last = {name: value.clone() for name, value in training.network.state_dict().items()}
        training.network.load_state_dict(best.pop("weights"))
        report["best"] = best | measure_errors(training.network, test, plan, device)
        training.network.load_state_dict(last)
    return report


def _describe(
    plan: Plan, pack: cinicpack.Pack, training: Training, device: torch.device
) -> dict[str, Any]:
    history, images = training.history, training.images
    totals = {key: sum(entry[key] for entry in history) for key in ("seconds", "waited_s")}
    return {
        "name": plan.name,
        "plan": plan.as_dict(),
        "parameters": count_parameters(training.network),
        "pack": {"name": pack.path.stem, "fingerprint": pack.fingerprint},
        "images": {
            "train": len(images.train),
            "valid": 0 if images.valid is None else len(images.valid),
            "test": len(pack["test"]),
        },
        "machine": describe_machine(),
        "device": name_device(device),
        "torch": {"version": torch.__version__, "threads": torch.get_num_threads()},
        "minutes": round(totals["seconds"] / 60, 2),
        "cpu_minutes": round(sum(entry["cpu_seconds"] for entry in history) / 60, 2),
        "waited_share": round(totals["waited_s"] / totals["seconds"], 5),
        "history": history,
    }


def _report(plan: Plan, entry: dict[str, Any], log: Any) -> None:
    if not is_first():
        return
    valid = f", validation {entry['valid_error']:.2f} %" if "valid_error" in entry else ""
    say(
        f"{plan.name}: epoch {entry['epoch']} of {plan.recipe.epochs}: loss {entry['loss']:.4f}, "
        f"error {entry['train_error']:.2f} %{valid}, {entry['images_s']:,} images/s, "
        f"{entry['waited_s'] / entry['seconds']:.2%} of the time waited for data"
    )
    if log is not None:
        for key in entry.keys() - {"epoch"}:
            log.add_scalar(key, entry[key], entry["epoch"])
        log.flush()


def _open_log(folder: Path | None, plan: Plan) -> Any:
    """Open TensorBoard's log, if it is asked for."""
    if folder is None or not is_first():
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise SystemExit(
            "expected tensorboard for --tensorboard, found none; pip install tensorboard"
        ) from None
    return SummaryWriter(str(folder / plan.name))
