"""Transforms that belong to a set of encoded images: every batch comes out with one size, normalised.

    ShardSet.open("imagenet/", transform=transforms.ImageNetTrain(size=224, dtype=torch.bfloat16))

    pixels (H, W, 3) -> piece -> resized, uint8 -> turned over? -> (x / 255 - mean) / std -> the batch's own memory

Resizing is bilinear with antialiasing, in uint8, as Pillow's.  Reader threads do all of it, image by image, right after
the decode, or the device that has decoded them (images/device_images.py); the numbers of a sample are a function of
(seed, epoch, record) alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from .images.augment import CROP_NUMBERS, Crop, centre, random_resized_crop, shorter_side
from .images.decoders import MAX_PIXELS, BrokenImageError, Pixels

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SCALE, RATIO, FLIP = (0.08, 1.0), (3 / 4, 4 / 3), 0.5  # of RandomResizedCrop and RandomHorizontalFlip, as ImageNet's
DTYPES = ("float32", "bfloat16", "float16", "uint8")
MAX_SIZE = 4096
SPARE = 2  # mean absolute errors then stay within a level of an exact resize, also of fine patterns

Scratch = Callable[[int, "torch.dtype"], "torch.Tensor"]  # so many elements at least, of the thread that calls


class TransformError(ValueError):
    """A transform that is asked for what it cannot do."""

    exit_status: ClassVar[int] = 2


class Cut(NamedTuple):
    """Which piece of an image becomes the sample: `piece` of it, resized to `resized`, and of that `window`."""

    piece: Crop
    resized: tuple[int, int]
    window: Crop
    flip: bool = False

    @property
    def shrink(self) -> int:
        """By how much a decode may shrink the image: the resize is left with SPARE times the pixels on each side.

        With fewer the decoder's means of squares would show: they are sharper than the resize's triangles.
        """
        least = min(self.piece.height / self.resized[0], self.piece.width / self.resized[1])
        return next(factor for factor in (8, 4, 2, 1) if least >= SPARE * factor or factor == 1)

    @property
    def needed(self) -> Crop:
        """The pixels of the image that the window is made of: no others are looked at for it."""
        piece, window = self.piece, self.window
        top = _before(piece.height, self.resized[0], window.top)
        left = _before(piece.width, self.resized[1], window.left)
        bottom = _beginning(piece.height, self.resized[0], window.top + window.height)[0]
        right = _beginning(piece.width, self.resized[1], window.left + window.width)[0]
        return Crop(piece.top + top, piece.left + left, bottom - top, right - left)


@runtime_checkable
class ImageTransform(Protocol):
    """What makes samples of one size of images of any, one at a time, in many threads at once."""

    @property
    def num_numbers(self) -> int:
        """How many uniform numbers a sample takes."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a sample."""

    @property
    def dtype(self) -> torch.dtype:
        """Of a sample's elements."""

    @property
    def scaled_decoding(self) -> bool:
        """Whether the decoder may shrink an image by 2, 4 or 8 where the piece is that much larger than the sample."""

    def cut(self, height: int, width: int, numbers: Sequence[float]) -> Cut:
        """The piece of an image of this size; `numbers` are its own, in [0, 1)."""

    def write(self, pixels: Pixels, cut: Cut, target: torch.Tensor, scratch: Scratch) -> None:
        """Make the sample of the image's `pixels` in `target` (height, width, 3).

        They may be shrunk, and `cut` with them.  Outside of `cut.needed` they may be anything, and rows below missing.
        """


