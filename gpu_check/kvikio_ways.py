"""kvikio's ways from files: into host memory, into the device in compatibility mode, and by cuFile's own direct way.

A file's mode is settled when it is opened, and whether memory is registered when it is allocated: both happen here,
each way in its own mode.  Asked to go direct, kvikio refuses where cuFile cannot be opened; where it can, cuFile may
still take another way inside, which counters tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..loaders.engines.kvikio_probe import probe_kvikio
from ..loaders.engines.kvikio_sources import FAILURES
from ..storage_bench.sweep.device import KvikioDeviceReads, KvikioHostReads
from .carry import Span, WayHands, spans_of
from .device import Device
from .twin import TwinDevice

HOST, COMPAT, DIRECT = "kvikio host", "kvikio compat", "kvikio direct"


class KvikioWay:
    """One way, its open files, and hands for every thread."""

    def __init__(self, reads: KvikioHostReads | KvikioDeviceReads, paths: Sequence[Path], *, threads: int) -> None:
        self._reads = reads
        self._files = [(reads.handle(path)[0], path) for path in paths]
        self.hands = [WayHands(reads) for _ in range(threads)]

    def spans(self, span_bytes: int) -> list[Span]:
        """Its files, in spans of so many bytes."""
        return spans_of(self._files, span_bytes)

    def counters(self) -> dict[str, int]:
        """What kvikio has counted in this process, whoever read."""
        return self._reads.counters()

    def close(self) -> None:
        """Close the files, and let memory go."""
        self.hands, self._files = [], []
        self._reads.close()


def kvikio_ways(
    device: Device, paths: Sequence[Path], *, threads: int, size_bytes: int
) -> tuple[dict[str, KvikioWay], dict[str, str]]:
    """The ways that are open here for reads of at most `size_bytes`, and why others are not, by their names."""
    if missing := probe_kvikio().missing:
        return {}, {"kvikio": missing}
    found, refused = {}, dict[str, str]()
    found[HOST] = KvikioWay(KvikioHostReads(evicts=False, load=threads), paths, threads=threads)
    for name, mode in ((COMPAT, "ON"), (DIRECT, "OFF")):
        if name == DIRECT and not device.is_cuda:
            refused[name] = "the twin has no GPU that could read by itself"
            continue
        try:
            with _compat_mode(mode):
                reads = KvikioDeviceReads(
                    None if device.is_cuda else TwinDevice(), evicts=False, load=threads, size_bytes=size_bytes
                )
                found[name] = KvikioWay(reads, paths, threads=threads)
        except FAILURES as error:
            refused[name] = f"{type(error).__name__}: {error}"
    return found, refused


def _compat_mode(mode: str) -> AbstractContextManager[Any]:
    import kvikio
    import kvikio.defaults

    found: AbstractContextManager[Any] = kvikio.defaults.set({"compat_mode": getattr(kvikio.CompatMode, mode)})
    return found
