"""Steps of a training as a CUDA graph: one launch where there were a thousand, fed by the loader as before.

    batch --copied, on the compute stream--> the graph's own input --pixels, network, loss, gradients--> outcome
      '-- let go of: its buffer is free once the step is done

    step 0, 1    done one by one: what is set up or compiled at first use is, before it would be captured
    step 2       captured, which computes nothing; then launched
    step 3 ...   launched

A graph knows addresses, no tensors.  So a batch has to come to the same place in every step, and what a launch leaves,
gradients above all, is in memory of the graph's own that nobody may let go of.  Reader threads go on while it is
captured: what they ask of CUDA is not this thread's, and does not end the capture (`thread_local`).  Nor may this
thread's collector of garbage, which would give back page-locked and device memory in the middle of it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .plan import CAPTURE_STEPS

WARM_STEPS = CAPTURE_STEPS - 1

Body = Callable[[], None]


class GraphError(ValueError):
    """A batch that the graph was not captured for."""

    exit_status: ClassVar[int] = 4


class Capture(Protocol):
    """How work is made a graph of."""

    def warm(self, body: Body) -> None:
        """Do it, as it will be captured later."""

    def record(self, body: Body) -> Callable[[], None]:
        """Note what it would do, and do nothing; what is returned does it, each time it is called."""


@contextmanager
def nothing_collected() -> Iterator[None]:
    """What is garbage goes before, and none goes meanwhile: torch has left off collecting before a capture itself.

    What goes because its last reference does is not held up; a step lets go of no buffers of a loader.
    """
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class CudaCapture:
    """CUDA graphs of the current device, captured on a stream of their own."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def warm(self, body: Body) -> None:
        """See Capture: on the stream of the capture, between what came before and what comes next."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            body()
        here.wait_stream(self._stream)

    def record(self, body: Body) -> Callable[[], None]:
        """See Capture; waits for the device once."""
        graph = torch.cuda.CUDAGraph()
        with nothing_collected(), torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            body()
        return graph.replay


class StaticInput:
    """Where every batch of a graph lies, on `device`: images (B, C, H, W), densely as (B, H, W, C), and labels (B).

    Batches may come from there, or from page-locked memory.
    """

    def __init__(self, images: Tensor, labels: Tensor, device: torch.device) -> None:
        batch, channels, height, width = images.shape
        dense = torch.empty((batch, height, width, channels), dtype=images.dtype, device=device)
        self.images = dense.permute(0, 3, 1, 2)
        self.labels = torch.empty_like(labels, device=device)

    def fill(self, images: Tensor, labels: Tensor) -> None:
        """Copy a batch here, on the current stream: behind the step before, which read it, and before the next."""
        if images.shape != self.images.shape or labels.shape != self.labels.shape:
            raise GraphError(
                f"a batch of {tuple(images.shape)} came to a graph that was captured for {tuple(self.images.shape)}; "
                f"use drop_last=True and images of one size, or cuda_graphs=false"
            )
        self.images.copy_(images, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)


class GraphedSteps:
    """`compute(images, labels) -> outcome` of batches of one shape on `device`, by a graph from the third one on.

    Until it is `captured` gradients have to be None before each call; from then on they may not be touched.
    """

    def __init__(self, compute: Callable[[Tensor, Tensor], Tensor], capture: Capture, *, device: torch.device) -> None:
        self._compute = compute
        self._device = device
        self._capture = capture
        self._input: StaticInput | None = None
        self._outcome: Tensor | None = None
        self._num_warm = 0
        self._launch: Callable[[], None] | None = None

    @property
    def captured(self) -> bool:
        """Whether gradients are the graph's own."""
        return self._launch is not None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The outcome of one batch, valid until the next call; the batch itself is not needed any more."""
        if self._input is None:
            self._input = StaticInput(images, labels, self._device)
        self._input.fill(images, labels)
        if self._launch is None and self._num_warm == WARM_STEPS:
            self._launch = self._capture.record(self._body)
        if self._launch is None:
            self._num_warm += 1
            self._capture.warm(self._body)
        else:
            self._launch()
        assert self._outcome is not None  # the first call has made it
        return self._outcome

    def _body(self) -> None:
        assert self._input is not None  # filled before
        found = self._compute(self._input.images, self._input.labels)
        if self._outcome is None:
            self._outcome = torch.empty_like(found)
        self._outcome.copy_(found)
