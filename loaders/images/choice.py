"""How a set's images become samples: which decoder, on the host or on a device, and what its transform takes.

encoded images    a decoder of reader threads, or of the device that batches go to    -> samples, or lists of pixels
raw pixels        none, where a transform of loaders.transforms takes them            -> samples
anything else     batches are what was read
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..destinations.choice import DeviceChoice
from ..evidence import Route
from ..formats.records import ShardIndex
from ..route import refuse_encoded
from ..transforms import ImageTransform, TransformError
from .decoders import DEVICE_DECODERS, DecoderName, RawPixels, open_decoder
from .decoding import Decoding, OnError

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
    found, reason = open_decoder("auto" if there is not None else decoder)
    if there is not None:
        reason = f"asked for; samples made by {there.made_by}"
    return Decoding(found, reason, of_images, on_error, there)


def device_decoder(name: str, index: ShardIndex, transform: Transform, device: DeviceChoice) -> OnDevice | None:
    """What decodes on the device that batches go to; None where nothing was asked to."""
    if name not in DEVICE_DECODERS:
        return None
    from .device_batch import OnDevice, require_decodable

    of_images = transform if isinstance(transform, ImageTransform) else None
    require_decodable(name, codec=index.layout.codec, transform=of_images, to_host=device == "cpu")
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
