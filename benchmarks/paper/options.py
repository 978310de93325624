"""What the commands take from the command line."""

import argparse
import dataclasses
from pathlib import Path

import cinicpack
from benchmarks.paper.networks import NETWORKS
from benchmarks.paper.plan import PRECISIONS, SOURCES, Plan
from benchmarks.paper.recipe import RECIPES

__all__ = [
    "add_many",
    "add_options",
    "add_run",
    "add_source",
    "choose_folder",
    "list_arguments",
    "positive",
    "read_pack",
    "read_plan",
]

_RESULTS = Path(__file__).parents[1] / "results" / "paper"
_FAST = ("channels_last", "bf16", "compile")


def positive(text: str) -> int:
    """Read a whole number of at least 1; argparse names this function where it raises."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what every training needs to know: images, recipe, arithmetic, device, and where to."""
    parser.add_argument("pack", type=Path, metavar="PACK", help="a pack with splits train and test")
    parser.add_argument(
        "--cifar10", action="store_true",
        help="PACK is a folder for cinicpack.CIFAR10, which is downloaded there if need be",
    )  # fmt: skip
    parser.add_argument("--recipe", choices=RECIPES, default="paper", help="(%(default)s)")
    parser.add_argument("--epochs", type=positive, help="(the recipe's)")
    parser.add_argument("--batch-size", type=positive, help="of all ranks together (the recipe's)")
    parser.add_argument("--lr", type=float, help="(the recipe's)")
    parser.add_argument(
        "--hold-out", type=float, default=0.0, metavar="SHARE",
        help="validate on this share of the training images, and do not train on it",
    )  # fmt: skip
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(%(default)s)")
    parser.add_argument(
        "--fast", nargs="+", choices=(*_FAST, "all"), default=[], metavar="WHAT",
        help=f"what changes the arithmetic, but not what is learnt: {', '.join(_FAST)}, or all",
    )  # fmt: skip
    parser.add_argument(
        "--no-resident", dest="resident", action="store_false",
        help="keep the pixels on the host: on a GPU they are resident, which changes no bit",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (%(default)s)")
    parser.add_argument(
        "--output", type=Path, help="folder (benchmarks/results/paper/ and the pack's name)"
    )
    parser.add_argument(
        "--checkpoint-every", type=positive, default=1000, metavar="STEPS",
        help="and at the end of every epoch (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="log there as well")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add what tells one run from another."""
    parser.add_argument("--model", choices=NETWORKS, required=True)
    parser.add_argument("--train-on", default="train", help='(%(default)s), or "train+valid"')
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", choices=SOURCES,
        help="train on the images of one source alone; the last one is CIFAR-10's own train split",
    )  # fmt: skip


def add_many(parser: argparse.ArgumentParser) -> None:
    """Add what only commands of many runs need to know."""
    parser.add_argument(
        "--side-by-side", type=positive, default=1, metavar="RUNS",
        help="so many at the same time, on the same device (%(default)s)",
    )  # fmt: skip


def read_pack(options: argparse.Namespace) -> cinicpack.Pack:
    """Open the pack; every rank may do so at once."""
    if options.cifar10:
        return cinicpack.CIFAR10(options.pack, download=True).split.pack
    try:
        pack = cinicpack.open_pack(options.pack)
    except (cinicpack.PackError, OSError) as error:
        raise SystemExit(f"{options.pack}: expected a pack, found none ({error})") from None
    if missing := {"train", "test"} - {*pack}:
        raise SystemExit(
            f"{options.pack}: expected splits train and test, found no {missing.pop()}"
        )
    return pack


def read_plan(
    options: argparse.Namespace,
    model: str,
    train_on: str,
    seed: int,
    source: str | None = None,
) -> Plan:
    """Make the plan of a run with these options."""
    fast = set(_FAST) if "all" in options.fast else set(options.fast)
    changes = {name: getattr(options, name) for name in ("epochs", "batch_size", "lr")}
    changes = {name: value for name, value in changes.items() if value is not None}
    return Plan(
        model=model,
        train_on=train_on,
        seed=seed,
        source=source,
        hold_out=options.hold_out,
        precision="bf16" if "bf16" in fast else options.precision,
        channels_last="channels_last" in fast,
        compiled="compile" in fast,
        recipe=dataclasses.replace(RECIPES[options.recipe], **changes),
    )


def choose_folder(options: argparse.Namespace, pack: cinicpack.Pack) -> Path:
    """Return the folder of the results; packs of other names have other folders."""
    return Path(options.output or _RESULTS / pack.path.stem)


def list_arguments(options: argparse.Namespace) -> list[str]:
    """Write the options of `add_options` as they were given to another process."""
    flags = {"--cifar10": options.cifar10, "--no-resident": not options.resident}
    values = {
        "--recipe": options.recipe,
        "--epochs": options.epochs,
        "--batch-size": options.batch_size,
        "--lr": options.lr,
        "--hold-out": options.hold_out,
        "--precision": options.precision,
        "--device": options.device,
        "--output": options.output and options.output.absolute(),
        "--checkpoint-every": options.checkpoint_every,
        "--tensorboard": options.tensorboard and options.tensorboard.absolute(),
    }
    return [
        str(options.pack.absolute()),
        *(flag for flag, is_set in flags.items() if is_set),
        *(
            part
            for name, value in values.items()
            if value is not None
            for part in (name, str(value))
        ),
        *(["--fast", *options.fast] if options.fast else []),
    ]
