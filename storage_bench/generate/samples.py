"""Opaque samples of known content: how many bytes each one has, and all of them, from (seed, index).

    sample     | piece 0, 1 MiB | piece 1 | ... | the rest |     piece p: random stream (seed, index, p)

Sizes are normal, cut off two standard deviations from their mean on either side, so that the mean stays what it is.
Pieces are made independently of one another, in any thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .dataset import TRUNCATED_AT_SD, GenerateSamples
from .pixels import random_stream

PIECE_BYTES = 1 << 20

_SIZES, _PIECES = 1, 2  # streams of their own, beside the one that the label comes from
_NORMAL = NormalDist()
_LOW, _HIGH = _NORMAL.cdf(-TRUNCATED_AT_SD), _NORMAL.cdf(TRUNCATED_AT_SD)


@lru_cache(maxsize=2)
def sample_sizes(config: GenerateSamples) -> NDArray[np.int64]:
    """Bytes of every sample, int64 (n,); of an npz array these are height times width."""
    if not config.sample_bytes_sd:
        return np.broadcast_to(np.int64(_stored_size(config, config.sample_bytes)), config.num_images)
    drawn = (_stored_size(config, _drawn_size(config, index)) for index in range(config.num_images))
    sizes = np.fromiter(drawn, np.int64, config.num_images)
    sizes.flags.writeable = False
    return sizes


def least_bytes(config: GenerateSamples) -> int:
    """What all samples take at least, known without drawing their sizes."""
    least = config.sample_bytes - TRUNCATED_AT_SD * config.sample_bytes_sd
    return config.num_images * _stored_size(config, math.floor(least))


def sides_of(num_bytes: int) -> tuple[int, int]:
    """Height and width of the squarest array that `num_bytes` are enough for, as DLIO's arrays are nearly square."""
    height = math.isqrt(num_bytes)
    return height, num_bytes // height


def sample_bytes_of(config: GenerateSamples, index: int) -> NDArray[np.uint8]:
    """All bytes of sample `index`, uint8 (n,)."""
    return np.concatenate(list(pieces_of(config.seed, index, int(sample_sizes(config)[index]))))


def pieces_of(seed: int, index: int, num_bytes: int) -> Iterator[NDArray[np.uint8]]:
    """The pieces of a sample in order."""
    for number, length in enumerate(piece_lengths(num_bytes)):
        yield piece_bytes(seed, index, number, length)


def piece_lengths(num_bytes: int) -> list[int]:
    """How long the pieces of a sample are."""
    whole, rest = divmod(num_bytes, PIECE_BYTES)
    return [PIECE_BYTES] * whole + ([rest] if rest else [])


def piece_bytes(seed: int, index: int, number: int, length: int) -> NDArray[np.uint8]:
    """One piece of a sample."""
    words = random_stream(seed, index, _PIECES, number).random_raw(-(-length // 8)).astype("<u8", copy=False)
    return words.view(np.uint8)[:length]


def _stored_size(config: GenerateSamples, num_bytes: int) -> int:
    return math.prod(sides_of(num_bytes)) if config.format == "npz" else num_bytes


def _drawn_size(config: GenerateSamples, index: int) -> int:
    share = (int(random_stream(config.seed, index, _SIZES).random_raw()) + 0.5) / 2**64
    deviation = _NORMAL.inv_cdf(_LOW + share * (_HIGH - _LOW))
    return round(config.sample_bytes + config.sample_bytes_sd * deviation)
