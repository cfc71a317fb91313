"""Work on a batch where it lies: raw bytes -> normalised floats, and records at places of their own -> one batch.

    normalise   uint8 (B, 3, H, W), strided view   -> (x / 255 - mean) / std, float, channels-last   one kernel
    gather      records anywhere in one buffer     -> uint8 (B, H, W, C) side by side                one kernel
    gather_normalised                              -> both of them in one kernel, each byte read once

On a GPU a Triton kernel does it (triton_kernels.py; torch's CUDA builds bring Triton), in the current stream; without
Triton, and on the CPU, torch's own operators do: the twin, which gives the same numbers but for the last bit of a
float32, where the one rounds a product and a sum together and the other one by one.  `why_eager` says why a device is
left to them.

Reads past the page cache land in aligned supersets: each record of a shuffled batch has a skew of its own, and a batch
has one stride only after a gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from .transforms import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FLOATS = ("torch.float32", "torch.bfloat16", "torch.float16")


class KernelError(ValueError):
    """A batch that a kernel does not take."""

    exit_status: ClassVar[int] = 2


def road(device: torch.device | str) -> str:
    """What does the work on this device: `triton`, or `eager`, torch's own operators."""
    return "triton" if why_eager(device) is None else "eager"


def why_eager(device: torch.device | str) -> str | None:
    """Why torch's own operators do the work on this device; None where Triton's kernels do.

    They do not where Triton would interpret them on the CPU, or could not launch them: it compiles a module of its own
    for that, with the system's C compiler and Python's headers, before its first launch.
    """
    return _why_no_triton() if "cuda" in str(device) else "Triton's kernels are for GPUs"


@lru_cache(maxsize=1)
def _why_no_triton() -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed"
    from .triton_kernels import why_not

    return why_not()


def normalise(
    images: Tensor,
    *,
    dtype: torch.dtype | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    out: Tensor | None = None,
) -> Tensor:
    """(images / 255 - mean) / std as `dtype` (float32 unless given), dense channels-last (B, 3, H, W).

    `images` are uint8 (B, 3, H, W) whose pixels are interleaved (strides (any, 1, any, 3)), as batches of a ShardSet
    and windows of them are; `out` takes the result.  Raises KernelError for any other batch.
    """
    import torch

    dtype = dtype or (torch.float32 if out is None else out.dtype)
    _check(images, dtype)
    out = _room(images.shape, dtype, images.device) if out is None else _checked(out, images.shape, dtype)
    scale, shift = factors(mean, std, images.device)
    if road(images.device) == "triton":
        from .triton_kernels import normalise_strided

        return normalise_strided(images, scale, shift, out)
    return _normalise_eager(images, scale, shift, out)


def gather(memory: Tensor, starts: Tensor, shape: tuple[int, int, int], *, out: Tensor | None = None) -> Tensor:
    """The records (H, W, C) that begin at `starts` (int64) of `memory` (bytes, one dimension), as (B, H, W, C).

    `starts` lie on the device of `memory`; on a GPU they are not looked at: a start beyond the memory is the caller's
    mistake.  Raises KernelError for anything but bytes and int64.
    """
    import torch

    _check_records(memory, starts)
    size = shape[0] * shape[1] * shape[2]
    if out is None:
        out = torch.empty((len(starts), *shape), dtype=torch.uint8, device=memory.device)
    if road(memory.device) == "triton":
        from .triton_kernels import gather_bytes

        gather_bytes(memory, starts, out.view(len(starts), size))
        return out
    _require_inside(memory, starts, size)
    if pieces := [memory[start : start + size] for start in starts.tolist()]:
        torch.stack(pieces, out=out.view(len(starts), size))
    return out


