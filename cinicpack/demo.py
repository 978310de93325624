"""A demonstration from nothing: a CINIC-10-shaped tree is made, packed, checked and raced."""

import tempfile
import time
from pathlib import Path

from cinicpack.bench import format_bench, run_bench
from cinicpack.cinic10 import CLASSES, SPLITS
from cinicpack.convert.packer import pack
from cinicpack.load.augment import Augment
from cinicpack.load.loader import Loader
from cinicpack.store.verify import verify_pack
from cinicpack.synthetic import write_tree

__all__ = ["run_demo"]

_PER_CLASS = 300
