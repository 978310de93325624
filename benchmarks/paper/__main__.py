"""The authors' two tables, by one command each.

python -m benchmarks.paper models                                     # networks and parameters
python -m benchmarks.paper train PACK --model resnet18 --device cuda  # one run
"""

import argparse
import json
from collections.abc import Sequence

from benchmarks.paper import train
from benchmarks.paper.networks import NETWORKS, count_parameters
from benchmarks.paper.options import add_options, add_run
from cinicpack.text import table


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
    one.set_defaults(run=train.run)
    options = parser.parse_args(arguments)
    options.run(options)


def list_models(options: argparse.Namespace) -> None:
    counts = {name: count_parameters(network.make(10)) for name, network in NETWORKS.items()}
    if options.json:
        print(json.dumps(counts, indent=2))
        return
    rows = [(name, NETWORKS[name].title, f"{count:,}") for name, count in counts.items()]
    print("\n".join(table([("model", "", "parameters"), *rows], left=(0, 1))))


if __name__ == "__main__":
    main()
