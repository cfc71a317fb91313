"""The decoder that makes no more of a JPEG than its sample is made of, by libjpeg-turbo's partial decompression.

    header: simplejpeg -> region of it: jpeg_regions.c -> pixels of the region, at their places in rows of the image
                                             | a doubt, or no region
                                             v
                                          simplejpeg, and Pillow (decoders.py)

Of an image whose sample is a piece in the middle, codes are read as far as the piece's last row, and turned into pixels
only in its rows and columns.  The compiled part is there where iobench was installed with libjpeg-turbo's headers.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .augment import Crop
from .decoders import Bytes, DecoderMissingError, Header, Pixels, Scratch, SimpleJpegDecoder

HEADERS = "libjpeg62-turbo-dev (Debian) or libjpeg-turbo8-dev (Ubuntu)"
_OF_THE_SYSTEM = ("libjpeg.so.62", "libjpeg.so.8")


class RegionDecoder:
    """libjpeg-turbo for regions, and SimpleJpegDecoder for all else; both let the interpreter go while they decode."""

    name = "libjpeg-turbo"

    def __init__(self) -> None:
        _compiled()
        self._others = SimpleJpegDecoder()

    def header(self, data: Bytes) -> Header:
        """See Decoder."""
        return self._others.header(data)

    def decode(
        self, data: Bytes, header: Header, *, scratch: Scratch | None, shrink: int = 1, region: Crop | None = None
    ) -> Pixels:
        """See Decoder."""
        if header.plain and scratch is not None and region is not None:
            bottom, right = region.top + region.height, region.left + region.width
            width = -(-header.width // shrink)
            pixels = scratch(bottom * width * 3)[: bottom * width * 3]
            sides = header.height, header.width, shrink
            try:
                _compiled().decode(data, pixels, sides, (region.top, region.left, bottom, right))
            except ValueError:  # of what is wrong with the image the others judge
                pass
            else:
                return pixels.reshape(bottom, width, 3)
        return self._others.decode(data, header, scratch=scratch, shrink=shrink)


def why_missing() -> str | None:
    """Why regions cannot be decoded here; None where they can."""
    try:
        _compiled()
    except DecoderMissingError as error:
        return str(error)
    return None


@cache
def _compiled() -> Any:
    """The compiled part with its library; DecoderMissingError."""
    try:
        from . import _jpeg_regions
    except ImportError as error:
        raise DecoderMissingError(
            f"the compiled part of decoder libjpeg-turbo is not there ({error}); install {HEADERS} and a C compiler, "
            f"then iobench again"
        ) from None
    doubts = []
    for library in (*_pillows(), *_OF_THE_SYSTEM):
        try:
            _jpeg_regions.open_library(library)
        except OSError as error:
            doubts.append(f"{Path(library).name}: {error}")
        else:
            return _jpeg_regions
    raise DecoderMissingError(
        f"decoder libjpeg-turbo finds no library that fits the headers it was compiled with ({'; '.join(doubts)}); "
        f"install {HEADERS}, then iobench again"
    )


def _pillows() -> list[str]:
    """The libjpeg-turbo that Pillow's wheel brings along."""
    found = find_spec("PIL")
    if found is None or found.origin is None:
        return []
    folder = Path(found.origin).parents[1]
    return [str(path) for path in sorted(folder.glob("[Pp]illow.libs/libjpeg-*.so*"))]
