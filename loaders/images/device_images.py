"""From pixels of many sizes on the device to one batch there: cut, resized, turned over, normalised.

    decoded (H, W, 3) uint8, sizes of their own -> transform.cut -> resized in float, bytes -> (x - mean) / std -> batch

On a GPU one Triton kernel makes a whole batch (sample_kernel.py); elsewhere, and without Triton, torch's operators do,
image by image: `made_by` says which, and why.

Where an image is cut and whether it is turned over is decided by the same numbers as on the CPU: (seed, epoch, record)
alone.  The resize is torch's antialiased one in float32, where the CPU's rounds to bytes in between: values are within
two levels of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..device_kernels import KernelError, factors, normalise, why_eager
from ..transforms import Cut, NormalisedTransform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .augment import Crop


def made_by(device: torch.device | str) -> str:
    """What makes the samples on this device, as records say it."""
    why = why_eager(device)
    return "one Triton kernel a batch" if why is None else f"torch's operators, image by image ({why})"


def samples_of(pixels: Sequence[Tensor], transform: NormalisedTransform, numbers: Sequence[Sequence[float]]) -> Tensor:
    """The batch (B, 3, height, width) of `transform.dtype`, channels-last, on the device of `pixels`.

    `numbers` are each image's own, as many as the transform draws.
    """
    import torch

    height, width, channels = transform.shape
    out = torch.empty((len(pixels), height, width, channels), dtype=transform.dtype, device=pixels[0].device)
    sizes = [(image.shape[0], image.shape[1]) for image in pixels]
    cuts = [transform.cut(*size, mine) for size, mine in zip(sizes, numbers, strict=True)]
    write_samples(pixels, cuts, transform, out)
    return out.permute(0, 3, 1, 2)


def write_samples(pixels: Sequence[Tensor], cuts: Sequence[Cut], transform: NormalisedTransform, out: Tensor) -> None:
    """Make the batch `out` (B, height, width, 3), dense and of `transform.dtype`, in the current stream.

    Raises KernelError for anything but bytes (H, W, 3), and for a cut that is not within its image.
    """
    for image, cut in zip(pixels, cuts, strict=True):
        require_cut(image, cut, out)
    there = [image.to(out.device, non_blocking=True) for image in pixels]
    if why_eager(out.device) is not None:
        write_eagerly(there, cuts, transform, out)
        return
    from .sample_kernel import write_batch

    write_batch(there, cuts, *factors(transform.mean, transform.std, out.device), out)


def write_eagerly(pixels: Sequence[Tensor], cuts: Sequence[Cut], transform: NormalisedTransform, out: Tensor) -> None:
    """The same by torch's operators, image by image; `pixels` are on the device of `out`."""
    import torch

    bytes_alone = transform.dtype == torch.uint8
    whole = out if bytes_alone else torch.empty(out.shape, dtype=torch.uint8, device=out.device)
    for target, image, cut in zip(whole, pixels, cuts, strict=True):
        write_piece(image, cut, target)
    if not bytes_alone:
        images, target = whole.permute(0, 3, 1, 2), out.permute(0, 3, 1, 2)
        normalise(images, dtype=transform.dtype, mean=transform.mean, std=transform.std, out=target)


def write_piece(image: Tensor, cut: Cut, target: Tensor) -> None:
    """Make the window of an image's resized piece in `target` (height, width, 3), bytes rounded to the nearest level.

    In few calls, each of which is a kernel's launch: a half is added while levels become floats, and stays a half,
    since the weights of a resize add up to one; what a float has behind its point is cut off as it becomes a byte.
    """
    import torch
    from torch.nn.functional import interpolate

    top, left, height, width = cut.piece
    planes = image[top : top + height, left : left + width].permute(2, 0, 1)
    if (height, width) != cut.resized:
        wide = torch.add(planes[None], 0.5)
        planes = interpolate(wide, size=list(cut.resized), mode="bilinear", antialias=True, align_corners=False)[0]
    top, left, height, width = cut.window
    window = planes[:, top : top + height, left : left + width]
    target.copy_((window.flip(2) if cut.flip else window).permute(1, 2, 0))


def require_cut(image: Tensor, cut: Cut, out: Tensor) -> None:
    """Raise KernelError unless `cut` makes a sample of `out` (B, height, width, 3) of this image.

    A kernel is given addresses: whatever a cut says beyond the image it would read.
    """
    piece, resized, window, _ = cut
    if str(image.dtype) != "torch.uint8" or image.dim() != 3 or image.shape[2] != 3:
        raise KernelError(f"an image of {image.dtype} {tuple(image.shape)}: samples are made of bytes (H, W, 3)")
    if not _within(piece, image.shape[0], image.shape[1]) or not _within(window, *resized):
        raise KernelError(
            f"{piece} of {image.shape[0]} x {image.shape[1]} pixels, resized to {resized[0]} x {resized[1]}, and of "
            f"that {window}: a transform's cut must be within its image"
        )
    if (window.height, window.width) != tuple(out.shape[1:3]):
        raise KernelError(f"{window} does not fill a sample of {out.shape[1]} x {out.shape[2]} pixels")


def _within(crop: Crop, height: int, width: int) -> bool:
    top, left, high, wide = crop
    return top >= 0 and left >= 0 and high > 0 and wide > 0 and top + high <= height and left + wide <= width
