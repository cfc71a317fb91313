"""One sample on its way: read bytes -> pixels, where they are wanted -> resized -> encoded, or raw as they are.

raw pixels      ------------------ size ------------------>  raw pixels
raw pixels      ------------------ size -- JPEG ---------->  encoded
encoded bytes   -- decoded ------- size ------------------>  raw pixels
encoded bytes   ------------------------------------------>  the same bytes, decoded only to see that they can be
encoded bytes   -- decoded ------- size -- JPEG ---------->  encoded, where a size or a quality asks for it
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ...loaders.formats.fields import encoding_of
from ...loaders.images.augment import Crop, centre, shorter_side
from ...loaders.images.decoders import MAX_PIXELS, BrokenImageError, Decoder
from ...loaders.images.decoding import use_one_core
from ...loaders.images.opening import open_decoder
from ...loaders.transforms import Cut, ImageNetValidation
from .settings import QUALITY, Convert, Fit

if TYPE_CHECKING:
    import torch

Encoding = Literal["raw", "jpeg", "png"]
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """Image `number` of the target as it is stored: `data` is pixels (H, W, C), or the bytes (n,) of an encoded one."""

    data: Array
    height: int
    width: int
    encoding: Encoding
    label: int
    number: int

    @property
    def stored(self) -> memoryview:
        """The bytes of the image as they are stored."""
        return stored_bytes(self.data)


def stored_bytes(data: Array) -> memoryview:
    """The bytes of an array as they are stored, in C order."""
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data


class Maker:
    """Makes samples of what was read; one serves all threads."""

    def __init__(self, config: Convert, *, encoded: bool) -> None:
        self._config = config
        self._decoder: Decoder | None = open_decoder("auto")[0] if encoded else None
        self._keeps = encoded and not config.raw and config.quality is None
        self._resizer: ImageNetValidation | None = None
        if config.size is not None:
            import torch

            self._resizer = ImageNetValidation(
                config.size, resize=config.size, dtype=torch.uint8, scaled_decoding=False
            )

    def begin_thread(self) -> None:
        """To be called once in each thread that makes samples beside others."""
        if self._resizer is not None:
            use_one_core()

    def make(self, read: Array, label: int, number: int) -> Sample:
        """The sample of what was `read` of one record; BrokenImageError where that is no whole image."""
        if self._decoder is None:
            return self._of_pixels(read, label, number)
        header = self._decoder.header(read)
        if self._keeps and self._cut(header.height, header.width) is None:
            if self._config.check:
                self._decoder.decode(read, header, scratch=None)
            return Sample(read, header.height, header.width, _encoding(read), label, number)
        return self._of_pixels(self._decoder.decode(read, header, scratch=None), label, number)

    def _of_pixels(self, pixels: Array, label: int, number: int) -> Sample:
        cut = self._cut(*pixels.shape[:2])
        if cut is not None:
            pixels = self._resized(pixels, cut)
        height, width = pixels.shape[:2]
        if self._config.raw:
            return Sample(pixels, height, width, "raw", label, number)
        return Sample(encode(pixels, self._config.quality or QUALITY), height, width, "jpeg", label, number)

    def _cut(self, height: int, width: int) -> Cut | None:
        """What becomes of an image of this size; None where it stays as it is."""
        if self._config.size is None:
            return None
        cut = fitted(height, width, self._config.size, self._config.fit)
        return None if cut.resized == (height, width) and cut.window == cut.piece else cut

    def _resized(self, pixels: Array, cut: Cut) -> Array:
        import torch

        assert self._resizer is not None  # there is a size where something is cut
        target = torch.empty((cut.window.height, cut.window.width, 3), dtype=torch.uint8)
        self._resizer.write(np.ascontiguousarray(pixels), cut, target, _room)
        return target.numpy()


def _encoding(data: Array) -> Encoding:
    kind = encoding_of(data.data)
    if kind not in ("JPEG", "PNG"):
        raise BrokenImageError(f"a {kind or 'foreign'} image, whose bytes cannot be kept; --quality makes it a JPEG")
    return "png" if kind == "PNG" else "jpeg"


def fitted(height: int, width: int, size: int, fit: Fit) -> Cut:
    """Which sides an image gets and what of it is kept; BrokenImageError where that is too many pixels."""
    whole = Crop(0, 0, height, width)
    if fit == "stretch":
        return Cut(whole, (size, size), Crop(0, 0, size, size))
    resized = shorter_side(height, width, size)
    if math.prod(resized) > MAX_PIXELS:
        raise BrokenImageError(f"{height} x {width} pixels become {resized[0]} x {resized[1]}, which is too many")
    return Cut(whole, resized, centre(*resized, size) if fit == "crop" else Crop(0, 0, *resized))


def encode(pixels: Array, quality: int) -> Array:
    """A JPEG of uint8 pixels (H, W, 3), or of (H, W, 1) in grey; colours at half the resolution, as is usual."""
    import simplejpeg

    if pixels.shape[2] == 1:
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorspace="GRAY")
    else:
        data = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling="420"
        )
    return np.frombuffer(data, np.uint8)


def _room(count: int, dtype: torch.dtype) -> torch.Tensor:
    import torch

    return torch.empty(count, dtype=dtype)
