"""The long form of a test: does every network's loss fall on 4,000 images?

python -m tests.paper.learning PACK [MODEL ...]    # ten minutes of one core, or seconds of a GPU
"""

import dataclasses
import sys

import torch

import cinicpack
from benchmarks.paper.networks import NETWORKS
from benchmarks.paper.plan import Images, Plan
from benchmarks.paper.recipe import RECIPES
from benchmarks.paper.training import Training


def main() -> None:
    path, *names = sys.argv[1:]
    train = cinicpack.open_pack(path)["train"]
    few, _ = train.stratified(4000 / len(train))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in names or NETWORKS:
        recipe = dataclasses.replace(RECIPES["paper"], epochs=2, lr=0.02)
        plan = Plan(name, recipe=recipe, precision="bf16", channels_last=True)
        training = Training(plan, Images(few, None), device)
        first, second = (training.train_epoch(lambda: None, 10**9) for _ in range(2))
        training.close()
        fell = second["loss"] < first["loss"]
        print(f"{name}: {first['loss']} -> {second['loss']}", "ok" if fell else "DID NOT FALL")


if __name__ == "__main__":
    main()
