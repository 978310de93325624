"""What a network has learnt: its error on images that it was not trained on."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn

import cinicpack
from benchmarks.paper.plan import Plan
from cinicpack.study.shift import measure_accuracies

__all__ = ["measure_error", "measure_errors", "predict"]


@torch.inference_mode()
def predict(
    network: nn.Module, split: cinicpack.Split, plan: Plan, device: torch.device
) -> NDArray[np.int64]:
    """Predict the label of every image of a split, (n,) in its order; ranks share the work."""
    network.eval()
    predictions = torch.zeros(len(split), dtype=torch.int64, device=device)
    with cinicpack.Loader(
        split.pack,
        split,
        batch_size=500,
        shuffle=False,
        channels_last=plan.channels_last,
        device=device,
        return_index=True,
    ) as loader:
        for images, _, index in loader:
            if len(index):
                with torch.autocast(device.type, torch.bfloat16, plan.precision == "bf16"):
                    scores = network(images)
                    if plan.recipe.mirrored:
                        scores = scores + network(images.flip(3))
                predictions[index] = scores.argmax(1)
    if distributed.is_initialized():
        # Every image is one rank's, and zero on all others.
        distributed.all_reduce(predictions)
    network.train()
    return np.asarray(predictions.cpu())


def measure_error(
    network: nn.Module, split: cinicpack.Split, plan: Plan, device: torch.device
) -> float:
    """Return the error in percent."""
    wrong = predict(network, split, plan, device) != split.labels
    return round(100 * float(wrong.mean()), 3)


def measure_errors(
    network: nn.Module, split: cinicpack.Split, plan: Plan, device: torch.device
) -> dict[str, Any]:
    """Return the errors in percent: of all images, by source, and by class."""
    accuracies = measure_accuracies(predict(network, split, plan, device), split)
    errors = {
        (entry.source, entry.class_name): round(100 * (1 - entry.accuracy), 3)
        for entry in accuracies
    }
    return {
        "error": errors[None, None],
        "by_source": {
            source: errors[source, name] for source, name in errors if source and not name
        },
        "by_class": {name: errors[source, name] for source, name in errors if name and not source},
    }
