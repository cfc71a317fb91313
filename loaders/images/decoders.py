"""Decoders: the bytes of an encoded image -> pixels, uint8 (height, width, 3), upright and RGB.

    libjpeg-turbo  regions of baseline and progressive JPEG in grey or YCbCr, nearly all there is (regions.py)
    simplejpeg     whole images of those, and the upper rows of baseline ones
    Pillow         what is left: CMYK, Exif-rotated, PNG, and what libjpeg-turbo has doubts of

One decoder serves all reader threads; `scratch` is memory of the thread that calls.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .augment import Crop
from .jpeg import UPRIGHT, start_of

DecoderName = Literal["auto", "libjpeg-turbo", "simplejpeg", "nvimgcodec", "dali"]
BY_THREADS = "auto, libjpeg-turbo or simplejpeg"
DEVICE_DECODERS = ("nvimgcodec", "dali")  # of whole batches, on a device: device_batch.py
MAX_PIXELS = 178_956_970  # what Pillow takes for a decompression bomb: nothing is allocated on a header's word beyond
# What a byte can hold at most: JPEG spends a bit at least on each block of 8 x 8 (T.81 annexes F and G), which are at
# least 1/128 of the pixels; deflate makes at most 1032 bytes of one, which in PNG are 8 pixels each.
MOST_PIXELS_PER_BYTE = {"JPEG": 1024, "MPO": 1024, "PNG": 8 * 1032}

Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8]
Scratch = Callable[[int], Bytes]  # at least so many bytes; overwritten by the next image

_PLAIN = ("YCbCr", "Gray")  # colour spaces whose way to RGB is one and the same everywhere
_ROWS_BELOW = 8  # the last rows are made with the chroma below them, of at most 4 rows a sample
_WORTH_CUTTING = 0.97  # of the height: for fewer rows left out the copy is not made
_BYTES_BEHIND = "extraneous bytes before marker"


class DecoderError(ValueError):
    """A decoder that is not known, or not to be used here."""

    exit_status: ClassVar[int] = 2


class DecoderMissingError(DecoderError):
    """The package of a decoder is not installed."""

    exit_status: ClassVar[int] = 4


class BrokenImageError(ValueError):
    """Bytes that are no whole image; the message says why."""

    exit_status: ClassVar[int] = 4


class Header(NamedTuple):
    """Height and width of an image, upright; `plain` where the fast decoder takes it.

    `height_at` is where the file says its height, if its rows come in order: those at the end can then be left out.
    """

    height: int
    width: int
    plain: bool
    height_at: int | None = None


class Decoder(Protocol):
    """Makes pixels of encoded images, in many threads at once."""

    @property
    def name(self) -> str:
        """As records say it."""

    def header(self, data: Bytes) -> Header:
        """What the image says of itself; BrokenImageError where that cannot be read."""

    def decode(
        self, data: Bytes, header: Header, *, scratch: Scratch | None, shrink: int = 1, region: Crop | None = None
    ) -> Pixels:
        """Its pixels (height, width, 3), each side divided by `shrink` (1, 2, 4 or 8), rounded up, where it is plain.

        They lie in `scratch`, or without one in memory of their own.  Where no more than a `region` of the shrunk image
        is wanted, pixels beside it may be anything, and rows below it left out.  BrokenImageError where bytes are
        missing, also of rows that are left out.
        """


class SimpleJpegDecoder:
    """simplejpeg, with Pillow for what is no plain JPEG; both let the interpreter go while they decode."""

    name = "simplejpeg"

    def __init__(self) -> None:
        import simplejpeg

        self._header: Any = simplejpeg.decode_jpeg_header
        self._decode: Any = simplejpeg.decode_jpeg

    def header(self, data: Bytes) -> Header:
        """See Decoder."""
        view = data.data
        start = start_of(view) if bytes(view[:3]) == b"\xff\xd8\xff" else None
        if start is not None and start.orientation == UPRIGHT:
            try:
                height, width, colours, _ = self._header(view, strict=False)
            except (
                ValueError,
                KeyError,
            ):  # Pillow says what is wrong; of some headers simplejpeg knows no more than that
                height = width = 0
                colours = ""
            if colours in _PLAIN and 0 < height * width <= MAX_PIXELS:
                _require_room(height, width, len(view), "JPEG")
                return Header(height, width, True, start.height_at)
        with _opened(data) as image:
            _require_room(image.height, image.width, len(view), image.format)
            try:
                turned = image.getexif().get(0x0112, UPRIGHT) in range(5, 9)
            except Exception as error:  # as of the pixels
                raise BrokenImageError(_words(error)) from error
            width, height = reversed(image.size) if turned else image.size
            return Header(height, width, False)

    def decode(
        self, data: Bytes, header: Header, *, scratch: Scratch | None, shrink: int = 1, region: Crop | None = None
    ) -> Pixels:
        """See Decoder."""
        if not header.plain:
            return _by_pillow(data, header)
        if scratch is not None and region is not None and header.height_at is not None:
            height = (region.top + region.height + _ROWS_BELOW) * shrink
            if height <= _WORTH_CUTTING * header.height:
                upper = self._upper(data, header, height, scratch, shrink)
                if upper is not None:
                    return upper
        height, width = -(-header.height // shrink), -(-header.width // shrink)
        buffer = None if scratch is None else scratch(height * width * 3)
        try:
            pixels: Pixels = self._decode(data.data, colorspace="RGB", buffer=buffer, **_least(height, width, shrink))
        except ValueError:  # libjpeg-turbo has doubts; whether these are the image's end Pillow decides
            return shrunk(_by_pillow(data, header), shrink)
        return pixels

    def _upper(self, data: Bytes, header: Header, height: int, scratch: Scratch, shrink: int) -> Pixels | None:
        """The first `height` rows, from a copy that says it has no more; None where there is anything else to say.

        libjpeg-turbo then finds bytes behind the last row, and tells its first doubt alone: where it is these bytes,
        what was decoded is whole, and the file ends as it should.
        """
        assert header.height_at is not None  # as who calls has seen
        high, wide = height // shrink, -(-header.width // shrink)
        size = high * wide * 3
        memory = scratch(size + len(data))
        copy = memory[size : size + len(data)]
        copy[:] = data
        copy[header.height_at : header.height_at + 2] = height >> 8, height & 0xFF
        try:
            self._decode(copy.data, colorspace="RGB", buffer=memory[:size], **_least(high, wide, shrink))
        except ValueError as error:
            if _BYTES_BEHIND not in str(error):
                return None
        return memory[:size].reshape(high, wide, 3)


def _least(height: int, width: int, shrink: int) -> dict[str, int]:
    """How simplejpeg is asked to shrink."""
    return {} if shrink == 1 else {"min_height": height, "min_width": width, "min_factor": shrink}


class RawPixels:
    """Pixels as they were stored, (height, width, 3): there is nothing to decode."""

    name = "none"

    def header(self, data: Bytes) -> Header:
        """See Decoder."""
        height, width, _ = data.shape
        return Header(height, width, False)

    def decode(
        self,
        data: Bytes,
        header: Header,  # noqa: ARG002
        *,
        scratch: Scratch | None,  # noqa: ARG002
        shrink: int = 1,  # noqa: ARG002
        region: Crop | None = None,  # noqa: ARG002
    ) -> Pixels:
        """See Decoder."""
        return data


def shrunk(pixels: Pixels, factor: int) -> Pixels:
    """Means of squares of `factor` x `factor` pixels, as a scaled decode gives; at the edges of what there is."""
    if factor == 1:
        return pixels
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    cells = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor, 3)
    means: Pixels = (cells.mean(axis=(1, 3)) + 0.5).astype(np.uint8)
    return means


def _by_pillow(data: Bytes, header: Header) -> Pixels:
    from PIL import ImageOps

    with _opened(data) as image:
        try:
            pixels = _rgb(ImageOps.exif_transpose(image))
        except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
            raise BrokenImageError(_words(error)) from error
    if pixels.shape[:2] != (header.height, header.width):  # as where its Exif data are damaged
        told = f"{header.height} x {header.width} pixels"
        raise BrokenImageError(f"its header says {told}, and it has {pixels.shape[0]} x {pixels.shape[1]}")
    return pixels


def _rgb(image: Any) -> Pixels:
    """Its pixels; of 16 bits a level the upper 8, as Pillow has them of colour images: of grey ones it cuts at 255."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _require_room(height: int, width: int, num_bytes: int, kind: str | None) -> None:
    """Refuse a header that promises more pixels than the file can hold, before memory is taken for them."""
    most = MOST_PIXELS_PER_BYTE.get(kind or "")
    if most is not None and height * width > most * num_bytes:
        told = f"{height} x {width} pixels"
        raise BrokenImageError(f"its header says {told}, which {num_bytes} bytes of {kind} cannot hold")


def _opened(data: Bytes) -> Any:
    from PIL import Image, UnidentifiedImageError

    if not len(data):
        raise BrokenImageError("it has no bytes")
    try:
        return Image.open(io.BytesIO(data))  # type: ignore[arg-type]  # any buffer will do
    except UnidentifiedImageError:
        start = bytes(data[:4])
        raise BrokenImageError(f"no image that is known (it starts with {start!r})") from None
    except Exception as error:
        raise BrokenImageError(_words(error)) from error


def _words(error: Exception) -> str:
    return f"{error}" or type(error).__name__
