"""The authors' two tables, by one command each.

python -m benchmarks.paper models                                     # networks and parameters
python -m benchmarks.paper train PACK --model resnet18 --device cuda  # one run
python -m benchmarks.paper table PACK --device cuda                   # all runs, and the tables
python -m benchmarks.paper shift PACK --model resnet18 --device cuda  # one source on the other
"""

import argparse
import json
from collections.abc import Sequence

import cinicpack
from benchmarks.paper import page, shift, table, train
from benchmarks.paper.networks import NETWORKS, count_parameters
from benchmarks.paper.options import add_many, add_options, add_run, add_source, positive
from cinicpack import text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    models = commands.add_parser("models", help="list the networks with their parameters")
    models.add_argument("--json", action="store_true")
    models.set_defaults(run=list_models)
    one = commands.add_parser("train", help="train one network, or go on with it")
    add_options(one)
    add_run(one)
    add_source(one)
    one.set_defaults(run=train.run)
    all_of_them = commands.add_parser("table", help="train what is missing, and draw the tables")
    add_options(all_of_them)
    add_many(all_of_them)
    all_of_them.add_argument(
        "--models", nargs="+", choices=NETWORKS, default=list(NETWORKS)[:7], metavar="MODEL",
        help="(the authors' seven)",
    )  # fmt: skip
    all_of_them.add_argument(
        "--train-on", nargs="+", metavar="SPLIT", help="(train, and train+valid if there is valid)"
    )
    all_of_them.add_argument(
        "--seeds", type=positive, help="runs of each (as the authors: 1 on train, 5 on train+valid)"
    )
    all_of_them.set_defaults(run=table.run)
    sources = commands.add_parser("shift", help="train on each source, and test on both")
    add_options(sources)
    add_many(sources)
    add_run(sources)
    sources.set_defaults(run=shift.run)
    draw = commands.add_parser("draw", help="draw what the page says of a run on real images")
    draw.set_defaults(run=page.run)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except cinicpack.CinicPackError as error:
        raise SystemExit(str(error)) from None


def list_models(options: argparse.Namespace) -> None:
    counts = {name: count_parameters(network.make(10)) for name, network in NETWORKS.items()}
    if options.json:
        print(json.dumps(counts, indent=2))
        return
    rows = [(name, NETWORKS[name].title, f"{count:,}") for name, count in counts.items()]
    print("\n".join(text.table([("model", "", "parameters"), *rows], left=(0, 1))))


if __name__ == "__main__":
    main()
