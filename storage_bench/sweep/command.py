"""`iobench storage`: settings -> points, warnings, and whether they count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...results.record import Metric, Point
from ..launching.hosts import HostSlots
from ..workload import DataFile, StorageConfig, WorkloadUsageError
from .adaptive import Search, find_knees, knee_doubts, knee_words
from .points import PointResult
from .recorded import storage_point
from .run import files_of, sweep
from .telling import against, said_of, sentence_of

TRIES_EXPECTED = 60  # of a search, for the progress bar

Show = Callable[[str, float, str], None]
Keep = Callable[["StorageOutcome"], None]


@dataclass(frozen=True)
class StorageOutcome:
    """The points, the best of them, what the record says about the run; `failed` where a point ended with an error.

    `sentence` is what the best point means; empty where nothing was measured.
    """

    points: list[Point]
    best: Point
    workload: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    failed: bool = False
    sentence: str = ""

    @property
    def metrics(self) -> dict[str, Metric]:
        """The record's own figures: those of the best point."""
        return self.best.metrics


def measure_storage(
    path: Path,
    config: StorageConfig,
    *,
    show: Show,
    hosts: Sequence[HostSlots] = (),
    ssh: Sequence[str] = ("ssh",),
    keep: Keep | None = None,
) -> StorageOutcome:
    """Run the sweep, the search for the knee, or the sweep by several clients; a point that fails keeps its error.

    Clients run here, or on `hosts`, reached with the words of `ssh`: as many as these have slots, unless fewer are
    asked for.  Raises WorkloadError where nothing can be measured as asked.  On KeyboardInterrupt what was measured
    until then is given to `keep`.
    """
    if hosts and config.clients == 1:
        config = config.model_copy(update={"clients": sum(host.slots for host in hosts)})
    if hosts and config.adaptive:
        raise WorkloadUsageError("--adaptive looks for the knee of one client, on this host; leave --hosts out")
    files = files_of(path, config)  # while they are there: the device may be gone when all is measured
    searches: list[Search] = []
    results: list[PointResult] = []
    try:
        if config.adaptive:
            _find_knees(path, config, show, searches)
        else:
            _sweep(path, config, show, hosts, ssh, results)
    except KeyboardInterrupt:
        _keep_whole(path, config, files, results, searches, keep)
        raise
    return _outcome(path, config, files, results or _tried(searches), searches)


def rate_of(point: Point) -> float:
    """What a point reads or writes in GB/s; -1 where it failed."""
    value = point.metrics[f"{point.params['operation']}_gbps"].value
    return -1.0 if value is None else value


def _sweep(
    path: Path,
    config: StorageConfig,
    show: Show,
    hosts: Sequence[HostSlots],
    ssh: Sequence[str],
    results: list[PointResult],
) -> None:
    """Put the points into `results`; each has its blocks as they come."""
    if config.clients > 1 or hosts:
        from .clients import sweep_by_clients

        sweep_by_clients(path, config, show=show, hosts=hosts, ssh=ssh, results=results)
        return
    sweep(
        path,
        config,
        keep_going=True,
        on_block=lambda done, total, point, block: show(
            "storage", done / total, f"{point.words}: {block.gbps:.2f} GB/s"
        ),
        results=results,
    )


def _find_knees(path: Path, config: StorageConfig, show: Show, searches: list[Search]) -> None:
    """Put the searches into `searches`, the one that is cut short too."""
    find_knees(
        path,
        config,
        keep_going=True,
        on_try=lambda tries, point, block: show(
            "knee", min(0.99, tries / TRIES_EXPECTED), f"{point.words}: {block.gbps:.2f} GB/s"
        ),
        searches=searches,
    )


def _tried(searches: Sequence[Search]) -> list[PointResult]:
    return [result for search in searches for result in search.results]


def _keep_whole(
    path: Path,
    config: StorageConfig,
    files: Sequence[DataFile],
    results: Sequence[PointResult],
    searches: Sequence[Search],
    keep: Keep | None,
) -> None:
    """Give `keep` the points that have a block, and those that failed; nothing where no block is whole."""
    seen = [result for result in results or _tried(searches) if result.is_judged or result.error is not None]
    if keep is not None and any(result.is_judged for result in seen):
        keep(_outcome(path, config, files, seen, [search for search in searches if search.results]))


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
    reasons = dict.fromkeys(f"{result.point.engine}: {result.engine_reason}" for result in results)
    return StorageOutcome(
        points=points,
        best=best,
        workload={**config.model_dump(mode="json"), "engine_reasons": list(reasons)}
        | ({"knee": [knee_words(search) for search in searches]} if searches else {}),
        warnings=[*said_of(results, files), *(text for search in searches for text in knee_doubts(search))],
        invalid=[text for result in results for text in against(result)],
        sentence=sentence_of(best, num_points=len(points)),
        failed=any(result.error is not None for result in results),
    )
