"""One Triton kernel for a whole batch of decoded images: cut, resized, turned over and normalised where the batch lies.

    table (on the host, one copy)     a row for each image: where its piece begins, how large that is, which window
    program                           BLOCK values of one sample, in the order of the batch (B, height, width, 3)
        value = round(sum of high * wide * byte / sum of high * wide)  over the bytes below the resize's triangle
              * scale + shift of its channel, as the batch's type

The triangle is torch's antialiased bilinear one: as high as its reach, max(1, old size / new size), and divided by what
it adds up to within the image.  Each byte is read about four times where images shrink, out of the L1 cache, and what
lies between the two directions is never written: a pass for each direction would move more than it saves.

Only imported where Triton is.  TRITON_INTERPRET=1 runs the same lines on the CPU, which the tests do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from ..device_kernels import KernelError
from ..transforms import Cut

if TYPE_CHECKING:
    from torch import Tensor

Places = npt.NDArray[np.int64]
Ratios = npt.NDArray[np.float32]
BLOCK = 512  # values; four for each thread of a program
NUM_PLACES, NUM_SCALES = 9, 2  # int64 and float32 of an image's row


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _weight(first, step, length, away, reach):  # type: ignore[no-untyped-def]
    """How high a triangle is over the pixel `step` behind the first below it; nothing where the piece has ended."""
    return tl.where(first + step < length, tl.maximum(reach - tl.abs(away + step), 0.0), 0.0)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _samples(  # type: ignore[no-untyped-def]  # Triton compiles annotations as well, and knows its own only
    places, ratios, scales, shifts, target, row_values, size, num_blocks,
    bytes_alone: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One block of a sample; rows of the table are as `table_of` makes them.

    Places beyond the sample, and pixels beyond the piece, are those at its edge again, the latter of no weight: loads
    that no mask guards are fewer instructions.
    """
    image = (tl.program_id(0) // num_blocks).to(tl.int64)
    place = (tl.program_id(0) % num_blocks) * block + tl.arange(0, block)
    value = tl.minimum(place, size - 1)
    row, within = value // row_values, value % row_values
    channel = within % 3

    told = places + image * 9
    source = tl.load(told).to(tl.pointer_type(tl.uint8))
    row_stride, height, width = tl.load(told + 1), tl.load(told + 2).to(tl.int32), tl.load(told + 3).to(tl.int32)
    new_row = row + tl.load(told + 4).to(tl.int32)
    new_column = tl.load(told + 5).to(tl.int32) + within // 3 * tl.load(told + 6).to(tl.int32)
    ratio_y, ratio_x = tl.load(ratios + image * 2), tl.load(ratios + image * 2 + 1)
    reach_y, reach_x = tl.maximum(ratio_y, 1.0), tl.maximum(ratio_x, 1.0)
    middle_y, middle_x = (new_row.to(tl.float32) + 0.5) * ratio_y, (new_column.to(tl.float32) + 0.5) * ratio_x
    first_y = tl.maximum((middle_y - reach_y + 0.5).to(tl.int32), 0)
    first_x = tl.maximum((middle_x - reach_x + 0.5).to(tl.int32), 0)
    away_y, away_x = first_y.to(tl.float32) + 0.5 - middle_y, first_x.to(tl.float32) + 0.5 - middle_x

    num_rows, num_columns = tl.load(told + 7).to(tl.int32), tl.load(told + 8).to(tl.int32)

    width_weight = tl.zeros((block,), tl.float32)
    for right in range(num_columns):
        width_weight += _weight(first_x, right, width, away_x, reach_x)
    height_weight = tl.zeros((block,), tl.float32)
    total = tl.zeros((block,), tl.float32)
    for down in range(num_rows):
        line = source + tl.minimum(first_y + down, height - 1) * row_stride + channel
        across = tl.zeros((block,), tl.float32)
        for right in range(num_columns):
            byte = tl.load(line + tl.minimum(first_x + right, width - 1) * 3).to(tl.float32)
            across += _weight(first_x, right, width, away_x, reach_x) * byte
        high = _weight(first_y, down, height, away_y, reach_y)
        total += high * across
        height_weight += high

    level = tl.floor(total / (height_weight * width_weight) + 0.5)
    if not bytes_alone:
        level = level * tl.load(scales + channel) + tl.load(shifts + channel)
    tl.store(target + image * size + place, level.to(target.dtype.element_ty), mask=place < size)


def write_batch(images: Sequence[Tensor], cuts: Sequence[Cut], scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """Make the batch `out` (B, height, width, 3), dense, of `images` (H, W, 3) uint8 on its device.

    In the current stream, without waiting for it; `scale` and `shift` of each channel are not looked at where `out`
    takes bytes.  Memory of `images` may go back in the order of that stream.  `cuts` are within their images, which
    nothing here looks at.  Raises KernelError where `out` is not dense.
    """
    if not out.is_contiguous():
        raise KernelError(f"out {tuple(out.shape)} has strides {out.stride()}: a batch is made in dense memory")
    if not out.numel():
        return
    images = [_interleaved(image) for image in images]
    _, height, width, channels = out.shape
    size = height * width * channels
    num_blocks = triton.cdiv(size, BLOCK)
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        places, ratios = _sent(*table_of(images, cuts), out.device)
        _samples[(len(images) * num_blocks,)](
            places, ratios, scale, shift, out, width * channels, size, num_blocks,
            bytes_alone=out.dtype == torch.uint8, block=BLOCK,
        )  # fmt: skip


def table_of(images: Sequence[Tensor], cuts: Sequence[Cut]) -> tuple[Places, Ratios]:
    """What the kernel is told of each image, int64 (B, NUM_PLACES) and float32 (B, NUM_SCALES).

    The address of its piece, bytes from row to row, height and width of the piece; the window's first row, its first
    column and the step to the next one, -1 where it is turned over; how many pixels are below a triangle, in rows and
    columns.  And old size over new, of rows and columns.
    """
    rows, sizes = [], []
    for image, (piece, resized, window, flip) in zip(images, cuts, strict=True):
        stride = image.stride(0)
        start = image.data_ptr() + piece.top * stride + piece.left * 3
        left, step = (window.left + window.width - 1, -1) if flip else (window.left, 1)
        below = (_below(piece.height, resized[0]), _below(piece.width, resized[1]))
        rows.append((start, stride, piece.height, piece.width, window.top, left, step, *below))
        sizes.append((piece.height, piece.width, *resized))
    extents = np.array(sizes, np.float32).reshape(-1, 4)
    return np.array(rows, np.int64).reshape(-1, NUM_PLACES), extents[:, :2] / extents[:, 2:]


def _interleaved(image: Tensor) -> Tensor:
    """Rows may have any stride, pixels have none but their own."""
    return image if image.stride(2) == 1 and image.stride(1) == 3 else image.contiguous()


def _below(length: int, resized: int) -> int:
    """How many pixels' middles are within a triangle's foot at most, which is open: 2 * max(1, length / resized)."""
    return max(2, -(-2 * length // resized))


def _sent(places: Places, ratios: Ratios, device: torch.device) -> tuple[Tensor, Tensor]:
    """Both on the device, in one copy that nothing waits for.

    The page-locked memory is torch's own: it is given out again once the event behind the copy has passed.
    """
    host = torch.empty(places.nbytes + ratios.nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
    host.numpy()[: places.nbytes] = places.reshape(-1).view(np.uint8)
    host.numpy()[places.nbytes :] = ratios.reshape(-1).view(np.uint8)
    there = host.to(device, non_blocking=True)
    return there[: places.nbytes].view(torch.int64), there[places.nbytes :].view(torch.float32)
