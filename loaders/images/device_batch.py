"""The road of encoded images whose decoder is the device's: what was read -> pixels there -> samples there.

    last read of a batch -> one thread: headers, cuts -> the device's decoder, in the stream that copies  most images
                                                      -> the CPU's, and up                                odd ones
    the batch is sent    -> resize, turn over, normalise, in that stream, into its own memory     (device_images.py)

Odd is what the CPU's fast decoder does not take either (CMYK, PNG, Exif-rotated: Header.plain), a file that does not
end as a JPEG does, and whatever the device's decoder gives back.  On such the CPU's road has the last word.  Damage in
the middle of a file that ends well is left to the device's decoder, which may see less of it than libjpeg-turbo does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from ..transforms import Cut, ImageTransform, NormalisedTransform
from .decoders import BY_THREADS, BrokenImageError, Bytes, DecoderError, DecoderMissingError, Header
from .decoding import ImageBatch, Part, broken_image
from .device_decoders import DeviceDecoder, open_device_decoder, why_not
from .device_images import made_by, write_samples

if TYPE_CHECKING:
    from torch import Tensor

MOST_THREADS = 16  # of a decoder, for what it does on the CPU
_END = b"\xff\xd9"


class OnDevice:
    """The decoder of one set, on a device or the CPU: opened with its first batch, and kept; one batch at a time.

    `made_by` is what makes samples of the pixels there.
    """

    def __init__(self, name: str, *, device: str) -> None:
        if reason := why_not(name, "cuda" if device.startswith("cuda") else "cpu"):
            raise DecoderMissingError(f"decoder {name}: {reason}; or leave it to decoder='auto', on the CPU")
        self._name = name
        self.made_by = made_by(device)
        self._opened: tuple[str, DeviceDecoder] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process opens its own."""
        return {"_name": self._name, "made_by": self.made_by}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._name, self.made_by = state["_name"], state["made_by"]
        self._opened, self._lock = None, threading.Lock()

    @property
    def name(self) -> str:
        """As records say it; with its version once it is open."""
        return self._name if self._opened is None else self._opened[1].name

    def decode(self, samples: Sequence[Bytes], *, device: str) -> list[Tensor | None]:
        """See DeviceDecoder; `device` is as torch names it."""
        with self._lock:
            if self._opened is None or self._opened[0] != device:
                spare = 0 if device == "cpu" else 1  # the loop's, which has a device to feed
                threads = max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) - spare))
                self._opened = device, open_device_decoder(self._name, device, num_threads=threads)[0]
            return self._opened[1].decode(samples)


def require_made_there(name: str, transform: ImageTransform | None) -> None:
    """Raise DecoderError where a device cannot make the samples."""
    if not isinstance(transform, NormalisedTransform) or not transform.made_there:
        raise DecoderError(
            f"decoder {name!r} makes samples of one size on the device: give transform=ImageNetTrain(...) or "
            f"ImageNetValidation(...) of iobench.loaders.transforms, or decoder {BY_THREADS}"
        )


@dataclass(slots=True)
class DeviceImageBatch(ImageBatch):
    """One batch that the device decodes: `headers`, `cuts` and `pixels` by slot; `write` makes samples of the last.

    `working` is a context in which the thread's work on the device goes to the stream that copies.
    """

    there: OnDevice | None = None
    device: str = "cpu"
    working: Callable[[], AbstractContextManager[Any]] | None = None
    pixels: dict[int, Tensor] = field(default_factory=dict)
    cuts: dict[int, Cut] = field(default_factory=dict)
    headers: dict[int, Header] = field(default_factory=dict)

    @property
    def parts(self) -> list[Part]:
        """All of it: a device decodes batches."""
        return [Part(0, len(self.records))]

    def run(self, part: Part, *, own_thread: bool) -> None:  # noqa: ARG002  # torch does nothing on the CPU here
        """Decode the batch; ImageError at the first broken image, unless they are skipped."""
        assert self.there is not None
        assert self.working is not None  # who makes such a batch gives both
        begun = perf_counter_ns()
        self.waited_ns = begun - self.queued_ns
        whole = [slot for slot in range(part.stop) if self._looked_at(slot)]
        with self.working():
            found = self.there.decode([self.samples[slot] for slot in whole], device=self.device) if whole else []
        for slot, image in zip(whole, found, strict=True):
            if image is not None and tuple(image.shape[:2]) == self.headers[slot][:2]:
                self.pixels[slot] = image
        for slot in sorted(self.cuts.keys() - self.pixels.keys()):
            self._by_host(slot)
        self.decode_ns = perf_counter_ns() - begun

    def write(self, slots: Sequence[int]) -> Callable[[Tensor], None]:
        """What makes these samples in memory that the device is shown as bytes, in the stream that is current then."""
        transform = self.decoding.transform
        assert isinstance(transform, NormalisedTransform)  # as was required
        pixels, cuts = [self.pixels[slot] for slot in slots], [self.cuts[slot] for slot in slots]
        self.pixels.clear()
        return partial(_write, pixels, cuts, transform, self.decoding.output_bytes(len(slots)))

    def _looked_at(self, slot: int) -> bool:
        """Note which piece of the image is wanted; whether the device's decoder is given it."""
        transform, data = self.decoding.transform, self.samples[slot]
        assert transform is not None
        try:
            header = self.headers[slot] = self.decoding.decoder.header(data)
            self.cuts[slot] = transform.cut(header.height, header.width, self.numbers[slot])
        except BrokenImageError as error:
            self._leave_out(slot, error)
            return False
        return header.plain and bytes(data[-2:]) == _END

    def _by_host(self, slot: int) -> None:
        import torch

        decoder = self.decoding.decoder
        try:
            pixels = decoder.decode(self.samples[slot], self.headers[slot], scratch=None)
            self.pixels[slot] = torch.from_numpy(pixels)
        except BrokenImageError as error:
            self._leave_out(slot, error)
        else:
            self.num_by_host += 1

    def _leave_out(self, slot: int, error: BrokenImageError) -> None:
        self.broken[slot] = broken_image(self, slot, error)
        self.cuts.pop(slot, None)


def _write(
    pixels: list[Tensor], cuts: Sequence[Cut], transform: NormalisedTransform, num_bytes: int, memory: Tensor
) -> None:
    out = memory[:num_bytes].view(transform.dtype).view(len(pixels), *transform.shape)
    write_samples(pixels, cuts, transform, out)
    pixels.clear()  # memory that goes back in the order of this stream
