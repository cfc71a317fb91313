"""Samples of a batch of decoded images of many sizes: one kernel for all, beside torch's operators image by image.

Levels may differ by one where a half is rounded: the two add up in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...loaders.device_kernels import normalise
from ...loaders.images.augment import uniforms
from ...loaders.images.device_images import write_eagerly, write_samples
from ...loaders.transforms import Cut, ImageNetTrain

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SIZES = ((375, 500), (500, 375), (333, 500), (480, 640))  # such as ImageNet's are
SIDE = 224  # of the samples of these
ROUNDED = 0.01  # of all levels: those that may be one off
CHECKED = 32  # images: the CPU makes them as well
TOLERANCE = 2.0**-7  # of a value: one bit of bfloat16


class SamplesWrongError(RuntimeError):
    """The device does not make the CPU's samples."""

    exit_status: ClassVar[int] = 3


@dataclass(frozen=True, slots=True)
class SampleWork:
    """Images (H, W, 3) on the device, where each is cut, and the batch (B, side, side, 3) that is made of them."""

    pixels: Sequence[Tensor]
    cuts: Sequence[Cut]
    transform: ImageNetTrain
    out: Tensor

    def make(self) -> None:
        """By the device's own way."""
        write_samples(self.pixels, self.cuts, self.transform, self.out)

    def make_eagerly(self) -> None:
        """By torch's operators, image by image."""
        write_eagerly(self.pixels, self.cuts, self.transform, self.out)

    def first(self, count: int, device: str, dtype: torch.dtype) -> SampleWork:
        """The same of its first images, with a batch of its own there."""
        import torch

        transform = ImageNetTrain(self.transform.size, dtype=dtype)
        pixels = [image.to(device) for image in self.pixels[:count]]
        out = torch.empty((len(pixels), *transform.shape), dtype=dtype, device=device)
        return replace(self, pixels=pixels, cuts=self.cuts[:count], transform=transform, out=out)


def sample_work(device: str, *, count: int, side: int) -> SampleWork:
    """Noise in the sizes of photographs, in proportion to the sample's side; bfloat16."""
    import torch

    random = torch.Generator().manual_seed(11)
    transform = ImageNetTrain(side, dtype=torch.bfloat16)
    numbers = uniforms(11, 0, np.arange(count), transform.num_numbers).tolist()
    pixels, cuts = [], []
    for (height, width), mine in zip(islice(cycle(SIZES), count), numbers, strict=True):
        shape = (height * side // SIDE, width * side // SIDE, 3)
        pixels.append(torch.randint(0, 256, shape, dtype=torch.uint8, generator=random).to(device))
        cuts.append(transform.cut(*shape[:2], mine))
    out = torch.empty((count, *transform.shape), dtype=transform.dtype, device=device)
    return SampleWork(pixels, cuts, transform, out)


def require_samples(work: SampleWork) -> None:
    """Raise SamplesWrongError unless the device makes the CPU's levels, and normalises these as `normalise` does."""
    import torch

    device = str(work.out.device)
    there, here = work.first(CHECKED, device, torch.uint8), work.first(CHECKED, "cpu", torch.uint8)
    there.make()
    here.make_eagerly()
    away = (there.out.cpu().int() - here.out.int()).abs()
    share = float((away > 0).float().mean())
    if int(away.max()) > 1 or share > ROUNDED:
        raise SamplesWrongError(
            f"samples: {share:.2%} of the levels are off those of the CPU, by up to {int(away.max())}; please report it"
        )
    exact = work.first(CHECKED, device, torch.bfloat16)
    exact.make()
    wanted = normalise(there.out.permute(0, 3, 1, 2), dtype=torch.bfloat16).permute(0, 2, 3, 1).float()
    if bool(((exact.out.float() - wanted).abs() > TOLERANCE * wanted.abs()).any()):
        raise SamplesWrongError("samples: they are not normalised as `normalise` does it; please report it")
