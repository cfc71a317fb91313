"""Where an image is cut and whether it is turned over: torchvision's definitions, as functions of uniform numbers.

    (seed, epoch, record, k) -> splitmix64 -> number k of that sample, in [0, 1)
    image's sides + numbers  -> Crop(top, left, height, width), flip

The numbers of a sample depend on nothing else: not on batches, ranks, threads, or what was drawn before.

Sources: torchvision.transforms.RandomResizedCrop.get_params, CenterCrop and Resize (formulas);
Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (splitmix64).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..plan import Indices

ATTEMPTS = 10  # torchvision's, before it falls back to the middle
CROP_NUMBERS = 4 * ATTEMPTS  # area, ratio, top and left of each attempt
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1

Uniforms = npt.NDArray[np.float64]


class Crop(NamedTuple):
    """A piece of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def uniforms(seed: int, epoch: int, records: Indices, count: int) -> Uniforms:
    """`count` numbers in [0, 1) for each record, float64 (n, count), of 53 random bits each."""
    key = _mixed_int(_mixed_int(seed) ^ epoch)
    with np.errstate(over="ignore"):  # arithmetic is modulo 2**64
        streams = _mixed(records.astype(np.uint64) ^ np.uint64(key))
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        words = _mixed(streams[:, None] + steps)
    numbers: Uniforms = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _mixed_int(value: int) -> int:
    with np.errstate(over="ignore"):
        return int(_mixed(np.array([(value + _GOLDEN) & _MASK], np.uint64))[0])


def random_resized_crop(
    height: int, width: int, numbers: Sequence[float], *, scale: tuple[float, float], ratio: tuple[float, float]
) -> Crop:
    """RandomResizedCrop's piece: of a share of the area in `scale` and width over height in `ratio`, log-uniform.

    `numbers` are CROP_NUMBERS: those of attempt i begin at 4 * i.
    """
    area, low, high = height * width, math.log(ratio[0]), math.log(ratio[1])
    for at in range(0, CROP_NUMBERS, 4):
        target = area * (scale[0] + (scale[1] - scale[0]) * numbers[at])
        aspect = math.exp(low + (high - low) * numbers[at + 1])
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(numbers[at + 2] * (height - h + 1)), int(numbers[at + 3] * (width - w + 1))
            return Crop(top, left, h, w)
    return _middle(height, width, ratio)


def _middle(height: int, width: int, ratio: tuple[float, float]) -> Crop:
    """The largest piece in the middle whose ratio is allowed."""
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return Crop((height - h) // 2, (width - w) // 2, h, w)


def shorter_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width once the shorter of both is `side`, as Resize(side) rounds them."""
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def centre(height: int, width: int, size: int) -> Crop:
    """CenterCrop(size)'s piece of an image that is at least that large."""
    return Crop(round((height - size) / 2.0), round((width - size) / 2.0), size, size)
