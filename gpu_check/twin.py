"""The CPU in a GPU's place: host memory as a destination of batches, and whatever is asked of it is done at once.

Every stream is one and the same, and every event has passed: the lines that order work on a GPU run, and order nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..loaders.buffers import Buffer
from ..loaders.placement import Move

if TYPE_CHECKING:
    import torch


class TwinMemory:
    """Memory of the host that stands for a device's."""

    def __init__(self, size_bytes: int) -> None:
        buffer = Buffer(size_bytes)
        self.memory, self.address, self.size_bytes = buffer.memory, buffer.address, buffer.size_bytes
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self.memory, np.uint8)


class TwinEvent:
    """An event of a device that does everything at once: it has passed when it is recorded."""

    def __init__(self) -> None:
        self._recorded_s = 0.0

    def record(self, stream: Any) -> None:  # noqa: ARG002
        """Mark the time."""
        self._recorded_s = perf_counter()

    def query(self) -> bool:
        """It has passed."""
        return True

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def elapsed_time(self, end: TwinEvent) -> float:
        """Milliseconds of the host's clock."""
        return (end._recorded_s - self._recorded_s) * 1e3


class TwinCapture:
    """Captures steps of a network with these parameters: a launch does all of it, with gradients from nothing."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._parameters = parameters

    def warm(self, body: Callable[[], None]) -> None:
        """See Capture of training_bench/real/graphs.py."""
        body()

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """See Capture: a graph's gradients are written, never added to."""

        def launch() -> None:
            for parameter in self._parameters:
                parameter.grad = None
            body()

        return launch


class TwinDevice:
    """See the module, and Device of loaders/destinations/device.py."""

    name = "twin:0"

    def allocate(self, size_bytes: int, *, stream: Any, alone: bool = False) -> TwinMemory:  # noqa: ARG002
        """See Device."""
        return TwinMemory(size_bytes)

    def pin(self, buffer: Buffer) -> None:
        """See Device; the host may read all of its memory."""

    def new_stream(self) -> Any:
        """See Device."""
        return None

    def current_stream(self) -> Any:
        """See Device."""
        return None

    def new_event(self, *, timing: bool = False) -> TwinEvent:  # noqa: ARG002
        """See Device."""
        return TwinEvent()

    def working(self, stream: Any) -> AbstractContextManager[Any]:  # noqa: ARG002
        """See Device."""
        return nullcontext()

    def work(self, stream: Any, memory: TwinMemory, kernel: Callable[[torch.Tensor], None]) -> None:  # noqa: ARG002
        """See Device."""
        import torch

        kernel(torch.from_numpy(memory.bytes))

    def wait(self, stream: Any, event: Any) -> None:
        """See Device."""

    def copy_in(self, stream: Any, memory: TwinMemory, at: int, source: memoryview) -> None:  # noqa: ARG002
        """See Device."""
        memory.bytes[at : at + len(source)] = np.frombuffer(source, np.uint8)

    def copy_within(self, stream: Any, memory: TwinMemory, moves: Sequence[Move]) -> None:  # noqa: ARG002
        """See Device."""
        for move in moves:
            piece = memory.bytes[move.source : move.source + move.length]
            memory.bytes[move.target : move.target + move.length] = piece

    def range(self, name: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """See Device."""
        return nullcontext()

    def window(self, memory: TwinMemory) -> memoryview:
        """See Device."""
        return memory.memory

    def show(self, memory: TwinMemory, *, stream: Any) -> tuple[torch.Tensor, Any]:  # noqa: ARG002
        """See Device: a fresh array over the memory lives as long as any view of it."""
        import torch

        owner = memory.bytes.view(_Owner)
        owner.memory = memory
        return torch.from_numpy(owner), owner


class _Owner(np.ndarray[Any, np.dtype[np.uint8]]):
    """An array that keeps its memory."""

    memory: TwinMemory
