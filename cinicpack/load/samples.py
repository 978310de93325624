"""The samples of a split: what the kernels need to make batches of them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cinicpack.errors import ArgumentError
from cinicpack.load.augment import Augment
from cinicpack.load.batches import DTYPES, BatchFormat, Block
from cinicpack.load.kernels.fill import (
    ALTERNATING_FLIP,
    NO_FLIP,
    RANDOM_FLIP,
    draw,
    fill_kernel,
    touch,
)
from cinicpack.load.pipeline import Pipeline
from cinicpack.load.unique import Unique
from cinicpack.store.pack import Split

__all__ = ["Samples", "Transform"]

_FLIPS: Final = {None: NO_FLIP, "random": RANDOM_FLIP, "alternating": ALTERNATING_FLIP}
# A kernel, and those of its arguments that do not change.
_Prepared: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]
# Read ahead between two looks at whether to go on.
_READ_BYTES: Final = 8 << 20
_NOTHING: Final = Augment(crop_padding=0, flip=None)


class Transform(NamedTuple):
    """What happens to a sample besides what is drawn.

    Attributes:
        height: of the images.
        width: of the images.
        crop_padding: pixels added on every side before the crop.
        reflect: by reflection; else they are black.
        flip: NO_FLIP, RANDOM_FLIP or ALTERNATING_FLIP.
        cutout: side of the square; 0: none.
        scale: (3,) float32, what a pixel is multiplied with.
        shift: (3,) float32, what is added then.
        filler: (3,) what a cutout is set to, float32; uint8 for batches of that.
    """

    height: int
    width: int
    crop_padding: int
    reflect: bool
    flip: int
    cutout: int
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]
    filler: NDArray[Any]


class Samples(Unique):
    """The chosen rows of a split, and how they become pixels of a batch.

    Args:
        split: where they are from.
        rows: (N,) int64, which ones; what happens to a sample depends on its row.
        augment: what is done to them; None: nothing.
        seed: of what is drawn.
        batch_format: dtype and layout of batches.
        mean: per channel, pixels in [0, 1]; subtracted.
        std: per channel; divided by.
        normalized: False: the pixels stay in [0, 1], and mean is only what a cutout is set to.

    Raises ``ArgumentError`` where a std is not above 0, or the augmentation does not fit the size.
    """

    def __init__(
        self,
        split: Split,
        rows: NDArray[np.int64],
        augment: Augment | None,
        seed: int,
        batch_format: BatchFormat,
        mean: Sequence[float],
        std: Sequence[float],
        normalized: bool,
    ) -> None:
        height, width, _ = split.pack.image_shape
        augment = augment or _NOTHING
        augment.check_size(height, width)
        divisor = np.array(std if normalized else (1, 1, 1), np.float64)
        offset = np.array(mean if normalized else (0, 0, 0), np.float64)
        with np.errstate(all="ignore"):
            scale = (1 / (255 * divisor)).astype(np.float32)
            shift = (-offset / divisor).astype(np.float32)
        if not (np.all(divisor > 0) and np.all(scale > 0) and np.all(np.isfinite((scale, shift)))):
            raise ArgumentError(
                f"expected a mean and a std above 0 for every channel that float32 can hold, found "
                f"{tuple(mean)} and {tuple(std)}; pass normalize=False or another (mean, std)"
            )
        # The addresses hold as long as the files are mapped: threads that read there refer to this
        # object, not to the addresses alone.
        self._split = split
        self._rows = rows.copy()
        self._addresses = split.addresses()[rows]
        self._image_bytes = 3 * height * width
        self._step = max(1, _READ_BYTES // self._image_bytes)
        self._labels = split.labels[rows].astype(np.int64)
        self.seed = np.uint64(seed)
        if batch_format.dtype == "uint8":
            filler: NDArray[Any] = np.round(255 * np.array(mean)).astype(np.uint8)
        else:
            filler = np.array((0, 0, 0) if normalized else mean, np.float32)
        self.transform = Transform(
            height=height,
            width=width,
            crop_padding=augment.crop_padding,
            reflect=augment.padding_mode == "reflect",
            flip=_FLIPS[augment.flip],
            cutout=augment.cutout,
            scale=scale,
            shift=shift,
            filler=filler,
        )
        plain = self.transform._replace(crop_padding=0, flip=NO_FLIP, cutout=0)
        self._fill = _prepare(batch_format.dtype, batch_format.channels_last, self.transform)
        self._gather = _prepare("uint8", False, plain)

    def __len__(self) -> int:
        return len(self._rows)

    def fill(self, block: Block, positions: NDArray[np.int64], epoch: int) -> None:
        """Make the samples at ``positions``, (n,) int64, into the first n of a block."""
        self._run(self._fill, block, positions, epoch)

    def gather(self, block: Block, positions: NDArray[np.int64]) -> None:
        """Copy the planes of the samples into a block of uint8, as they are."""
        self._run(self._gather, block, positions, 0)

    def read_ahead(self) -> Pipeline[int]:
        """Start to read all images from the disk, on a thread and in the order of the files.

        It takes a few milliseconds where they are in the page cache. What is returned must be
        closed, or dropped, to end the thread.
        """
        read = partial(self._read, np.sort(self._addresses))
        count = -(-len(self) // self._step)
        return Pipeline(read, count, num_threads=1, ahead=count)

    def look_up(
        self, positions: NDArray[np.int64], labels: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> None:
        """Write label and row of the samples."""
        np.take(self._labels, positions, out=labels)
        np.take(self._rows, positions, out=rows)

    def draw(self, rows: NDArray[np.int64], epoch: int, out: NDArray[np.int32]) -> None:
        """Write what is drawn for the samples of these rows: (n, 5), see `kernels.draw`."""
        height, width, crop_padding, _, flip, cutout, *_ = self.transform
        draw(rows, self.seed, np.uint64(epoch), height, width, crop_padding, flip, cutout, out)

    def _read(self, addresses: NDArray[np.uint64], number: int) -> int:
        """Read a step of the images; a method, so that its thread keeps the files mapped."""
        return touch(addresses[number * self._step : (number + 1) * self._step], self._image_bytes)

    def _run(
        self, prepared: _Prepared, block: Block, positions: NDArray[np.int64], epoch: int
    ) -> None:
        kernel, transform = prepared
        tables = (self._addresses, self._rows, self._labels)
        kernel(positions, *tables, self.seed, np.uint64(epoch), *transform, *block)


def _prepare(dtype: str, channels_last: bool, transform: Transform) -> _Prepared:
    """Choose the kernel and collect its constant arguments, which takes longer than a launch."""
    height, width, crop_padding, reflect, flip, cutout, scale, shift, filler = transform
    kernel = fill_kernel(dtype, channels_last, height, width, scale, shift)
    encoded = _encode(filler, dtype)
    return kernel, (
        crop_padding,
        reflect,
        flip,
        cutout,
        height,
        width,
        scale,
        shift,
        encoded,
    )


def _encode(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Write float32 or uint8 values as the kernels write pixels."""
    if dtype == "float16":
        return values.astype(np.float16).view(DTYPES[dtype])
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return values.astype(DTYPES[dtype])
