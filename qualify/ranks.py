"""Ranks that really run: as many as are predicted to be fed, one less and one more, and how many of them are fed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..loaders.discovery import find_shards
from ..results.record import Point
from ..results.verdict import Fed, predict_utilisation, rate_between
from ..storage_bench.choice import choose_engine
from ..storage_bench.staging import StageResult
from ..training_bench.fed import fed_by_ranks
from ..training_bench.plan import Source
from ..training_bench.summary import find_point
from ..training_bench.train import FindMax, TrainRun, expected_seconds, train
from .run import Run

START_S = 8.0


def run_ranks(run: Run, predicted: Fed, staged: StageResult | None) -> Fed:
    """Find the largest number of ranks that is fed, from the prediction on; once more where all that ran were fed."""
    config = run.config
    centre = max(1, (predicted.high or 2) - 1) if predicted.value is None else predicted.value
    find = FindMax(high=min(max(1, centre + 1), run.max_ranks), threshold=config.threshold, hint=max(1, centre))
    _launch(run, _make_run(run, find, _fixed_cells(run, find, staged), staged))
    fed = fed_by_ranks(run.points, threshold=config.threshold)
    if fed.value is not None and fed.is_at_least and find.high < run.max_ranks:
        low = find.high + 1
        again = _make_run(
            run, FindMax(low=low, high=min(low + 2, run.max_ranks), threshold=find.threshold, hint=low), (), None
        )
        if expected_seconds(again) + START_S < run.left_s:
            _launch(run, again)
            fed = fed_by_ranks(run.points, threshold=config.threshold)
    return fed


def _fixed_cells(run: Run, find: FindMax, staged: StageResult | None) -> list[tuple[Source, int]]:
    """What runs beside the search: the required number of ranks, on both sources where there is a copy."""
    asked = min(run.config.required_gpus, run.max_ranks)
    cells: list[tuple[Source, int]] = []
    if staged is not None or asked > find.high:  # fewer are fed if those are
        cells.append(("direct", asked))
    if staged is not None:
        cells.append(("staged", asked))
    return cells


def _make_run(run: Run, find: FindMax, cells: Sequence[tuple[Source, int]], staged: StageResult | None) -> TrainRun:
    folders: dict[Source, Path] = {"direct": run.path}
    engines: dict[Source, str] = {"direct": run.engine}
    if staged is not None and any(source == "staged" for source, _ in cells):
        folders["staged"] = staged.target
        engines["staged"] = choose_engine("auto", find_shards(staged.target)[0])[0]
    assert run.layout is not None  # set when the data were opened
    counts = {*range(find.low, find.high + 1), *(count for _, count in cells)}
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
    rate = float(np.interp(num_ranks, list(run.rates), list(run.rates.values())))
    return num_ranks * run.accelerator.batch_size * run.record_bytes / 1e9 / rate if rate else 0.0


def _launch(run: Run, launch: TrainRun) -> None:
    assert launch.find is not None  # every launch of a qualification looks for the largest number
    most = max([launch.find.high, *(count for _, count in launch.cells)])
    run.show("ranks", 0.0, f"starting {most} ranks")
    result = train(
        launch,
        on_progress=lambda seen: run.show(
            "ranks",
            seen["round"] / seen["rounds"],
            f"trying {seen['trying']} ranks"
            if "trying" in seen
            else f"{most} ranks, round {seen['round']} of {seen['rounds']}",
        ),
    )
    run.measured_s += result.wall_s
    run.measured_bytes += result.read_bytes
    run.peak_rss_bytes = max(run.peak_rss_bytes, result.peak_rss_bytes)
    run.warnings += result.warnings
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
    return point.model_copy(update={"metrics": {**point.metrics, "au_predicted": expected}})
