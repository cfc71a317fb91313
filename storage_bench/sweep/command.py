"""`iobench storage`: settings -> points, warnings, and whether they count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...results.record import Point
from ..evidence import doubts
from ..launching.hosts import HostSlots
from ..workload import DataFile, StorageConfig, WorkloadUsageError
from .adaptive import Search, find_knees, knee_doubts, knee_words
from .points import PointResult
from .proof import write_doubt
from .recorded import storage_point
from .run import files_of, sweep
from .streams import crowding

TRIES_EXPECTED = 60  # of a search, for the progress bar

Show = Callable[[str, float, str], None]


@dataclass(frozen=True)
class StorageOutcome:
    """The points, the best of them, what the record says about the run; `failed` where a point ended with an error."""

    points: list[Point]
    best: Point
    workload: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    failed: bool = False


def measure_storage(
    path: Path, config: StorageConfig, *, show: Show, hosts: Sequence[HostSlots] = (), ssh: Sequence[str] = ("ssh",)
) -> StorageOutcome:
    """Run the sweep, the search for the knee, or the sweep by several clients; a point that fails keeps its error.

    Clients run here, or on `hosts`, reached with the words of `ssh`: as many as these have slots, unless fewer are
    asked for.  Raises WorkloadError where nothing can be measured as asked.
    """
    if hosts and config.clients == 1:
        config = config.model_copy(update={"clients": sum(host.slots for host in hosts)})
    if hosts and config.adaptive:
        raise WorkloadUsageError("--adaptive looks for the knee of one client, on this host; leave --hosts out")
    files = files_of(path, config)  # while they are there: the device may be gone when all is measured
    searches: list[Search] = []
    if config.adaptive:
        searches = find_knees(
            path,
            config,
            keep_going=True,
            on_try=lambda tries, point, block: show(
                "knee", min(0.99, tries / TRIES_EXPECTED), f"{point.words}: {block.gbps:.2f} GB/s"
            ),
        )
        results = [result for search in searches for result in search.results]
    else:
        results = _sweep(path, config, show, hosts, ssh)
    return _outcome(path, config, files, results, searches)


def rate_of(point: Point) -> float:
    """What a point reads or writes in GB/s; -1 where it failed."""
    value = point.metrics[f"{point.params['operation']}_gbps"].value
    return -1.0 if value is None else value


def _sweep(
    path: Path, config: StorageConfig, show: Show, hosts: Sequence[HostSlots], ssh: Sequence[str]
) -> list[PointResult]:
    if config.clients > 1 or hosts:
        from .clients import sweep_by_clients

        return sweep_by_clients(path, config, show=show, hosts=hosts, ssh=ssh)
    return sweep(
        path,
        config,
        keep_going=True,
        on_block=lambda done, total, point, block: show(
            "storage", done / total, f"{point.words}: {block.gbps:.2f} GB/s"
        ),
    )


def _outcome(
    path: Path,
    config: StorageConfig,
    files: Sequence[DataFile],
    results: Sequence[PointResult],
    searches: Sequence[Search],
) -> StorageOutcome:
    points = [storage_point(result, path) for result in results]
    knees = [point for point in points if "knee" in point.flags]
    reads = [point for point in knees or points if point.params["operation"] == "read"]
    best = max(reads or points, key=rate_of)
    said = [text for result in results for text in _said_of(result, files)]
    said += [text for search in searches for text in knee_doubts(search)]
    reasons = dict.fromkeys(f"{result.point.engine}: {result.engine_reason}" for result in results)
    knee = {"knee": [knee_words(search) for search in searches]} if searches else {}
    return StorageOutcome(
        points=points,
        best=best,
        workload={**config.model_dump(mode="json"), "engine_reasons": list(reasons), **knee},
        warnings=said,
        invalid=[text for result in results for text in _against(result)],
        failed=any(result.error is not None for result in results),
    )


def _said_of(result: PointResult, files: Sequence[DataFile]) -> list[str]:
    """What must be said of a point that counts, or that failed."""
    point = result.point
    said = [f"{point.words}: failed: {result.error}"] if result.error is not None else []
    slow = max((read for block in result.blocks for read in block.slow), key=lambda read: read.seconds, default=None)
    if slow is not None:
        said.append(
            f"{point.words}: a {point.operation} at byte {slow.offset} of {slow.path} took {slow.seconds:.1f} s"
        )
    if result.harness_limited and result.error is None:
        said.append(f"{point.words}: this program was the limit, the storage may give more; share the work with --np")
    if point.operation == "write":
        return said
    if result.evidence is not None:
        said += doubts(result.evidence)
    crowded = None
    if point.access != "shard-replay":
        crowded = crowding(files, block_bytes=point.block_bytes, load=point.load * max(1, len(result.clients)))
    return said + ([crowded] if crowded else [])


def _against(result: PointResult) -> list[str]:
    """Why a point does not count."""
    if result.evidence is None:
        return []
    against = write_doubt if result.point.operation == "write" else type(result.evidence).invalid_reason
    reason = against(result.evidence)
    return [f"{result.point.words}: {reason}"] if reason else []
