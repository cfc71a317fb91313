"""Images of known content: every pixel and the label can be computed again from (seed, index).

    (seed, index) -> random stream -> word 0: label     words 1 ...: pixels, class patch set in the middle

Pixels do not compress and no block comes twice, so storage that compresses or deduplicates gains nothing.  The label is
a function of the pixels: the top bits of a centred square spell one of ten 4x4 patterns, 8 of 16 cells apart pairwise.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .dataset import NUM_CLASSES

# Rows 1 to 10 of the 16x16 Walsh-Hadamard matrix: any two differ in 8 of 16 places.
_CODES = np.array([[(row & cell).bit_count() & 1 for cell in range(16)] for row in range(1, NUM_CLASSES + 1)], np.uint8)


def sample_label(seed: int, index: int) -> int:
    """The class of image `index`, 0 to 9."""
    return int(random_stream(seed, index).random_raw() % NUM_CLASSES)


def sample_pixels(seed: int, index: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Image `index` alone, uint8 (height, width, channels), as it stands in its record."""
    return draw(seed, index, shape)[0]


def label_of_pixels(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The class that the pixels of each image (..., H, W, C) spell, int64 (...); of a single image a scalar."""
    patch = images[(..., *_patch(images.shape[-3:]), slice(None))] >> 7
    ones = patch.reshape(*patch.shape[:-3], -1).astype(np.float32)
    patterns = _patterns(*patch.shape[-2:]).reshape(NUM_CLASSES, -1) / np.float32(64) - 1
    return np.asarray(np.argmax(ones @ patterns.T, axis=-1), np.int64)[()]


def random_stream(seed: int, *key: int) -> np.random.SFC64:
    """The stream of one sample, or of one part of it."""
    # A spawn key keeps (seed, index) pairs apart whatever their sizes; raw words are the same in every numpy (NEP 19).
    return np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key))


def draw(seed: int, index: int, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], int]:
    """Image and label `index`."""
    num_bytes = math.prod(shape)
    words = random_stream(seed, index).random_raw(1 + -(-num_bytes // 8)).astype("<u8", copy=False)
    label = int(words[0] % NUM_CLASSES)
    image: NDArray[np.uint8] = words[1:].view(np.uint8)[:num_bytes].reshape(shape)
    patch = image[_patch(shape)]
    patch &= 0x7F
    patch |= _patterns(*patch.shape[1:])[label]
    return image, label


def _patch(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the centred square that carries the class."""
    side = min(32, min(shape[:2]) // 2)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    return slice(top, top + side), slice(left, left + side)


@lru_cache(maxsize=8)
def _patterns(side: int, channels: int) -> NDArray[np.uint8]:
    """The top bits of each class's square, 0 or 128, (classes, side, side, channels)."""
    cell = np.arange(side) * 4 // side
    bits = _CODES.reshape(NUM_CLASSES, 4, 4)[:, cell[:, None], cell] * np.uint8(128)
    return np.repeat(bits[..., None], channels, axis=-1)
