"""Ranks that really run: N-1, N, N+1 of them, and how many of them are fed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..loaders.discovery import find_shards
from ..results.record import Metric, Point
from ..results.verdict import (
    Fed,
    decide_fed,
    missed_in_spite_of_few_steps,
    settles,
)
from ..storage_bench.staging import StageResult
from ..storage_bench.sweep import choose_engine
from ..training_bench.loop import Source
from ..training_bench.summary import find_point
from ..training_bench.train import TrainRun, expected_seconds, train
from .run import Run

START_S = 8.0


def run_ranks(run: Run, predicted: Fed, staged: StageResult | None) -> Fed:
    """Really run N-1, N, N+1 ranks; once more around what was seen where that does not settle it."""
    config = run.config
    centre = max(1, (predicted.high or 2) - 1) if predicted.value is None else predicted.value
    seen: dict[int, Metric] = {}
    unusable: dict[int, str] = {}
    fed = Fed(None, reason="no ranks were run")
    for attempt in range(2):
        counts = [count for count in (centre - 1, centre, centre + 1) if 1 <= count <= run.max_ranks]
        counts = [count for count in counts if count not in seen]
        if not counts:
            break
        cells: list[tuple[Source, int]] = [("direct", count) for count in counts]
        if attempt == 0:
            asked = min(config.required_gpus, run.max_ranks)
            wanted = staged is not None or asked > max(counts)  # fewer than N-1 are fed if N-1 are
            cells += [("direct", asked)] if wanted and asked not in counts else []
            cells += [("staged", asked)] if staged is not None else []
        if attempt and not _enough_time(run, cells):
            break
        points = _launch(run, cells, staged)
        for count in {count for source, count in cells if source == "direct"}:
            _note(points, count, config.au_threshold, seen, unusable)
        fed = decide_fed(seen, threshold=config.au_threshold, unusable=unusable)
        if fed.value is not None and not fed.is_at_least:
            break
        centre = max(1, min(seen, default=2) - 2 if fed.value is None else fed.value + 1)
    return fed


def _note(
    points: Sequence[Point], count: int, threshold: float, seen: dict[int, Metric], unusable: dict[int, str]
) -> None:
    """Take over the AU that `count` ranks reached, or why it gives no verdict."""
    point, control = find_point(points, "direct", count), find_point(points, "synthetic", count)
    if point is None:
        unusable[count] = "not run"
        return
    rate = seen[count] = point.metrics["au_mlperf"]
    if rate.value is None:
        unusable[count] = rate.reason or "no AU"
    elif "insufficient" in point.flags and not missed_in_spite_of_few_steps(rate, threshold=threshold):
        unusable[count] = "insufficient"
    elif "harness_limited" in point.flags:
        reached = control.metrics["au_mlperf"].value if control else None
        if settles(rate.value, control=reached, threshold=threshold) is None:
            unusable[count] = "harness_limited"


def _make_run(run: Run, cells: Sequence[tuple[Source, int]], staged: StageResult | None) -> TrainRun:
    folders: dict[Source, Path] = {"direct": run.path}
    engines: dict[Source, str] = {"direct": run.engine}
    if staged is not None and any(source == "staged" for source, _ in cells):
        folders["staged"] = staged.target
        engines["staged"] = choose_engine("auto", find_shards(staged.target)[0])[0]
    assert run.layout is not None  # set when the data were opened
    return TrainRun(
        folders=folders,
        engines=engines,
        cells=tuple(cells),
        accelerator=run.accelerator,
        config=run.config.train,
        budget_s=run.left_s,
        layout=run.layout,
        expected_step_s={cell: _expected_step_s(run, cell[1]) for cell in cells if cell[0] == "direct"},
    )


def _expected_step_s(run: Run, num_ranks: int) -> float:
    """A step of N ranks at the rate that N readers had."""
    rate = float(np.interp(num_ranks, list(run.rates), list(run.rates.values())))
    return num_ranks * run.accelerator.batch_size * run.record_bytes / 1e9 / rate if rate else 0.0


def _enough_time(run: Run, cells: Sequence[tuple[Source, int]]) -> bool:
    return expected_seconds(_make_run(run, cells, None)) + START_S < run.left_s


def _launch(run: Run, cells: Sequence[tuple[Source, int]], staged: StageResult | None) -> list[Point]:
    most = max(count for _, count in cells)
    run.show("ranks", 0.0, f"starting {most} ranks")
    result = train(
        _make_run(run, cells, staged),
        on_progress=lambda seen: run.show(
            "ranks", seen["round"] / seen["rounds"], f"{most} ranks, round {seen['round']} of {seen['rounds']}"
        ),
    )
    run.measured_s += result.wall_s
    run.measured_bytes += result.read_bytes
    run.peak_rss_bytes = max(run.peak_rss_bytes, result.peak_rss_bytes)
    run.warnings += result.warnings
    for source, text in result.invalid:
        told = f"ranks: {text}"
        if source == "staged":  # the verdict does not rest on the copy
            run.copy_invalid = told
            run.warnings.append(told)
        else:
            run.invalid.append(told)
    run.points += result.points
    return result.points
