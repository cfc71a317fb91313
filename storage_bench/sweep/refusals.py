"""What a sweep refuses before anything is read: engines that cannot be had here, too many threads, too much memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ...loaders.destinations.device import Device
from ...loaders.engines.kvikio_probe import probe_kvikio
from ...results.quantities import binary_size, counted
from ..choice import choose_engine
from ..limits import require_memory, require_room_to_warm
from ..workload import DataFile, Destination, Operation, PageCache, SweepEngine, WorkloadError, WorkloadUsageError
from .points import SweepPoint

MAX_READS_IN_FLIGHT = 4096
PROBE_BYTES = 4096


def choose_way(
    engine: str,
    sample: Path,
    *,
    page_cache: PageCache = "cold",
    operation: Operation = "read",
    destination: Destination = "host",
    device: Device | None = None,
) -> tuple[str, str]:
    """The engine that serves a name, and why; `sample` is a file to read, or the folder to write into.

    Reads into a GPU go to `device` where one is handed in, and need CUDA where none is.
    Raises WorkloadError where it cannot be had here, WorkloadUsageError where it never can.
    """
    if engine not in get_args(SweepEngine):
        raise WorkloadUsageError(f"engine {engine!r} is not known; choose {', '.join(get_args(SweepEngine))}")
    if operation == "write":
        if destination == "gpu":
            raise WorkloadUsageError("writes come from host memory here; leave --destination gpu to --operation read")
        return _choose_for_writes(engine, sample)
    if destination == "gpu" and device is None:
        _require_gpu(engine)
    chosen, reason = _choose_for_reads(engine, sample, page_cache, destination)
    if destination == "gpu" and chosen != "kvikio":
        reason += "; then copied to the GPU from page-locked memory"
    return chosen, reason


def _require_gpu(engine: str) -> None:
    from .copied import copies_refused
    from .device import gpu_refused

    if (refused := gpu_refused() if engine == "kvikio" else copies_refused()) is not None:
        raise WorkloadError(refused)


def _choose_for_reads(engine: str, sample: Path, page_cache: PageCache, destination: Destination) -> tuple[str, str]:
    if engine == "mmap":
        from .mapped import populating_refused

        if (refused := populating_refused(sample)) is not None:
            raise WorkloadError(f"{sample}: {refused}; use --engine buffered")
        return "mmap", "asked for"
    if engine == "kvikio":
        return "kvikio", _kvikio_reason(destination)
    return choose_engine(engine, sample, page_cache=page_cache)


def check_size(point: SweepPoint, files: Sequence[DataFile]) -> None:
    """Refuse what would take more threads or memory than a host has to give."""
    if point.load > MAX_READS_IN_FLIGHT:
        raise WorkloadUsageError(
            f"{point.threads} threads x queue depth {point.queue_depth} are {point.load} reads in flight, each a "
            f"thread; at most {MAX_READS_IN_FLIGHT} are possible"
        )
    largest = max(file.size_bytes for file in files) if point.operation == "read" else point.block_bytes
    require_memory(
        point.load * min(point.block_bytes, largest),
        f"{counted(point.load, 'read')} of {binary_size(point.block_bytes)} in flight",
        way_out="use fewer --threads, a smaller --queue-depth or --block-size",
    )
    if point.page_cache == "warm" and point.operation == "read":
        require_room_to_warm(sum(file.size_bytes for file in files))


def _choose_for_writes(engine: str, folder: Path) -> tuple[str, str]:
    if engine in ("mmap", "kvikio"):
        raise WorkloadUsageError(f"engine {engine} does not write here; use --engine direct or buffered for writes")
    try:
        with tempfile.NamedTemporaryFile(prefix=".iobench-write-", dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            chosen, reason = choose_engine(engine, Path(probe.name))
    except OSError as error:
        why = f"no file can be made here to write into ({error.strerror}); name another PATH for --operation write"
        raise WorkloadError(f"{folder}: {why}") from error
    return chosen, reason.replace("cannot answer for the storage", "cannot take writes for the storage")


def _kvikio_reason(destination: Destination) -> str:
    if destination == "gpu":
        return "asked for; into GPU memory"
    found = probe_kvikio()
    if found.missing:
        raise WorkloadError(found.missing)
    return f"asked for; POSIX reads into host memory, cuInit answers {found.cuda_error or 'CUDA_SUCCESS'}"
