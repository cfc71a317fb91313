"""A network in training on batches of bytes, step by step: one by one, compiled, or launched as a CUDA graph.

    step(images, labels)   normalise, forward, backward, in bf16 -> the loss -> update

Nothing is waited for.  With `sums` a step gives the sum of its batch's bytes as well: it tells which batch the device
saw, where a loss alone hardly does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ..loaders.device_kernels import normalise
from ..training_bench.models import build_model
from .device import Device
from .twin import TwinCapture

if TYPE_CHECKING:
    from torch import Tensor

    from ..training_bench.real.graphs import Capture

Way = Literal["eager", "compiled", "graph"]
NUM_CLASSES = 1000


class Trainer:
    """A network, its optimiser, and a step on a batch that is on the device; the same weights for the same model."""

    def __init__(self, device: Device, *, model: str, way: Way = "eager", sums: bool = False) -> None:
        import torch

        from ..training_bench.real.graphs import GraphedSteps

        torch.manual_seed(0)
        self._device, self._sums = device, sums
        self._model = build_model(model).to(device.name, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward = self._model
        if way == "compiled":  # the twin captures the network, and needs no compiler
            self._forward = torch.compile(self._model, backend="inductor" if device.is_cuda else "eager")
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.01, momentum=0.9)
        self._graph = None
        if way == "graph":
            self._graph = GraphedSteps(self._compute, self._capture(), device=torch.device(device.name))

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss (1), or with `sums` also the sum of the batch's bytes (2), in float64; valid until the next step."""
        outcome = (self._graph or self._compute)(images, labels)
        self._optimizer.step()
        if self._graph is None or not self._graph.captured:
            self._optimizer.zero_grad()
        return outcome

    def _compute(self, images: Tensor, labels: Tensor) -> Tensor:
        import torch
        from torch.nn.functional import cross_entropy

        pixels = normalise(images, dtype=torch.bfloat16)
        with torch.autocast(self._device.name, dtype=torch.bfloat16):
            loss = cross_entropy(self._forward(pixels), labels.remainder(NUM_CLASSES))
        loss.backward()  # type: ignore[no-untyped-call]
        sums = [images.sum(dtype=torch.int64).double()] if self._sums else []
        return torch.stack([loss.detach().double(), *sums])

    def _capture(self) -> Capture:
        if not self._device.is_cuda:
            return TwinCapture(list(self._model.parameters()))
        from ..training_bench.real.graphs import CudaCapture

        return CudaCapture()
