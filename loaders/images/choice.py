"""How a set's images become samples: which decoder, on the host or on a device, and what its transform takes.

encoded images    a decoder of reader threads, or a library: on the device that batches go to, or on the CPU where they
                  stay in host memory                                             -> samples, or lists of pixels
raw pixels        none, where a transform of loaders.transforms takes them            -> samples
anything else     batches are what was read
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..destinations.choice import DeviceChoice, cuda_missing
from ..evidence import Route
from ..formats.records import ShardIndex
from ..route import refuse_encoded
from ..transforms import ImageTransform, TransformError
from .decoders import DEVICE_DECODERS, DecoderError, DecoderName, RawPixels
from .decoding import Decoding, OnError
from .opening import open_decoder

if TYPE_CHECKING:
    from .device_batch import OnDevice

Transform = Callable[[Any], Any] | ImageTransform | None


def choose_decoding(
    index: ShardIndex,
    transform: Transform,
    decoder: DecoderName,
    on_error: OnError,
    *,
    require_route: Route | None,
    there: OnDevice | None,
) -> Decoding | None:
    """How images become samples, with the decoder that is `there` on the device if there is one.

    None where batches are what was read.  Raises TransformError for samples that the transform does not take,
    RouteRefusedError, and what `open_decoder` raises.
    """
    of_images = transform if isinstance(transform, ImageTransform) else None
    if index.layout.codec is None:
        if of_images is None:
            return None
        if not _is_rgb(index):
            raise TransformError(
                f"transform {type(transform).__name__} takes encoded images or pixels of uint8 (H, W, 3), and "
                f"{index.stamps[0].name} holds others ({index.layout_reason}); give a function of a batch (B, C, H, W)"
            )
        return Decoding(RawPixels(), "pixels are stored as they are", of_images, on_error)
    refuse_encoded(require_route, codec=index.layout.codec, name=index.stamps[0].name)
    if decoder not in DEVICE_DECODERS:
        return Decoding(*open_decoder(decoder), of_images, on_error)
    from .device_batch import OnDevice

    others, _ = open_decoder("auto")
    if there is None:
        here = OnDevice(decoder, device="cpu")
        return Decoding(others, "asked for; on the CPU, where batches stay", of_images, on_error, here=here)
    return Decoding(others, f"asked for; samples made by {there.made_by}", of_images, on_error, there)


def device_decoder(name: str, index: ShardIndex, transform: Transform, device: DeviceChoice) -> OnDevice | None:
    """What decodes on the device that batches go to; None where nothing was asked to, or they stay in host memory.

    DecoderError where there is nothing to decode, or the device cannot make the samples.
    """
    if name not in DEVICE_DECODERS:
        return None
    if index.layout.codec is None:
        raise DecoderError(f"decoder {name!r}: the set holds no encoded images; leave decoder out")
    if device == "cpu" or (device == "auto" and cuda_missing() is not None):
        return None
    from .device_batch import OnDevice, require_made_there

    require_made_there(name, transform if isinstance(transform, ImageTransform) else None)
    return OnDevice(name, device="cuda" if isinstance(device, str) else device.name)


def _is_rgb(index: ShardIndex) -> bool:
    """Whether samples are pixels of uint8 (H, W, 3), of one size or each of its own."""
    layout, extents = index.layout, index.extents
    if layout.dtype != "uint8":
        return False
    if extents is None:
        return len(layout.shape) == 3 and layout.shape[2] == 3
    shapes = extents.shapes
    return shapes is not None and shapes.shape[1] == 3 and bool((shapes[:, 2] == 3).all())
