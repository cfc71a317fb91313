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

Table = npt.NDArray[np.int64]
BLOCK = 512  # values; four for each thread of a program
NUM_TOLD = 9  # numbers of each image in the table


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _weight(first, step, length, away, reach):  # type: ignore[no-untyped-def]
    """How high a triangle is over the pixel `step` behind the first below it; nothing where the piece has ended."""
    return tl.where(first + step < length, tl.maximum(reach - tl.abs(away + step), 0.0), 0.0)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _samples(  # type: ignore[no-untyped-def]  # Triton compiles annotations as well, and knows its own only
    table, scales, shifts, target, row_values, size, num_blocks,
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

    told = table + image * 9  # NUM_TOLD
    source = tl.load(told).to(tl.pointer_type(tl.uint8))
    row_stride, height, width = tl.load(told + 1), tl.load(told + 2).to(tl.int32), tl.load(told + 3).to(tl.int32)
    ratio_y = tl.div_rn(height.to(tl.float32), tl.load(told + 4).to(tl.float32))
    ratio_x = tl.div_rn(width.to(tl.float32), tl.load(told + 5).to(tl.float32))
    new_row = row + tl.load(told + 6).to(tl.int32)
    new_column = tl.load(told + 7).to(tl.int32) + within // 3 * tl.load(told + 8).to(tl.int32)
    reach_y, reach_x = tl.maximum(ratio_y, 1.0), tl.maximum(ratio_x, 1.0)
    num_rows, num_columns = tl.ceil(2 * reach_y).to(tl.int32), tl.ceil(2 * reach_x).to(tl.int32)
    middle_y, middle_x = (new_row.to(tl.float32) + 0.5) * ratio_y, (new_column.to(tl.float32) + 0.5) * ratio_x
    first_y = tl.maximum((middle_y - reach_y + 0.5).to(tl.int32), 0)
    first_x = tl.maximum((middle_x - reach_x + 0.5).to(tl.int32), 0)
    away_y, away_x = first_y.to(tl.float32) + 0.5 - middle_y, first_x.to(tl.float32) + 0.5 - middle_x

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
        table = _sent(table_of(images, cuts), out.device)
        _samples[(len(images) * num_blocks,)](
            table, scale, shift, out, width * channels, size, num_blocks,
            bytes_alone=out.dtype == torch.uint8, block=BLOCK,
        )  # fmt: skip


def table_of(images: Sequence[Tensor], cuts: Sequence[Cut]) -> Table:
    """What the kernel is told of each image, int64 (B, NUM_TOLD).

    The address of its piece, bytes from row to row, height and width of the piece, height and width that it is resized
    to, the window's first row, its first column and the step to the next one: -1 where it is turned over.
    """
    told = []
    for image, (piece, resized, window, flip) in zip(images, cuts, strict=True):
        stride = image.stride(0)
        start = image.data_ptr() + piece.top * stride + piece.left * 3
        left, step = (window.left + window.width - 1, -1) if flip else (window.left, 1)
        told.append((start, stride, piece.height, piece.width, *resized, window.top, left, step))
    return np.array(told, np.int64).reshape(-1, NUM_TOLD)


def _interleaved(image: Tensor) -> Tensor:
    """Rows may have any stride, pixels have none but their own."""
    return image if image.stride(2) == 1 and image.stride(1) == 3 else image.contiguous()


def _sent(table: Table, device: torch.device) -> Tensor:
    """The table on the device, by a copy that nothing waits for.

    Page-locked memory is torch's own: it is given out again once the event behind the copy has passed.
    """
    host = torch.empty(table.shape, dtype=torch.int64, pin_memory=device.type == "cuda")
    host.numpy()[:] = table
    return host.to(device, non_blocking=True)
