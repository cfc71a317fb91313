"""What a reader says of its own bytes: kvikio's SummaryMonitor counts them for each backend, the remote engine itself.

    kvikio_posix_bytes          through host memory
    kvikio_gds_bytes            handed to cuFile, which may still take another way inside (compatibility mode, P2PDMA)
    kvikio_remote_http_bytes    from a server
    obstore_remote_bytes        from a server, as the reader counted its answers

A trifle by another backend is no other route: kvikio reads what is below its gds_threshold through host memory.
But bytes handed to cuFile are `gds` only where nvidia-fs has counted them, too; one of the two alone proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from .counter import CounterClass
from .nvidia_fs import RESOLUTION_BYTES

BackendRoute = Literal["host", "bounce", "gds", "remote", "unknown"]

AGREEMENT = 0.98
_BACKEND_BYTES = re.compile(r"(?:kvikio|obstore)_([a-z0-9]+)\w*_bytes")


def route_by_backends(
    own: Mapping[str, int], *, nvidia_fs_bytes: int | None, into_gpu: bool = False
) -> tuple[BackendRoute, str] | None:
    """The route by a reader's own counts, and the words for it; None where it counted nothing.

    `nvidia_fs_bytes` is what the module read meanwhile, None where it does not count.
    """
    by_backend: dict[str, int] = {}
    for name, count in own.items():
        if (found := _BACKEND_BYTES.fullmatch(name)) and count:
            by_backend[found[1]] = by_backend.get(found[1], 0) + count
    if not by_backend:
        return None
    told = "the reader counted " + ", ".join(f"{count} bytes by {backend}" for backend, count in by_backend.items())
    backend, count = max(by_backend.items(), key=lambda item: item[1])
    if count < AGREEMENT * sum(by_backend.values()):
        return "unknown", told
    if backend == "gds":
        return _by_cufile(told, count, nvidia_fs_bytes)
    routes: dict[str, BackendRoute] = {"posix": "bounce" if into_gpu else "host", "remote": "remote"}
    return routes.get(backend, "unknown"), told


def class_of(own: Mapping[str, int]) -> CounterClass:
    """What may be concluded from a reader's own counts: kvikio's monitor is exact, our own sum is a client's word."""
    return "exact" if any(name.startswith("kvikio_") for name in own) else "client-own"


def _by_cufile(told: str, count: int, nvidia_fs_bytes: int | None) -> tuple[BackendRoute, str]:
    if nvidia_fs_bytes is None:
        return "unknown", f"{told} (cuFile), and nvidia-fs does not count here whether it took them directly"
    if nvidia_fs_bytes + RESOLUTION_BYTES < AGREEMENT * count:
        return "unknown", f"{told} (cuFile), but nvidia-fs read only {nvidia_fs_bytes} bytes: cuFile went another way"
    return "gds", f"{told}, and nvidia-fs read {nvidia_fs_bytes} bytes"
