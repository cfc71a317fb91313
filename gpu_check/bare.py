"""The bare loop into the device: n threads, each with preadv into pinned memory and a copy on a stream of its own.

    thread k   | preadv -> pinned 0 | copy 0 ......................
                                    | preadv -> pinned 1 | copy 1 ...      pinned 0 again once its copy has passed

What no loader can beat at the same threads and the same reads, and the limit that ours is held against.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .carry import SentHands, opened, rate_of, shut, spans_of
from .device import Device


class BareLoop:
    """Reads the files round and round in spans of `span_bytes`; close it to close them."""

    def __init__(self, paths: Sequence[Path], device: Device, *, span_bytes: int, threads: int) -> None:
        self._device = device
        self._files = opened(paths)
        self._spans = spans_of(self._files, span_bytes)
        self._hands = [SentHands(device, span_bytes) for _ in range(threads)]
        self.label = f"bare loop, {threads} threads"

    def run(self, seconds: float) -> float:
        """Bytes per second over a block, all threads together."""
        return rate_of(self._hands, self._spans, seconds, self._device)

    def close(self) -> None:
        """Close the files."""
        shut(self._files)
