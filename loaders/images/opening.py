"""Which decoder of reader threads: the one that is asked for, or the best one that is here.

auto           libjpeg-turbo where its compiled part is there, else simplejpeg
libjpeg-turbo  regions of images (regions.py)
simplejpeg     whole images (decoders.py)
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import get_args

from .decoders import (
    BY_THREADS,
    DEVICE_DECODERS,
    Decoder,
    DecoderError,
    DecoderMissingError,
    DecoderName,
    SimpleJpegDecoder,
)
from .regions import RegionDecoder, why_missing

_AUTO = "images are decoded by threads of the CPU here, and it makes no more pixels than a sample needs"


def open_decoder(name: str) -> tuple[Decoder, str]:
    """The decoder of this name, and why it is the one; DecoderError or DecoderMissingError, with the way out."""
    if name in DEVICE_DECODERS:
        raise DecoderError(f"decoder {name!r} decodes whole batches; for image by image it is {BY_THREADS}")
    if name not in get_args(DecoderName):
        raise DecoderError(f"decoder {name!r} is not one of {', '.join(get_args(DecoderName))}")
    for package, title in (("simplejpeg", "simplejpeg"), ("PIL", "pillow")):
        if find_spec(package) is None:
            raise DecoderMissingError(f"decoder {name}: {title} is not installed; pip install {title}")
    missing = why_missing()
    if name == "auto":
        return (RegionDecoder(), f"auto: {_AUTO}") if missing is None else (SimpleJpegDecoder(), f"auto: {missing}")
    if name == "libjpeg-turbo":
        if missing is not None:
            raise DecoderMissingError(missing)
        return RegionDecoder(), "asked for"
    return SimpleJpegDecoder(), "asked for"
