"""Device memory that kvikio has registered with cuFile: pinned once for the device's own reads, not in every one.

Where there is no GPUDirect Storage there is nothing to register, and reads go on without; what became of it is told,
and never an error: cuFile then takes its own buffers, which is a route that counters show.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from .kvikio_sources import FAILURES

COMPAT = "kvikio is in its compatibility mode, which has no use for it"


class RegisteredMemory:
    """What was registered for one reader, and why anything was not; may be used from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_bytes = 0
        self._num_buffers = 0
        self._refused_bytes = 0
        self._refused: dict[str, int] = {}

    def add(self, owner: object, memory: Any) -> None:
        """Register the allocation that `memory`, a window of a device, is in, for as long as `owner` is there.

        Nobody else may have a part of that allocation.
        """
        import kvikio
        import kvikio.defaults

        reason = COMPAT if kvikio.defaults.is_compat_mode_preferred() else None
        if reason is None:
            try:
                kvikio.memory_register(memory)
            except FAILURES as error:
                reason = str(error)
            else:
                weakref.finalize(owner, kvikio.memory_deregister, memory).atexit = False
        with self._lock:
            if reason is None:
                self._num_buffers, self._num_bytes = self._num_buffers + 1, self._num_bytes + len(memory)
            else:
                self._refused_bytes += len(memory)
                self._refused[reason] = self._refused.get(reason, 0) + 1

    def counters(self) -> dict[str, int]:
        """Bytes of allocations that were registered, and of those that were not, since the beginning."""
        return {"cufile_registered_bytes": self._num_bytes, "cufile_unregistered_bytes": self._refused_bytes}

    @property
    def words(self) -> str:
        """What became of it; empty where nobody asked."""
        told = [f"{self._num_buffers} buffers of {self._num_bytes} bytes were registered with cuFile"]
        refused = [f"{count} buffers were not registered with cuFile: {why}" for why, count in self._refused.items()]
        return "; ".join((told if self._num_buffers else []) + refused)