@runtime_checkable
class NormalisedTransform(ImageTransform, Protocol):
    """One whose samples are the cut's window, turned over, and (x / 255 - mean) / std: a device can make them too."""

    @property
    def made_there(self) -> bool:
        """Whether that is all there is to `write`."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, taken off levels from 0 to 1."""

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, that it is divided by."""


class _Normalised:
    """What both transforms share: resize, window, flip and normalise, into a place of the batch."""

    def __init__(
        self,
        size: int,
        dtype: torch.dtype | None,
        mean: Sequence[float],
        std: Sequence[float],
        scaled_decoding: bool,
    ) -> None:
        import torch

        if not 1 <= size <= MAX_SIZE:
            raise TransformError(f"size {size} is not a number of pixels from 1 to {MAX_SIZE}")
        if dtype is not None and str(dtype).removeprefix("torch.") not in DTYPES:
            raise TransformError(f"dtype {dtype} is not one of {', '.join(DTYPES)}")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise TransformError(f"mean {tuple(mean)} and std {tuple(std)} are not three numbers each, std above 0")
        self.size = size
        self.shape = (size, size, 3)
        self.mean, self.std = tuple(mean), tuple(std)
        self.dtype: torch.dtype = dtype or torch.float32
        self.scaled_decoding = scaled_decoding
        # float64 first, so that the two factors are the nearest float32 to what they should be
        scale, shift = 1 / (255 * np.array(std, np.float64)), -np.array(mean, np.float64) / np.array(std, np.float64)
        self._scale = torch.from_numpy(np.tile(scale.astype(np.float32), size))
        self._shift = torch.from_numpy(np.tile(shift.astype(np.float32), size))

    @property
    def made_there(self) -> bool:
        """See NormalisedTransform; a class that writes in a way of its own cannot be had on a device."""
        return type(self).write is _Normalised.write

    def write(self, pixels: Pixels, cut: Cut, target: torch.Tensor, scratch: Scratch) -> None:
        """See ImageTransform."""
        import torch

        window = _window(pixels, cut, scratch)
        height, width, _ = target.shape
        if cut.flip:
            window = window.flip(1)
        if self.dtype == torch.uint8:
            target.copy_(window)
            return
        rows = target.view(height, width * 3)
        exact = (
            rows if self.dtype == torch.float32 else scratch(rows.numel(), torch.float32)[: rows.numel()].view_as(rows)
        )
        (target if exact is rows else exact.view(height, width, 3)).copy_(window)
        torch.addcmul(self._shift, exact, self._scale, out=exact)
        if exact is not rows:
            rows.copy_(exact)


class ImageNetTrain(_Normalised):
    """RandomResizedCrop to `size` x `size`, a horizontal flip with probability `flip`, normalise.

    Samples are (3, size, size) of `dtype` (float32 unless given, or bfloat16, float16; uint8 is not normalised).
    `scaled_decoding` lets the decoder shrink images whose piece is at least four times the sample's size: fewer pixels
    are made, by means of squares instead of the antialiased resize, and the piece begins and ends at whole squares.
    """

    num_numbers = CROP_NUMBERS + 1

    def __init__(
        self,
        size: int = 224,
        *,
        dtype: torch.dtype | None = None,
        scale: tuple[float, float] = SCALE,
        ratio: tuple[float, float] = RATIO,
        flip: float = FLIP,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        scaled_decoding: bool = True,
    ) -> None:
        if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1] < math.inf or not 0 <= flip <= 1:
            raise TransformError(
                f"scale {scale}, ratio {ratio}, flip {flip}: scale must rise within 0 to 1, ratio be above 0 and rise, "
                f"flip be a probability"
            )
        super().__init__(size, dtype, mean, std, scaled_decoding)
        self._scales, self._ratios, self._flip = scale, ratio, flip

    def cut(self, height: int, width: int, numbers: Sequence[float]) -> Cut:
        """See ImageTransform."""
        piece = random_resized_crop(height, width, numbers, scale=self._scales, ratio=self._ratios)
        whole = Crop(0, 0, self.size, self.size)
        return Cut(piece, (self.size, self.size), whole, numbers[CROP_NUMBERS] < self._flip)


class ImageNetValidation(_Normalised):
    """Resize the shorter side to `resize`, cut `size` x `size` out of the middle, normalise."""

    num_numbers = 0

    def __init__(
        self,
        size: int = 224,
        *,
        resize: int = 256,
        dtype: torch.dtype | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        scaled_decoding: bool = True,
    ) -> None:
        if not size <= resize <= MAX_SIZE:
            raise TransformError(f"resize {resize} is not from size {size} to {MAX_SIZE}: what is cut must fit into it")
        super().__init__(size, dtype, mean, std, scaled_decoding)
        self._resize = resize

    def cut(self, height: int, width: int, numbers: Sequence[float]) -> Cut:  # noqa: ARG002  # it draws none
        """See ImageTransform."""
        resized = shorter_side(height, width, self._resize)
        if math.prod(resized) > MAX_PIXELS:
            raise BrokenImageError(f"{height} x {width} pixels become {resized[0]} x {resized[1]}, which is too many")
        return Cut(Crop(0, 0, height, width), resized, centre(*resized, self.size))


def resize_of(size: int) -> int:
    """The shorter side before the middle is cut out: 256 for 224, and in that proportion."""
    return round(size * 256 / 224)


def shrunk_crop(crop: Crop, factor: int, height: int, width: int) -> Crop:
    """The piece once an image of height x width was shrunk: at the nearest whole squares of `factor` x `factor` pixels.

    A piece between two squares is moved by up to half a square: there are no pixels between those that were decoded.
    Squares that the image's edge cuts are left out.
    """
    most_high, most_wide = max(1, height // factor), max(1, width // factor)
    high, wide = (
        min(max(1, round(side / factor)), most) for side, most in ((crop.height, most_high), (crop.width, most_wide))
    )
    top, left = min(round(crop.top / factor), most_high - high), min(round(crop.left / factor), most_wide - wide)
    return Crop(top, left, high, wide)


def _window(pixels: Pixels, cut: Cut, scratch: Scratch) -> torch.Tensor:
    """The cut's window of its piece of `pixels`, resized, uint8 (height, width, 3); of a resize only as far as it goes.

    Few operators, on views that numpy or one of them makes: around each torch lets the interpreter go, and to have it
    again a thread may have to wait for another's.
    """
    import torch

    top, left, height, width = cut.piece
    window = cut.window
    if (height, width) == cut.resized:
        first, start = top + window.top, left + window.left
        return torch.from_numpy(pixels[first : first + window.height, start : start + window.width])
    rows, high = _beginning(height, cut.resized[0], window.top + window.height)
    columns, wide = _beginning(width, cut.resized[1], window.left + window.width)
    image = pixels.reshape(1, *pixels.shape)  # not by None: of that axis torch wants to see a stride
    piece = torch.from_numpy(image[:, top : top + rows, left : left + columns].transpose(0, 3, 1, 2))
    size, line = high * wide * 3, wide * 3
    resized = scratch(size, torch.uint8)
    scales = cut.resized[0] / height, cut.resized[1] / width  # of the whole piece
    # with an output in channels-last order its fast way for three interleaved channels is taken, and nothing allocated
    torch.ops.aten._upsample_bilinear2d_aa.out(
        piece, [high, wide], False, *scales, out=resized.as_strided((1, 3, high, wide), (size, 1, line, 3))
    )
    return resized.as_strided((window.height, window.width, 3), (line, 3, 1), window.top * line + window.left * 3)


def _beginning(length: int, resized: int, wanted: int) -> tuple[int, int]:
    """How many of `length` pixels to resize, and to how many, for the first `wanted` of those `resized`.

    The last one's middle lies at (wanted - 0.5) * scale, and its triangle reaches as far as the larger of 1 and scale.
    Where both numbers would be the same it is all pixels: torch then takes it that there is nothing to resize.
    """
    scale = length / resized
    pixels = min(length, math.ceil(scale * (wanted - 0.5) + max(scale, 1.0)) + 1)
    return (length, resized) if pixels == wanted else (pixels, wanted)


def _before(length: int, resized: int, first: int) -> int:
    """How many of `length` pixels lie before all that pixel `first` of those `resized`, and the next, are made of."""
    scale = length / resized
    return max(0, math.floor(scale * (first + 0.5) - max(scale, 1.0)) - 1)
