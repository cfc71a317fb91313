"""The Triton kernels behind device_kernels.py: a program is a block of one image's bytes.

    program (i, j)   bytes j * BLOCK to (j + 1) * BLOCK of image i, in the order of the output (H, W, 3)
                     from   start of image i + row * row_stride + place in the row
                     to     i * size + place, dense

Only imported where Triton is.  TRITON_INTERPRET=1 runs the same lines on the CPU, which the tests do.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2048


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _normalise(  # type: ignore[no-untyped-def]  # Triton compiles annotations as well, and knows its own only
    source, starts, image_stride, row_stride, scales, shifts, target, row_bytes, size,
    strided: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One block of an image: x * scale + shift of its channel, as the target's type."""
    image = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * block + tl.arange(0, block)
    mine = place < size
    row, within = place // row_bytes, place % row_bytes
    start = image * image_stride if strided else tl.load(starts + image)
    values = tl.load(source + start + row * row_stride + within, mask=mine, other=0).to(tl.float32)
    channel = within % 3
    result = values * tl.load(scales + channel) + tl.load(shifts + channel)
    tl.store(target + image * size + place, result.to(target.dtype.element_ty), mask=mine)


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _gather(source, starts, target, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """One block of a record's bytes."""
    record = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * block + tl.arange(0, block)
    mine = place < size
    values = tl.load(source + tl.load(starts + record) + place, mask=mine, other=0)
    tl.store(target + record * size + place, values, mask=mine)


def why_not() -> str | None:
    """Why these kernels are not for this process to launch on a GPU; None where they are."""
    if not isinstance(_gather, triton.runtime.JITFunction):
        return "TRITON_INTERPRET is set: Triton would run its kernels on the CPU"
    try:
        triton.runtime.driver.active.utils  # noqa: B018  # made here: what launches kernels
    except (RuntimeError, OSError, ImportError, AssertionError, subprocess.CalledProcessError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"Triton cannot launch kernels (it needs a C compiler and Python's headers): {told}"
    return None


def normalise_strided(images: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """See device_kernels.normalise; images (B, 3, H, W) at one stride, out channels-last."""
    count, _, height, width = images.shape
    if out.numel():
        with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
            _normalise[_grid(count, height * width * 3)](
                images, images, images.stride(0), images.stride(2), scale, shift, out, width * 3, height * width * 3,
                strided=True, block=BLOCK,
            )  # fmt: skip
    return out


def normalise_gathered(memory: Tensor, starts: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """See device_kernels.gather_normalised; records are dense (H, W, 3) at `starts`."""
    count, _, height, width = out.shape
    if out.numel():
        with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
            _normalise[_grid(count, height * width * 3)](
                memory, starts, 0, width * 3, scale, shift, out, width * 3, height * width * 3,
                strided=False, block=BLOCK,
            )  # fmt: skip
    return out


def gather_bytes(memory: Tensor, starts: Tensor, out: Tensor) -> None:
    """See device_kernels.gather; out (B, bytes of a record)."""
    if out.numel():
        with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
            _gather[_grid(*out.shape)](memory, starts, out, out.shape[1], block=BLOCK)


def _grid(count: int, size: int) -> tuple[int, int]:
    return count, triton.cdiv(size, BLOCK)
