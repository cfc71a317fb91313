"""A GPU, or the CPU in its place: memory, streams, events and waiting, as far as the parts need them.

cuda   pinned host memory, side streams, events; nothing waits for the device but `synchronize`
cpu    plain memory; a copy is done when it returns, and every event has passed
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..loaders.page_cache import PAGE_BYTES
from .part import DeviceName

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.nearness import Near


class Passed:
    """The event of a device that does everything at once."""

    def query(self) -> bool:
        """It has passed."""
        return True

    def synchronize(self) -> None:
        """There is nothing to wait for."""


class Device:
    """The device that is checked: the first GPU that this process sees, or the CPU."""

    def __init__(self, name: DeviceName) -> None:
        self.name = name
        self.is_cuda = name == "cuda"
        if self.is_cuda:
            import torch

            torch.cuda.init()  # type: ignore[no-untyped-call]

    @property
    def title(self) -> str:
        """What it calls itself."""
        if not self.is_cuda:
            return "CPU"
        import torch

        return torch.cuda.get_device_name()

    @property
    def memory_bytes(self) -> int:
        """The GPU's own memory; 0 of the CPU."""
        if not self.is_cuda:
            return 0
        import torch

        return int(torch.cuda.mem_get_info()[1])

    @property
    def addresses(self) -> tuple[str, ...]:
        """The GPU's place on the PCI bus, alone in a tuple; none of the CPU, or where torch does not tell."""
        if not self.is_cuda:
            return ()
        import torch

        from ..loaders.nearness import address_of_gpu

        address = address_of_gpu(torch.cuda.current_device())
        return () if address is None else (address,)

    def near(self) -> Near:
        """The cores that reader threads for it should stand on; nothing is chosen for the CPU."""
        from ..loaders.nearness import near_device

        return near_device(self.name)

    def empty(self, num_bytes: int) -> Tensor:
        """Bytes of the device's memory."""
        import torch

        return torch.empty(num_bytes, dtype=torch.uint8, device=self.name)

    def host(self, num_bytes: int, *, pinned: bool) -> Tensor:
        """Bytes of host memory from a page's beginning, page-locked where asked for and where there is a GPU.

        Every page is there.
        """
        import torch

        if pinned and self.is_cuda:  # of pages of its own, in powers of two: a page more would take twice as many
            return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).fill_(1)
        block = torch.empty(num_bytes + PAGE_BYTES, dtype=torch.uint8)
        skip = -block.data_ptr() % PAGE_BYTES
        return block[skip : skip + num_bytes].fill_(1)

    def stream(self) -> Any:
        """A stream beside the current one; None where there are none."""
        if not self.is_cuda:
            return None
        import torch

        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def compute_stream(self) -> tuple[Any, ...]:
        """The stream that this thread computes on, alone in a tuple; without streams nothing is in it."""
        if not self.is_cuda:
            return ()
        import torch

        return (torch.cuda.current_stream(),)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """What this thread starts within goes to `stream`."""
        if stream is None:
            return nullcontext()
        import torch

        return torch.cuda.stream(stream)

    def event(self) -> Any:
        """A mark in the current stream, here and now."""
        if not self.is_cuda:
            return Passed()
        import torch

        return torch.cuda.current_stream().record_event()

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""
        if self.is_cuda:
            import torch

            torch.cuda.synchronize()

    @contextmanager
    def timed(self, took: Callable[[float], None]) -> Iterator[None]:
        """Give `took` the seconds from here until the device has done what was started within."""
        self.synchronize()
        begin = perf_counter()
        yield
        self.synchronize()
        took(perf_counter() - begin)
