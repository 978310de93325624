"""Torchvision for the tests, also where its compiled operators do not load: no test uses these."""

import sys
from types import ModuleType

import pytest
import torch

__all__ = ["import_torchvision"]

# The operators that torchvision registers fake kernels for at import, so they must be declared.
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# Kept for ever: an operator lives only as long as the library that declares it.
_libraries: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision, or skip the test where it is not installed."""
    torchvision: ModuleType
    try:
        torchvision = pytest.importorskip("torchvision")
        return torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in _OPERATORS:
        library.define(operator)
    _libraries.append(library)
    torchvision = pytest.importorskip("torchvision")
    return torchvision
