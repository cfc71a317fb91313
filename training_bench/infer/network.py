"""A network that answers batches: pixels to the device, forward, the top answers back; nothing is learned.

    uint8 (B, H, W, C) in host memory or on the device -> centred crop, floats -> network -> argmax -> host

A step is over when the answers are on the host: that is what who asked waits for.
"""

from __future__ import annotations

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ...storage_bench.accelerators import Images
from ..models import build_model
from ..real.pixels import DEVIATION, MEAN
from ..real.ranks import DTYPES, own_device
from .plan import InferError, Network


class NetworkStep:
    """A network in evaluation on this rank's device; the weights are fp32, `precision` is what is computed in."""

    def __init__(self, network: Network, local_rank: int) -> None:
        torch.set_num_threads(min(network.threads, len(os.sched_getaffinity(0))))  # those of its own, if given any
        torch.manual_seed(network.seed)
        self._network = network
        self.device = own_device(network.device, local_rank)
        layout = torch.channels_last if network.channels_last else torch.contiguous_format
        model = build_model(network.model, num_classes=network.num_classes)
        if network.weights is not None:
            load_weights(model, Path(network.weights))
        self._model = model.eval().to(device=self.device, memory_format=layout)  # type: ignore[call-overload]  # torch's stubs
        self._layout = layout
        self._mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
        self._scale = 1 / torch.tensor(DEVIATION, device=self.device).view(3, 1, 1)

    def step(self, images: Images, received_ns: int) -> None:
        """Answer one batch in the network's precision."""
        del received_ns  # nothing is waited for
        self.answers(images, DTYPES[self._network.precision])

    @torch.inference_mode()
    def answers(self, images: Images, dtype: torch.dtype) -> Tensor:
        """The number of the best class of each image (B), on the host."""
        pixels = self._pixels(images)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits: Tensor = self._model(pixels)
        return logits.argmax(1).cpu()

    def agreeing(self, images: Images) -> tuple[int, int]:
        """Images of a batch whose best class is that of fp32 in the network's precision too, and all of them."""
        reduced = self.answers(images, DTYPES[self._network.precision])
        full = self.answers(images, torch.float32)
        return int((reduced == full).sum()), len(full)

    def _pixels(self, images: Images | Tensor) -> Tensor:
        """Floats (B, 3, rows, columns) on the device."""
        batch = (images if isinstance(images, Tensor) else torch.from_numpy(images)).permute(0, 3, 1, 2)
        if (side := self._network.crop) is not None:
            top, left = (batch.shape[2] - side) // 2, (batch.shape[3] - side) // 2
            batch = batch[..., top : top + side, left : left + side]
        found = (batch.to(self.device, non_blocking=True).float() - self._mean) * self._scale
        return found.contiguous(memory_format=self._layout)


def load_weights(model: Any, path: Path) -> None:
    """The weights of a checkpoint of `iobench train`; loaded as weights only.

    Raises InferError for a file that is none, or is of another network.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        weights = document["model"]
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, UnpicklingError) as error:
        unsafe = isinstance(error, UnpicklingError)  # whose text advises to run what is in the file
        reason = "it holds more than weights, or other data" if unsafe else str(error).partition("\n")[0]
        raise InferError(f"{path}: not a checkpoint of iobench train ({reason}); give another --weights") from error
    known = model.state_dict()
    ours = {name: value for name, value in weights.items() if name in known}
    missing = [name for name in known if name not in ours or ours[name].shape != known[name].shape]
    if missing:
        raise InferError(
            f"{path}: it has no {missing[0]} of shape {tuple(known[missing[0]].shape)}: it is of another network or "
            f"number of classes; give its --model and --set num_classes=N"
        )
    model.load_state_dict(ours)
