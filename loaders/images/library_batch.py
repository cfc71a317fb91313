"""One batch whose images a library decodes on the CPU, many in a call; reader threads then cut and resize them.

    encoded bytes of a part -> DALI, nvImageCodec: threads of their own -> pixels -> cut, resize, normalise -> the batch
                                  | what they cannot do
                                  v
                              the set's own decoder

`decoder="dali"` and `"nvimgcodec"` where batches stay in host memory.  `auto` never takes them: they make whole images.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from ..transforms import Cut
from .decoders import BrokenImageError, Header, Pixels
from .decoding import ImageBatch, Part, broken_image, use_one_core

IMAGES_A_CALL = 32
_END = b"\xff\xd9"


@dataclass(slots=True)
class LibraryBatch(ImageBatch):
    """See above; `num_by_host` counts what the set's own decoder did."""

    @property
    def parts(self) -> list[Part]:
        """What threads are given, in order."""
        number = len(self.records)
        return [Part(start, min(start + IMAGES_A_CALL, number)) for start in range(0, number, IMAGES_A_CALL)]

    def run(self, part: Part, *, own_thread: bool) -> None:
        """See ImageBatch."""
        if own_thread:
            use_one_core()
        if self.output is not None:
            self.output.use.wait()
        begun = perf_counter_ns()
        waited = (begun - self.queued_ns) * (part.stop - part.start) / len(self.records)
        broken: dict[int, str] = {}
        headers = self._headers(part, broken)
        found = self._by_library(headers)
        num_others = 0
        cuts: dict[int, Cut | None] = {}
        for slot, header in headers.items():
            try:
                cuts[slot] = self._cut(slot, header)
                if slot not in found:
                    found[slot] = self.decoding.decoder.decode(self.samples[slot], header, scratch=None)
                    num_others += 1
            except BrokenImageError as error:
                broken[slot] = broken_image(self, slot, error)
                cuts.pop(slot, None)
        decoded = perf_counter_ns()
        for slot, cut in cuts.items():
            self._keep(slot, cut, found[slot])
        with self.lock:
            self.waited_ns += waited
            self.decode_ns += decoded - begun
            self.augment_ns += perf_counter_ns() - decoded
            self.num_by_host += num_others
            self.broken |= broken

    def _headers(self, part: Part, broken: dict[int, str]) -> dict[int, Header]:
        """What each image says of itself; ImageError at the first broken one, unless they are skipped."""
        headers = {}
        for slot in range(part.start, part.stop):
            try:
                headers[slot] = self.decoding.decoder.header(self.samples[slot])
            except BrokenImageError as error:
                broken[slot] = broken_image(self, slot, error)
        return headers

    def _by_library(self, headers: dict[int, Header]) -> dict[int, Pixels]:
        """The pixels of those images that are plain and whole, as far as the library decodes them."""
        assert self.decoding.here is not None  # who makes such a batch has looked
        slots = [slot for slot, header in headers.items() if header.plain and bytes(self.samples[slot][-2:]) == _END]
        images = self.decoding.here.decode([self.samples[slot] for slot in slots], device="cpu") if slots else []
        found = {slot: np.asarray(image) for slot, image in zip(slots, images, strict=True) if image is not None}
        return {slot: pixels for slot, pixels in found.items() if pixels.shape[:2] == headers[slot][:2]}

    def _cut(self, slot: int, header: Header) -> Cut | None:
        transform = self.decoding.transform
        return None if transform is None else transform.cut(header.height, header.width, self.numbers[slot])
