"""Ranks that really run: as many as are required, and those around the prediction; and how many of them are fed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..loaders.discovery import find_shards
from ..results.fed import Fed, predict_utilisation, rate_between
from ..results.quantities import counted
from ..results.record import Metric, Point
from ..storage_bench.choice import choose_engine
from ..storage_bench.decoded import together
from ..storage_bench.staging import StageResult
from ..training_bench.budget import expected_seconds
from ..training_bench.fed import fed_by_ranks
from ..training_bench.plan import Source
from ..training_bench.summary import find_point
from ..training_bench.train import train
from ..training_bench.train_run import FindMax, TrainRun
from .run import Run

MORE_LAUNCHES = 2
FILL_SHARE = 0.7  # of the time that is left may be taken by what steps take at best


def needed_seconds(run: Run) -> float:
    """The least time in which the required number of ranks comes to a verdict, where nobody waits for data."""
    asked: tuple[tuple[Source, int], ...] = (("direct", required_ranks(run)),)
    return _least_seconds(_make_run(run, None, asked, None))


def _least_seconds(launch: TrainRun) -> float:
    """What a launch takes with as few rounds as give a verdict."""
    return expected_seconds(replace(launch, budget_s=0.0))


def required_ranks(run: Run) -> int:
    """As many ranks as accelerators are required, or as run here."""
    return min(run.config.required_gpus, run.max_ranks)


def run_ranks(run: Run, predicted: Fed, staged: StageResult | None) -> Fed:
    """Find the largest number of ranks that is fed, from the prediction on.

    The required number always runs, interleaved with those around the prediction; where the time is too short for all
    of them it runs first and alone, and the search has what is left.
    """
    centre = max(1, (predicted.high or 2) - 1) if predicted.value is None else predicted.value
    find = _find(run, 1, min(max(1, centre + 1), run.max_ranks), hint=max(1, centre))
    asked = _asked_cells(run, staged)
    launch = _make_run(run, find, asked, staged)
    if _least_seconds(launch) > FILL_SHARE * run.left_s:
        launch = _make_run(run, None, asked, staged)
        if _least_seconds(launch) > FILL_SHARE * run.left_s:  # the copy can wait, the verdict cannot
            launch = _make_run(run, None, asked[:1], None)
    _launch(run, replace(launch, budget_s=max(run.left_s, run.reserved_s)))
    for _ in range(MORE_LAUNCHES):
        fed = fed_by_ranks(run.points, threshold=run.config.threshold)
        if (more := next_search(run, fed, centre)) is None:
            break
        launch = _make_run(run, more, (), None)
        if _least_seconds(launch) > FILL_SHARE * run.left_s:
            break
        _launch(run, launch)
    return fed_by_ranks(run.points, threshold=run.config.threshold)


def _asked_cells(run: Run, staged: StageResult | None) -> tuple[tuple[Source, int], ...]:
    """The required number of ranks, on both sources where there is a copy."""
    asked = required_ranks(run)
    return (("direct", asked),) if staged is None else (("direct", asked), ("staged", asked))


def next_search(run: Run, fed: Fed, centre: int) -> FindMax | None:
    """Where the answer is still to be looked for: above what ran where that was fed, else below it."""
    ran = [int(point.params["num_ranks"] or 0) for point in run.points if point.params.get("source") == "direct"]
    if fed.value is None and ran and (high := min(ran) - 1) >= 1:
        return _find(run, 1, high, hint=centre)
    if fed.value is not None and fed.is_at_least and ran and (low := max(ran) + 1) <= run.max_ranks:
        return _find(run, low, min(max(low + 2, centre + 1), run.max_ranks), hint=max(low, centre))
    return None


def _find(run: Run, low: int, high: int, *, hint: int) -> FindMax:
    return FindMax(low=low, high=high, threshold=run.config.threshold, hint=min(max(hint, low), high))


def _make_run(
    run: Run, find: FindMax | None, cells: Sequence[tuple[Source, int]], staged: StageResult | None
) -> TrainRun:
    folders: dict[Source, Path] = {"direct": run.path}
    engines: dict[Source, str] = {"direct": run.engine}
    if staged is not None and any(source == "staged" for source, _ in cells):
        folders["staged"] = staged.target
        engines["staged"] = choose_engine("auto", find_shards(staged.target)[0])[0]
    assert run.layout is not None  # set when the data were opened
    searched = () if find is None else range(find.low, find.high + 1)
    counts = {*searched, *(count for _, count in cells)}
    return TrainRun(
        folders=folders,
        engines=engines,
        cells=tuple(cells),
        accelerator=run.accelerator,
        config=run.config.train,
        budget_s=run.left_s,
        layout=run.layout,
        expected_step_s={("direct", count): _expected_step_s(run, count) for count in counts},
        find=find,
    )


def _expected_step_s(run: Run, num_ranks: int) -> float:
    """A step of N ranks at the rate that N readers had."""
    rate = float(np.interp(num_ranks, list(run.rates), list(run.rates.values()))) if run.rates else 0.0
    return num_ranks * run.accelerator.batch_size * run.record_bytes / 1e9 / rate if rate else 0.0


def _launch(run: Run, launch: TrainRun) -> None:
    most = max([0 if launch.find is None else launch.find.high, *(count for _, count in launch.cells)])
    run.show("ranks", 0.0, f"starting {counted(most, 'rank')}")
    result = train(
        launch,
        on_progress=lambda seen: run.show(
            "ranks",
            seen["round"] / seen["rounds"],
            f"trying {counted(seen['trying'], 'rank')}"
            if "trying" in seen
            else f"{counted(most, 'rank')}, round {seen['round']} of {seen['rounds']}",
        ),
    )
    run.measured_s += result.wall_s
    run.measured_bytes += result.read_bytes
    run.peak_rss_bytes = max(run.peak_rss_bytes, result.peak_rss_bytes)
    run.warnings += result.warnings
    copies = {folder.resolve(): run.path for folder in launch.folders.values()}
    run.decoded = together((run.decoded, result.images.named(copies).decoded))
    run.trials += result.trials
    for source, text in result.invalid:
        told = f"ranks: {text}"
        if source == "staged":  # the verdict does not rest on the copy
            run.copy_invalid = told
            run.warnings.append(told)
        else:
            run.invalid.append(told)
    run.points += [_with_prediction(run, point, result.points) for point in result.points]


def _with_prediction(run: Run, point: Point, points: Sequence[Point]) -> Point:
    """The point with the AU that the storage's rate lets one expect of it beside the one that was measured."""
    if point.params["source"] != "direct":
        return point
    count = int(point.params["num_ranks"] or 0)
    rate = rate_between(run.all_rates, count)
    control = find_point(points, "synthetic", count)
    reached = None if control is None else control.metrics["au_mlperf"].value
    expected = predict_utilisation(rate, num_ranks=count, demand_gbps=run.demand_gbps, control=reached)
    flags = (*point.flags, *(["decode_limited"] if decode_limits(run, point, expected) else []))
    return point.model_copy(update={"metrics": {**point.metrics, "au_predicted": expected}, "flags": flags})


def decode_limits(run: Run, point: Point, predicted: Metric) -> bool:
    """Whether ranks are starved of decoded images although the storage gives them all the bytes that they ask for."""
    assert run.layout is not None  # set when the data were opened
    reached, threshold = point.metrics["au_mlperf"].value, run.config.threshold
    if run.layout.codec is None or run.config.train.decoder == "none" or reached is None or predicted.value is None:
        return False
    return reached < threshold <= predicted.value
