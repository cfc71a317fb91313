"""Bytes on the device -> tensors, as the host's views show them: strided batches, and samples of unequal size."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ..formats.ragged import Extents
from ..plan import Indices
from .device import DestinationError

if TYPE_CHECKING:
    import torch


def strided(
    memory: torch.Tensor, *, shape: Sequence[int], strides: Sequence[int], offset: int, dtype: torch.dtype
) -> torch.Tensor:
    """A view of `memory`, uint8 (n), with byte strides at a byte offset.

    Raises DestinationError where elements would not lie at multiples of their size: a device cannot load them.
    """
    item = dtype.itemsize
    if offset % item or any(stride % item for stride in strides):
        raise DestinationError(
            f"elements of {item} bytes would lie at byte {offset} and every {strides[0]} bytes, and a GPU loads them "
            f"at multiples of {item} only; write the data as tensor shards, or ask for device='cpu'"
        )
    end = len(memory) - len(memory) % item
    elements = memory[:end].view(dtype)
    return elements.as_strided(tuple(shape), tuple(stride // item for stride in strides), offset // item)


def samples(memory: torch.Tensor, records: Indices, places: Indices, extents: Extents) -> list[torch.Tensor]:
    """The samples of a batch as views of `memory`, each with the shape and dtype that it has in its file."""
    import torch

    dtype = torch.from_numpy(np.empty(0, extents.dtype)).dtype
    starts, lengths = places.tolist(), extents.lengths[records].tolist()
    if extents.shapes is None:
        return [memory[start : start + length].view(dtype) for start, length in zip(starts, lengths, strict=True)]
    shapes: list[list[int]] = extents.shapes[records].tolist()
    orders = [0] * len(records) if extents.fortran is None else extents.fortran[records].tolist()
    return [
        strided(memory, shape=shape, strides=_strides(shape, dtype.itemsize, fortran), offset=start, dtype=dtype)
        for start, shape, fortran in zip(starts, shapes, orders, strict=True)
    ]


def _strides(shape: Sequence[int], item: int, fortran: int) -> list[int]:
    """Byte strides of an array whose last, or with `fortran` first, index moves fastest."""
    if fortran:
        return [item * prod(shape[:number]) for number in range(len(shape))]
    return [item * prod(shape[number + 1 :]) for number in range(len(shape))]
