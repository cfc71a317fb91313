"""Decoders of whole batches onto the device: encoded bytes on the host -> uint8 (H, W, 3) where they are used.

    nvimgcodec   NVIDIA nvImageCodec: the JPEG engine of the GPU where it has one, nvJPEG's CUDA kernels, else the CPU
    dali         NVIDIA DALI: `mixed` decode, the same libraries in a pipeline with one external source

Both have a CPU backend, which is their twin on machines without a GPU.  `auto` takes nvImageCodec where it is
installed, else DALI.  A set's decoder is one of these only where that is asked for by name (device_batch.py); its own
`auto` stays with reader threads (decoders.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from .decoders import Bytes, DecoderError, DecoderMissingError

if TYPE_CHECKING:
    from torch import Tensor

DeviceDecoderName = Literal["auto", "nvimgcodec", "dali"]
_PACKAGES = {"nvimgcodec": ("nvidia.nvimgcodec", "NVIDIA nvImageCodec"), "dali": ("nvidia.dali", "NVIDIA DALI")}


class DeviceDecoder(Protocol):
    """Decodes batches of encoded images onto one device."""

    @property
    def name(self) -> str:
        """As records say it, with its version and backend."""

    def decode(self, samples: Sequence[Bytes]) -> list[Tensor | None]:
        """Pixels (H, W, 3) of each image, upright and RGB, on the device, ready for the thread's current stream there.

        None for an image that the library cannot decode; where it does not tell which one that is, for all of them.
        The samples may be read until the stream has come to where it is now.
        """

    def close(self) -> None:
        """Let its threads end."""


def why_not(name: str, device: str) -> str | None:
    """Why this decoder cannot decode onto `device`, and the way out; None where it can."""
    package, title = _PACKAGES[name]
    if not _found(package):
        return f"not available because {title} is not installed; install iobench with its extra `gpu`"
    if device == "cpu":
        return None
    import torch

    # not is_available, which starts the driver: who only opens a set may still fork children that use it
    return None if torch.cuda.device_count() else "not available because torch sees no GPU; docs/gpu.md tells how"


def open_device_decoder(name: str, device: str, *, num_threads: int = 4) -> tuple[DeviceDecoder, str]:
    """The decoder of this name for `device` (cpu, cuda, cuda:1), and why it is the one.

    Raises DecoderError for a name that is none, DecoderMissingError where it cannot be used here.
    """
    if name not in get_args(DeviceDecoderName):
        raise DecoderError(f"decoder {name!r} is not one of {', '.join(get_args(DeviceDecoderName))}")
    openers: dict[str, Callable[[str, int], DeviceDecoder]] = {"nvimgcodec": NvImageCodec, "dali": DaliDecoder}
    if name != "auto":
        if reason := why_not(name, device):
            raise DecoderMissingError(f"decoder {name}: {reason}")
        return openers[name](device, num_threads), "asked for"
    refused = {each: why_not(each, device) for each in openers}
    for each, reason in refused.items():
        if reason is None:
            others = "; ".join(f"{other}: {why}" for other, why in refused.items() if why)
            return openers[each](device, num_threads), f"auto: {each}{f' ({others})' if others else ''}"
    raise DecoderMissingError("; ".join(f"decoder {each}: {reason}" for each, reason in refused.items()))


class NvImageCodec:
    """nvImageCodec with the backends that the device has; on the CPU its own libjpeg-turbo."""

    def __init__(self, device: str, num_threads: int) -> None:
        codec: Any = import_module("nvidia.nvimgcodec")
        on_cpu = device == "cpu"
        self._device = device
        self._params = codec.DecodeParams(
            apply_exif_orientation=True, color_spec=codec.ColorSpec.SRGB, allow_any_depth=False
        )
        kinds = (codec.CPU_ONLY,) if on_cpu else (codec.HW_GPU_ONLY, codec.HYBRID_CPU_GPU, codec.CPU_ONLY)
        self._decoder: Any = codec.Decoder(
            device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY if on_cpu else _number_of(device),
            max_num_cpu_threads=num_threads,
            backends=[codec.Backend(kind) for kind in kinds],
            options=":fancy_upsampling=1",  # colours between pixels as libjpeg-turbo has them
        )
        self.name = f"nvimgcodec {codec.__version__} ({'CPU' if on_cpu else 'nvJPEG'})"

    def decode(self, samples: Sequence[Bytes]) -> list[Tensor | None]:
        """See DeviceDecoder."""
        stream = _current_stream(self._device)
        encoded = [np.ascontiguousarray(sample) for sample in samples]
        images = self._decoder.decode(encoded, params=self._params, cuda_stream=stream)
        if len(images) != len(samples):  # older releases leave out what they cannot decode, and do not tell which
            return [None] * len(samples)
        return [None if image is None else _tensor_of(image, self._device) for image in images]

    def close(self) -> None:
        """See DeviceDecoder."""
        del self._decoder


class DaliDecoder:
    """A DALI pipeline of one operator, fed with what was read; batches may grow up to the largest one seen."""

    def __init__(self, device: str, num_threads: int) -> None:
        dali: Any = import_module("nvidia.dali")
        self._device, self._threads, self._room = device, num_threads, 0
        self._pipeline: Any = None
        self._taken: Any = None  # passed once what the last batch was is copied out of DALI's memory
        self.name = f"dali {dali.__version__} ({'CPU' if device == 'cpu' else 'mixed'})"

    def decode(self, samples: Sequence[Bytes]) -> list[Tensor | None]:
        """See DeviceDecoder; of a batch that DALI fails it does not tell by which image, nor decode any other."""
        if len(samples) > self._room:
            self._build(len(samples))
        if self._taken is not None:
            self._taken.synchronize()  # DALI's stream knows nothing of ours, and a run may write where the last one did
        self._pipeline.feed_input("encoded", [np.ascontiguousarray(sample) for sample in samples])
        try:
            (images,) = self._pipeline.run()
        except RuntimeError:
            self._room = 0  # a pipeline that failed is not used again
            return [None] * len(samples)
        found: list[Tensor | None] = [_tensor_of(images[place], self._device).clone() for place in range(len(samples))]
        self._taken = _mark(self._device)
        return found

    def close(self) -> None:
        """See DeviceDecoder."""
        self._pipeline = None

    def _build(self, size: int) -> None:
        dali: Any = import_module("nvidia.dali")
        fn: Any = import_module("nvidia.dali.fn")
        on_cpu = self._device == "cpu"
        pipeline = dali.Pipeline(
            size, self._threads, device_id=None if on_cpu else _number_of(self._device), prefetch_queue_depth=1
        )
        with pipeline:
            encoded = fn.external_source(name="encoded", device="cpu")
            pipeline.set_outputs(fn.decoders.image(encoded, device="cpu" if on_cpu else "mixed"))
        pipeline.build()
        self._pipeline, self._room = pipeline, size


def _found(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of `nvidia` itself
        return False


def _number_of(device: str) -> int:
    """Of a GPU's name: cuda, cuda:1."""
    import torch

    number: int | None = torch.device(device).index
    return torch.cuda.current_device() if number is None else number


def _current_stream(device: str) -> int:
    """The stream that the device's work goes to, as CUDA numbers it; 0 on the CPU."""
    if device == "cpu":
        return 0
    import torch

    return int(torch.cuda.current_stream(torch.device(device)).cuda_stream)


def _mark(device: str) -> Any:
    """An event here in the device's current stream; None on the CPU, which has done all."""
    if device == "cpu":
        return None
    import torch

    return torch.cuda.current_stream(torch.device(device)).record_event()


def _tensor_of(image: Any, device: str) -> Tensor:
    """What a library decoded, as a tensor over its memory."""
    import torch

    return torch.from_numpy(np.asarray(image)) if device == "cpu" else torch.as_tensor(image, device=device)
