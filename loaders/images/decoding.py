"""The road of encoded images: what was read -> pixels -> samples in the batch's own memory, in the reader threads.

    a batch's last read -> ImageBatch.parts -> threads: decode, cut, resize, normalise -> slot i of the output
                                               |                                          |
                                               read, decode, augment: seconds of each     broken images, named

Decoding belongs to a set: decoder, transform, and what is done about a broken image.  ImageBatch is one batch of it.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from ..buffers import Buffer
from ..formats.ragged import Arrays
from ..plan import Indices
from ..transforms import Cut, ImageTransform, shrunk_crop
from .decoders import BrokenImageError, Decoder

if TYPE_CHECKING:
    import torch

    from .device_batch import OnDevice

OnError = Literal["raise", "skip"]
KEPT_BYTES = 64 << 20  # of a thread, from image to image; for larger ones memory is taken and given back
PART_IMAGES = 8  # a few milliseconds of work: little is left to wait for when others are done


class ImageError(ValueError):
    """An image that cannot be decoded: file, record and byte, and why."""

    exit_status: ClassVar[int] = 4


class DecodingUsageError(ValueError):
    """Decoding is asked for in a way that does not fit."""

    exit_status: ClassVar[int] = 2


class Part(NamedTuple):
    """Images `start` to `stop` of a batch, for one thread."""

    start: int
    stop: int


class SkippedImage(NamedTuple):
    """An image that was left out: its record's number in the set, and what is wrong with it."""

    record: int
    reason: str


class Decoding:
    """How a set's images become samples: with `transform` of one size, in a batch; without it a list of pixels.

    Where that was asked for, a library decodes what goes to a device (`there`) or stays in host memory (`here`);
    `decoder` does the rest, and what is odd.
    """

    def __init__(
        self,
        decoder: Decoder,
        reason: str,
        transform: ImageTransform | None,
        on_error: OnError,
        there: OnDevice | None = None,
        here: OnDevice | None = None,
    ) -> None:
        if on_error not in get_args(OnError):
            raise DecodingUsageError(f"on_error {on_error!r} is not one of {', '.join(get_args(OnError))}")
        self.decoder = decoder
        self.reason = reason
        self.transform = transform
        self.on_error = on_error
        self.there = there
        self.here = here
        self.note: Callable[[str, int, int], None] | None = None  # of a trace: what was done, from when to when

    @property
    def name(self) -> str:
        """Of the decoder, as records say it."""
        library = self.there or self.here
        return self.decoder.name if library is None else library.name

    @property
    def draws(self) -> bool:
        """Whether samples take random numbers."""
        return self.transform is not None and self.transform.num_numbers > 0

    def output_bytes(self, num_images: int) -> int:
        """Bytes of a batch of samples; 0 without a transform."""
        if self.transform is None:
            return 0
        height, width, channels = self.transform.shape
        return num_images * height * width * channels * self.transform.dtype.itemsize


