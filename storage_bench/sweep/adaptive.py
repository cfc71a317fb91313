"""Finding the knee on a storage: blocks at the loads that `knee.next_step` asks for, until it has the answer.

A load is threads x queue depth; of the ways to make it the one with the most threads is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..workload import DataFile, StorageConfig, WorkloadError, WorkloadUsageError
from .knee import Knee, Rules, next_step
from .points import BlockResult, PointResult, SweepPoint
from .refusals import check_size
from .run import Bench, add_block, files_of, judge_all, new_results, open_bench, planned_points

MOST_THREADS = 32
MOST_DEPTH = 8

Shapes = Mapping[int, tuple[int, int]]  # load -> threads, queue depth
OnTry = Callable[[int, SweepPoint, BlockResult], None]


@dataclass(frozen=True, slots=True)
class Search:
    """One knee: every load that was tried, rising, and what was found; None where a load failed or it was cut short."""

    results: list[PointResult]
    knee: Knee | None
    was_cut_short: bool = False

    @property
    def found(self) -> PointResult | None:
        """The knee's result."""
        if self.knee is None:
            return None
        return next(result for result in self.results if result.point.load == self.knee.load)


def find_knees(
    path: Path,
    config: StorageConfig,
    *,
    on_try: OnTry | None = None,
    keep_going: bool = False,
    searches: list[Search] | None = None,
) -> list[Search]:
    """Find the knee of each engine, operation, cache state and block size of `config`.

    Who is interrupted finds the searches so far in the list `searches`, where that is handed in.
    """
    if config.clients > 1:
        raise WorkloadUsageError("the knee is searched with one client; leave out --adaptive or --np")
    files = files_of(path, config)
    one = config.model_copy(update={"threads": (1,), "queue_depth": (1,)})
    searches = [] if searches is None else searches
    for point, reason in planned_points(path, one, files):
        shapes = shapes_of(point, files, config)
        with open_bench(path, [_shaped(point, shape) for shape in shapes.values()], config) as bench:
            results: dict[int, PointResult] = {}
            knee, ended = None, False
            try:
                knee = _search(bench, point, reason, shapes, results, on_try, keep_going=keep_going)
                ended = True
            finally:
                searches.append(_judged(bench, results, knee, was_cut_short=not ended))
    return searches


def shapes_of(point: SweepPoint, files: Sequence[DataFile], config: StorageConfig) -> dict[int, tuple[int, int]]:
    """Each load that may be tried, rising, with its (threads, queue depth); those that memory does not allow left out.

    The largest `threads` and `queue_depth` of the settings are the bounds where they are given.
    """
    given = config.model_fields_set
    most_threads = max(config.threads) if "threads" in given else MOST_THREADS
    most_depth = max(config.queue_depth) if "queue_depth" in given else MOST_DEPTH
    shapes: dict[int, tuple[int, int]] = {}
    for depth in range(1, most_depth + 1):
        for threads in range(1, most_threads + 1):
            shapes.setdefault(threads * depth, (threads, depth))
    possible: dict[int, tuple[int, int]] = {}
    for load, shape in sorted(shapes.items()):
        try:
            check_size(_shaped(point, shape), files)
        except WorkloadError:
            if not possible:
                raise
            break  # more of them fit even less
        possible[load] = shape
    return possible


def knee_words(search: Search) -> dict[str, Any]:
    """What `workload.knee` says of a search."""
    first = search.results[0].point
    about: dict[str, Any] = {
        "engine": first.engine,
        "operation": first.operation,
        "access": first.access,
        "page_cache": first.page_cache if first.operation == "read" else None,
        "block_size_bytes": first.block_bytes,
        "loads_tried": [result.point.load for result in search.results],
        "blocks": sum(len(result.blocks) for result in search.results),
    }
    found, knee = search.found, search.knee
    if found is None or knee is None:
        why = "the search was cut short" if search.was_cut_short else "a load failed, see its point"
        return {**about, "load": None, "reason": why}
    return {
        **about,
        "load": knee.load,
        "threads": found.point.threads,
        "queue_depth": found.point.queue_depth,
        "peak_load": knee.peak_load,
        "ratio_to_peak": knee.ratio,
        "ratio_ci95": knee.ratio_ci95,
        "decided": knee.decided,
        "rising": knee.rising,
    }


def knee_doubts(search: Search) -> list[str]:
    """What must be said of a knee."""
    if search.knee is None or search.found is None:
        return []
    words = search.found.point.words
    doubts = []
    if not search.knee.decided:
        doubts.append(f"{words}: whether it or a neighbour is the knee cannot be told from these blocks; use more")
    if search.knee.rising:
        doubts.append(f"{words}: the rate still rises at the largest load tried; allow more --threads or --queue-depth")
    return doubts


def _search(
    bench: Bench,
    point: SweepPoint,
    reason: str,
    shapes: Shapes,
    results: dict[int, PointResult],
    on_try: OnTry | None,
    *,
    keep_going: bool,
) -> Knee | None:
    """Measure what is asked for into `results`, round by round, until the knee is known or a load has failed."""
    rounds: list[dict[int, float]] = []
    rules = Rules(max_pairs=bench.config.blocks)
    loads, random = list(shapes), np.random.default_rng(bench.config.seed)
    failed = False
    while not failed and not isinstance(step := next_step(rounds, loads, rules), Knee):
        for load in step:
            if load not in results:
                (results[load],) = new_results([(_shaped(point, shapes[load]), reason)])
        rates = {}
        for load in random.permutation(step).tolist():
            result = results[load]
            add_block(bench, result, len(rounds), keep_going=keep_going)
            failed = failed or result.error is not None
            if result.error is None:
                rates[load] = result.blocks[-1].gbps
                if on_try is not None:
                    on_try(len(rounds), result.point, result.blocks[-1])
        rounds.append(rates)
    return None if failed or not isinstance(step, Knee) else step


def _judged(bench: Bench, results: Mapping[int, PointResult], knee: Knee | None, *, was_cut_short: bool) -> Search:
    """All loads that were tried, with their evidence; the knee and the peak carry their names."""
    tried = [results[load] for load in sorted(results) if results[load].blocks or results[load].error is not None]
    judge_all(bench, tried)
    if knee is not None:
        names = {"knee": knee.load, "peak": knee.peak_load}
        for result in tried:
            result.flags = tuple(name for name, load in names.items() if result.point.load == load)
    return Search(tried, knee, was_cut_short)


def _shaped(point: SweepPoint, shape: tuple[int, int]) -> SweepPoint:
    return replace(point, threads=shape[0], queue_depth=shape[1])