def gather_normalised(
    memory: Tensor,
    starts: Tensor,
    shape: tuple[int, int, int],
    *,
    dtype: torch.dtype | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    out: Tensor | None = None,
) -> Tensor:
    """`normalise(gather(memory, starts, shape))`, (B, 3, H, W) channels-last, without the bytes in between."""
    import torch

    _check_records(memory, starts)
    height, width, channels = shape
    if channels != 3:
        raise KernelError(f"records {shape}: three channels are normalised, not {channels}")
    dtype = dtype or (torch.float32 if out is None else out.dtype)
    size = torch.Size((len(starts), 3, height, width))
    _check_float(dtype)
    out = _room(size, dtype, memory.device) if out is None else _checked(out, size, dtype)
    scale, shift = factors(mean, std, memory.device)
    if road(memory.device) == "triton":
        from .triton_kernels import normalise_gathered

        return normalise_gathered(memory, starts, scale, shift, out)
    return _normalise_eager(gather(memory, starts, shape).permute(0, 3, 1, 2), scale, shift, out)


def factors(mean: Sequence[float], std: Sequence[float], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """scale and shift of x * scale + shift, float32 (3,) on the device, kept there; KernelError for no such numbers."""
    return _factors(tuple(mean), tuple(std), str(device))


def _normalise_eager(images: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """torch's own operators, in float32 and then rounded to the output's type."""
    import torch

    exact = torch.addcmul(shift.view(1, 3, 1, 1), images.float(), scale.view(1, 3, 1, 1))
    return out.copy_(exact)


def _room(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    import torch

    return torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)


@lru_cache(maxsize=16)
def _factors(mean: tuple[float, ...], std: tuple[float, ...], device: str) -> tuple[Tensor, Tensor]:
    """The nearest float32 to what they should be."""
    import torch

    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise KernelError(f"mean {mean} and std {std} are not three numbers each, std above 0")
    wide = torch.tensor([mean, std], dtype=torch.float64)
    scale, shift = 1 / (255 * wide[1]), -wide[0] / wide[1]
    return scale.float().to(device), shift.float().to(device)


def _check(images: Tensor, dtype: torch.dtype) -> None:
    _check_float(dtype)
    told = f"a batch of {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}, strides {images.stride()}"
    if str(images.dtype) != "torch.uint8" or images.dim() != 4 or images.shape[1] != 3:
        raise KernelError(f"{told}: bytes (B, 3, H, W) are normalised")
    if images.numel() and (images.stride(1) != 1 or (images.shape[3] > 1 and images.stride(3) != 3)):
        raise KernelError(f"{told}: its pixels must be interleaved, as those of a ShardSet's batches are")


def _check_float(dtype: torch.dtype) -> None:
    if str(dtype) not in FLOATS:
        raise KernelError(f"dtype {dtype} is not one of {', '.join(name.removeprefix('torch.') for name in FLOATS)}")


def _check_records(memory: Tensor, starts: Tensor) -> None:
    if str(memory.dtype) != "torch.uint8" or memory.dim() != 1 or not memory.is_contiguous():
        raise KernelError(f"memory of {memory.dtype} {tuple(memory.shape)}: records are gathered from a row of bytes")
    if str(starts.dtype) != "torch.int64" or starts.dim() != 1 or starts.device != memory.device:
        raise KernelError(
            f"starts of {starts.dtype} {tuple(starts.shape)} on {starts.device}: give a row of int64 on {memory.device}"
        )


def _require_inside(memory: Tensor, starts: Tensor, size: int) -> None:
    if len(starts) and (int(starts.min()) < 0 or int(starts.max()) + size > len(memory)):
        raise KernelError(
            f"records of {size} bytes from {int(starts.min())} to {int(starts.max())} do not lie in {len(memory)} bytes"
        )


def _checked(out: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    import torch

    if out.shape != shape or out.dtype != dtype or not out.is_contiguous(memory_format=torch.channels_last):
        raise KernelError(
            f"out is {out.dtype} {tuple(out.shape)}; give {dtype} {tuple(shape)} in channels-last order, or none"
        )
    return out