@dataclass(slots=True)
class ImageBatch:
    """One batch on its way: encoded bytes are in `samples` once they are read; `output`, or `images`, takes the pixels.

    `numbers` are each image's own, `place` names a record as errors do.  Threads write to different images; what they
    count is added under `lock`.  `queued_ns` is when the parts were queued, by perf_counter_ns; `waited_ns` is for how
    long an image then waited for a thread, on the average.  `num_by_host` counts what a device's decoder did not do.
    `places` are views of `output`, made for the first image.
    """

    decoding: Decoding
    records: Indices
    samples: Arrays
    numbers: Sequence[Sequence[float]]
    output: Buffer | None
    place: Callable[[int], str]
    images: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    decode_ns: int = 0
    augment_ns: int = 0
    queued_ns: int = 0
    waited_ns: float = 0.0
    num_by_host: int = 0
    places: Sequence[torch.Tensor] = ()

    @property
    def parts(self) -> list[Part]:
        """What threads are given, in order."""
        number = len(self.records)
        return [Part(start, min(start + PART_IMAGES, number)) for start in range(0, number, PART_IMAGES)]

    def run(self, part: Part, *, own_thread: bool) -> None:
        """Decode and transform the images of `part`; ImageError at the first broken one, unless they are skipped.

        In an `own_thread` torch's operators use that thread alone: others have images of their own.
        """
        if own_thread:
            use_one_core()
        if self.output is not None:
            self.output.use.wait()
        waited = (perf_counter_ns() - self.queued_ns) * (part.stop - part.start) / len(self.records)
        decoded = augmented = 0
        note = self.decoding.note
        broken: dict[int, str] = {}
        for slot in range(part.start, part.stop):
            begun = perf_counter_ns()
            try:
                cut, pixels = self._decoded(slot)
            except BrokenImageError as error:
                broken[slot] = broken_image(self, slot, error)
                continue
            done = perf_counter_ns()
            decoded += done - begun
            self._keep(slot, cut, pixels)
            end = perf_counter_ns()
            augmented += end - done
            if note is not None:
                note("decode", begun, done)
                if cut is not None:
                    note("resize and normalise", done, end)
        with self.lock:
            self.waited_ns += waited
            self.decode_ns += decoded
            self.augment_ns += augmented
            self.broken |= broken

    def _decoded(self, slot: int) -> tuple[Cut | None, npt.NDArray[np.uint8]]:
        decoder, transform, data = self.decoding.decoder, self.decoding.transform, self.samples[slot]
        header = decoder.header(data)
        if transform is None:
            return None, decoder.decode(data, header, scratch=None)
        cut = transform.cut(header.height, header.width, self.numbers[slot])
        shrink = cut.shrink if transform.scaled_decoding and header.plain else 1
        if shrink > 1:
            cut = cut._replace(piece=shrunk_crop(cut.piece, shrink, header.height, header.width))
        return cut, decoder.decode(data, header, scratch=_scratch.array, shrink=shrink, region=cut.needed)

    def _keep(self, slot: int, cut: Cut | None, pixels: npt.NDArray[np.uint8]) -> None:
        transform = self.decoding.transform
        if cut is None or transform is None or self.output is None:
            self.images[slot] = pixels
            return
        if not self.places:  # two threads may both make them: they are the same
            self.places = _places(self.output, len(self.records), transform)
        transform.write(pixels, cut, self.places[slot], _scratch.tensor)

    @property
    def kept(self) -> Indices:
        """The slots whose images came out whole, in order."""
        return np.array([slot for slot in range(len(self.records)) if slot not in self.broken], np.int64)

    def close_gaps(self, kept: Indices) -> None:
        """Move the images of these slots to the front of the output."""
        assert self.output is not None  # where images have slots
        size = self.decoding.output_bytes(1)
        whole = np.frombuffer(self.output.memory, np.uint8)
        for target, slot in enumerate(kept.tolist()):
            if target != slot:
                whole[target * size : (target + 1) * size] = whole[slot * size : (slot + 1) * size]


def _places(output: Buffer, number: int, transform: ImageTransform) -> Sequence[torch.Tensor]:
    """Where the samples of a batch go, (height, width, channels) each."""
    import torch

    count = number * math.prod(transform.shape)
    whole = torch.frombuffer(memoryview(output.memory), dtype=transform.dtype, count=count)
    return whole.view(number, *transform.shape).unbind()


def broken_image(images: ImageBatch, slot: int, error: BrokenImageError) -> str:
    """What is said of an image that is left out; ImageError where none may be."""
    message = f"{images.place(int(images.records[slot]))}: its image cannot be decoded: {error}"
    if images.decoding.on_error == "raise":
        raise ImageError(
            f"{message}; write this record again, or leave broken images out with on_error='skip' (--set on_error=skip)"
        ) from error
    return message


class _Scratch(threading.local):
    """Memory of each thread, kept from image to image; `array` and `tensor` are different pieces."""

    def __init__(self) -> None:
        self.alone = False
        self._array = np.empty(0, np.uint8)
        self._tensors: dict[torch.dtype, torch.Tensor] = {}

    def array(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """At least so many bytes."""
        if num_bytes > KEPT_BYTES:
            return np.empty(num_bytes, np.uint8)
        if len(self._array) < num_bytes:
            self._array = np.empty(num_bytes, np.uint8)
        return self._array

    def tensor(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """At least so many elements."""
        import torch

        found = self._tensors.get(dtype)
        if found is None or len(found) < count:
            found = self._tensors[dtype] = torch.empty(count, dtype=dtype)
        return found


_scratch = _Scratch()


def use_one_core() -> None:
    """Keep OpenMP to the calling thread in what torch does in it, from now on.

    torch.set_num_threads would hold for the whole process, and the loop's own thread is not ours to slow down.  OpenMP
    has the number for each thread; torch sets it once in every thread, at its first question.
    """
    if _scratch.alone:
        return
    import torch

    torch.get_num_threads()
    with suppress(OSError, AttributeError):  # a build without OpenMP has nothing to be told
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        library.omp_set_num_threads(1)
    _scratch.alone = True
