"""What the authors of CINIC-10 did in notebooks, from a pack."""

from cinicpack.study.noise import label_noise

__all__ = ["label_noise"]
