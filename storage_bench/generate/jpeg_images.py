"""JPEG images of known content: each one, its class and its size can be made again from (seed, index).

    random stream -> sides, bytes wanted, class, texture
    class's colour + texture of zero mean + noise, as much as makes the file as large as wanted -> JPEG, quality 90

Sides and sizes are ImageNet's where nothing else is asked for: a file has 110 KB in the mean, log-normally spread, and
most images are 500 pixels wide; those of very large and very small files are larger and smaller.
The class is a function of the pixels wherever they are cut and however they are resized: the colour that the image has
in the mean is nearest to that of its class.  The same versions of simplejpeg and numpy give the same bytes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .dataset import NUM_CLASSES, GenerateJpeg
from .pixels import random_stream

QUALITY = 90
LEAST_BYTES, MOST_BYTES = 20_000, 400_000
SIDES = (
    (375, 500),
    (375, 500),
    (375, 500),
    (333, 500),
    (500, 375),
    (500, 333),
    (334, 500),
    (500, 500),
    (300, 400),
    (480, 640),
)

_SIDES, _BYTES, _PIXELS = 3, 4, 5  # streams of their own
_NORMAL = NormalDist()
_TEXTURE = 28.0  # amplitude in levels
_CELLS = 6
_SEARCH_STEPS = 4
_LEAST_NOISE, _MOST_NOISE = 2.0, 110.0
_LEAST_PER_PIXEL, _MOST_PER_PIXEL = 0.2, 0.8  # bytes that files of either noise have, with a margin


def jpeg_label(seed: int, index: int) -> int:
    """The class of image `index`, 0 to 9."""
    return int(random_stream(seed, index).random_raw() % NUM_CLASSES)


def jpeg_sides(config: GenerateJpeg, index: int) -> tuple[int, int]:
    """Height and width of image `index`: one of SIDES, or in its proportions where its file is too large or small.

    At one quality a pixel takes so many bits and no more, whatever it shows.
    """
    height, width = SIDES[int(random_stream(config.seed, index, _SIDES).random_raw() % len(SIDES))]
    per_pixel = jpeg_bytes_wanted(config, index) / (height * width)
    factor = math.sqrt(per_pixel / min(max(per_pixel, _LEAST_PER_PIXEL), _MOST_PER_PIXEL))
    return round(height * factor), round(width * factor)


def jpeg_bytes_wanted(config: GenerateJpeg, index: int) -> int:
    """How large image `index` should be: log-normal around the mean, cut off at LEAST_BYTES and MOST_BYTES."""
    share = (int(random_stream(config.seed, index, _BYTES).random_raw()) + 0.5) / 2**64
    drawn = math.exp(math.log(config.mean_bytes) - config.spread**2 / 2 + config.spread * _NORMAL.inv_cdf(share))
    return round(min(max(drawn, LEAST_BYTES), MOST_BYTES))


def jpeg_image(config: GenerateJpeg, index: int) -> bytes:
    """Image `index` as it stands in its record."""
    import simplejpeg

    def encoded(amount: float) -> bytes:
        pixels = np.multiply(noise, np.float32(amount))
        pixels += base
        levels = np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)
        return bytes(simplejpeg.encode_jpeg(levels, quality=QUALITY, colorspace="RGB", colorsubsampling="420"))

    base, noise = _base(config, index), _noise(config, index)
    wanted, low, high = jpeg_bytes_wanted(config, index), _LEAST_NOISE, _MOST_NOISE
    few, many = len(encoded(low)), len(encoded(high))
    if not few < wanted < many:
        return encoded(low if wanted <= few else high)
    for _ in range(_SEARCH_STEPS):  # more noise makes a larger file, nearly in proportion
        amount = low + (high - low) * (wanted - few) / (many - few)
        found = encoded(amount)
        if abs(len(found) - wanted) * 50 <= wanted:
            break
        if len(found) < wanted:
            low, few = amount, len(found)
        else:
            high, many = amount, len(found)
    return found


def label_of_image(pixels: NDArray[np.uint8]) -> int:
    """The class that the pixels of an image, or of a piece of it, (H, W, 3), show."""
    mean = pixels.reshape(-1, 3).mean(axis=0)
    return int(np.square(_colours() - mean).sum(axis=1).argmin())


@lru_cache(maxsize=1)
def _colours() -> NDArray[np.float64]:
    """A colour for each class, (classes, 3): evenly around the circle of hues, at two brightnesses."""
    angles = 2 * np.pi * np.arange(NUM_CLASSES) / NUM_CLASSES
    hues = np.cos(angles[:, None] - 2 * np.pi * np.arange(3) / 3)
    brightness = np.where(np.arange(NUM_CLASSES) % 2, 104.0, 152.0)
    return brightness[:, None] + 44.0 * hues


def _base(config: GenerateJpeg, index: int) -> NDArray[np.float32]:
    """The class's colour with waves over it, whose mean is zero over every few dozen pixels."""
    height, width = jpeg_sides(config, index)
    generator = np.random.Generator(random_stream(config.seed, index, _PIXELS))
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    waves = np.zeros((height, width), np.float32)
    for period, angle, phase in generator.uniform((8, 0, 0), (48, np.pi, 2 * np.pi), (_CELLS, 3)).tolist():
        turn = 2 * math.pi / period
        waves += np.sin(turn * (math.cos(angle) * columns + math.sin(angle) * rows) + phase)
    colour = _colours()[jpeg_label(config.seed, index)].astype(np.float32)
    base: NDArray[np.float32] = colour + (np.float32(_TEXTURE / math.sqrt(_CELLS)) * waves)[..., None]
    return base


def _noise(config: GenerateJpeg, index: int) -> NDArray[np.float32]:
    """Noise of every pixel, evenly within -1 to 1, (height, width, 3)."""
    height, width = jpeg_sides(config, index)
    words = (
        random_stream(config.seed, index, _PIXELS, 1).random_raw(-(-height * width * 3 // 8)).astype("<u8", copy=False)
    )
    levels = words.view(np.uint8)[: height * width * 3].reshape(height, width, 3)
    return levels.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
