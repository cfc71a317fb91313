"""From a grid's trials to what its record says: a point for each cell, the first limited cells, cells of one size.

One sample of a cell is what one repetition came to.  Repetitions are interleaved, so that ratios of cells are of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...results.quantities import counted
from ...results.record import Metric, Point, not_measured
from ...results.scaling import (
    Layout,
    Limited,
    Prediction,
    Samples,
    base_layout,
    efficiency,
    first_limited,
    prediction_error,
    rate_ratio,
    same_size,
)
from ...results.stats import summarise
from ...storage_bench.decoded import together
from ...storage_bench.image_hops import unit_of_hop
from ..images import ImagesTold, with_images
from ..outcome import Outcome
from ..plan import Source
from .grid import Grid
from .journal import SourceTrial

Cells = Mapping[tuple[Layout, str], Samples]
LEADING: tuple[Source, ...] = ("direct", "staged", "synthetic")  # whose cells a record leads with, the first there is

UNITS = {
    "images_per_s": "images/s",
    "scaling_efficiency": "fraction",
    "data_stall_fraction": "fraction",
    "read_gbps": "GB/s",
    "of_synthetic": "fraction",
    "source_images_per_s": "images/s",
    "images_per_s_predicted": "images/s",
    "prediction_error": "fraction",
}


def grid_outcome(grid: Grid) -> Outcome:
    """Points in the order of the grid, and what they say together."""
    cells = _samples(grid)
    wanted = [(layout, source) for layout in grid.config.layouts for source in grid.run.sources]
    points = [_point(grid, cells, layout, source) for layout, source in wanted]
    best = leading_cell(points)
    limits = [limit for source in grid.run.sources if (limit := first_limited(cells, source)) is not None]
    failed = [
        f"{trial.layout}, repetition {trial.repetition + 1}, failed: {trial.failed}"
        for trial in grid.trials
        if trial.failed is not None
    ]
    outcome = Outcome(
        points=points,
        best=best,
        metrics=dict(best.metrics),
        workload=_workload(grid, cells, limits),
        warnings=("nodes are simulated: all ranks ran on this host, and share its cores",)
        if any(is_simulated(grid, layout) for layout in grid.config.layouts)
        else (),
        invalid=(*failed, *_invalid(grid)),
        sentence="\n".join(_sentences(grid, cells, best, limits)),
    )
    decoded = together(trial.images for trial in grid.trials)
    return with_images(outcome, ImagesTold(decoded, grid.config.reader_threads))


def leading_cell(points: Sequence[Point]) -> Point:
    """What a grid was run for: the most ranks, on the most nodes, that the storage was measured with.

    A copy stands in where the storage was not read in place, and synthetic batches where nothing was read at all.
    """
    measured = [point for point in points if point.metrics["images_per_s"].value is not None]
    found = (source for source in LEADING if any(point.params["source"] == source for point in measured))
    leading = next(found)

    def size(point: Point) -> tuple[int, int]:
        return int(point.params["num_ranks"] or 0), int(point.params["nodes"] or 0)

    return max((point for point in measured if point.params["source"] == leading), key=size)


def is_simulated(grid: Grid, layout: Layout) -> bool:
    """Whether several nodes are processes of this one host; one node is what it is."""
    return layout.nodes > 1 and not grid.run.places.hosts


def _samples(grid: Grid) -> dict[tuple[Layout, str], dict[int, float]]:
    """images/s of every cell that was run, by repetition."""
    found: dict[tuple[Layout, str], dict[int, float]] = {}
    for trial in sorted(grid.trials, key=lambda trial: trial.repetition):
        for source, seen in trial.sources.items():
            found.setdefault((trial.layout, source), {})[trial.repetition] = seen.images_per_s
    return found


def _point(grid: Grid, cells: Cells, layout: Layout, source: Source) -> Point:
    accelerator, run = grid.run.accelerator, grid.run
    seen = [trial.sources[source] for trial in grid.trials if trial.layout == layout and source in trial.sources]
    reason = next((trial.failed for trial in grid.trials if trial.layout == layout and trial.failed), "not run")
    return Point(
        params={
            "stage": "scale",
            "source": source,
            "nodes": layout.nodes,
            "gpus_per_node": layout.gpus_per_node,
            "num_ranks": layout.num_ranks,
            "workload": run.workload,
            "nodes_simulated": is_simulated(grid, layout),
            "accelerator": accelerator.name,
            "emulated": accelerator.emulated,
            "scaled": accelerator.scaled,
            "batch_size": accelerator.batch_size,
            "step_time_s": accelerator.step_time_s,
            "counted_steps": sum(each.counted_steps for each in seen),
        },
        read_path=seen[0].read_path if seen else None,
        metrics=_metrics(grid, cells, layout, source, seen) if seen else _no_metrics(f"failed: {reason}"),
        ranks=seen[0].ranks if seen else (),
        flags=tuple(dict.fromkeys(flag for each in seen for flag in each.flags)) if seen else ("failed",),
    )


def _no_metrics(reason: str) -> dict[str, Metric]:
    return {name: not_measured(unit, reason) for name, unit in UNITS.items()}


def _metrics(
    grid: Grid, cells: Cells, layout: Layout, source: Source, seen: Sequence[SourceTrial]
) -> dict[str, Metric]:
    rates = cells[layout, source]
    predicted = grid.predictions.get((layout, source))
    rate = summarise(list(rates.values()), unit="images/s")
    gbps = [each * grid.run.stored_bytes / 1e9 for each in rates.values()]
    given = [each.given_images_per_s for each in seen if each.given_images_per_s is not None]
    nothing = "synthetic batches are not read"
    metrics = {
        "images_per_s": rate,
        "scaling_efficiency": _efficiency(cells, layout, source),
        "data_stall_fraction": summarise([each.data_stall_fraction for each in seen], unit="fraction"),
        "read_gbps": not_measured("GB/s", nothing) if source == "synthetic" else summarise(gbps, unit="GB/s"),
        "of_synthetic": rate_ratio(rates, cells[layout, "synthetic"]),
        "source_images_per_s": summarise(given, unit="images/s", reason=nothing),
        "images_per_s_predicted": _predicted(predicted),
        "prediction_error": _error(predicted, rate),
    }
    for name in dict.fromkeys(name for each in seen for name in each.hops):
        metrics[name] = summarise([each.hops[name] for each in seen if name in each.hops], unit=unit_of_hop(name))
    if len(seen[0].phases) > 1:
        for phase in seen[0].phases:
            metrics[f"{phase}_images_per_s"] = summarise([each.phases[phase] for each in seen], unit="images/s")
    return metrics


def _efficiency(cells: Cells, layout: Layout, source: str) -> Metric:
    base = base_layout([key[0] for key in cells if key[1] == source])
    if layout == base:
        return Metric(value=1.0, unit="fraction", reason="the cell that the linear line goes through")
    return efficiency(cells[layout, source], layout.num_ranks, cells[base, source], base.num_ranks)


def _predicted(predicted: Prediction | None) -> Metric:
    if predicted is None:
        return not_measured("images/s", "no smaller cell to predict from")
    interval = None if predicted.low == predicted.high else (predicted.low, predicted.high)
    return Metric(value=predicted.value, unit="images/s", ci95=interval, reason=f"from {predicted.basis}")


def _error(predicted: Prediction | None, rate: Metric) -> Metric:
    if predicted is None or rate.value is None:
        return not_measured("fraction", "no smaller cell to predict from")
    return Metric(value=prediction_error(predicted, rate.value), unit="fraction", n=rate.n)


def _workload(grid: Grid, cells: Cells, limits: Sequence[Limited]) -> dict[str, Any]:
    accelerator = grid.run.accelerator
    return {
        **grid.config.model_dump(mode="json"),
        "accelerator": accelerator.name,
        "accelerator_source": accelerator.source,
        "emulated": accelerator.emulated,
        "scaled": accelerator.scaled,
        "batch_size": accelerator.batch_size,
        "step_time_s": accelerator.step_time_s,
        "engine": next(iter(grid.run.engines.values()), None),
        "engine_reason": grid.engine_reason,
        "stored_bytes_per_image": grid.run.stored_bytes,
        "nodes_simulated": any(is_simulated(grid, layout) for layout in grid.config.layouts),
        "hosts": [host.name for host in grid.run.places.hosts],
        "limited": [_limited(limit) for limit in limits],
        "same_size": _compared(grid, cells),
    }


def _limited(limit: Limited) -> dict[str, Any]:
    return {
        "source": limit.source,
        "nodes": limit.layout.nodes,
        "gpus_per_node": limit.layout.gpus_per_node,
        "by": limit.by,
        "missed_fraction": limit.missed,
        "ci95": limit.ci95,
    }


def _compared(grid: Grid, cells: Cells) -> list[dict[str, Any]]:
    """Cells of one number of ranks against that on the fewest nodes, as ratios with intervals."""
    return [
        {
            "source": source,
            "num_ranks": first.num_ranks,
            "base": str(first),
            "candidate": str(other),
            "ratio": rate_ratio(cells[other, source], cells[first, source]).model_dump(mode="json"),
        }
        for first, *others in same_size(grid.config.layouts)
        for other in others
        for source in grid.run.sources
        if {(first, source), (other, source)} <= cells.keys()
    ]


def _invalid(grid: Grid) -> tuple[str, ...]:
    found = (
        f"{trial.layout}: {each.invalid}" for trial in grid.trials for each in trial.sources.values() if each.invalid
    )
    return tuple(dict.fromkeys(found))


def _sentences(grid: Grid, cells: Cells, lead: Point, limits: Sequence[Limited]) -> list[str]:
    """What the leading cell reached, and which cell of which source is limited first."""
    rate, share, stall = (
        lead.metrics[name].value for name in ("images_per_s", "scaling_efficiency", "data_stall_fraction")
    )
    ranks = counted(int(lead.params["num_ranks"] or 1), "rank")
    where = f"{ranks} ({lead.params['nodes']}x{lead.params['gpus_per_node']}) on {grid.run.accelerator.label}"
    base = base_layout([key[0] for key in cells if key[1] == lead.params["source"]])
    line = "" if share is None else f", {share:.0%} of the line through {base}"
    free = [source for source in grid.run.sources if source not in {limit.source for limit in limits}]
    none = [f"No cell is shown to be limited with {' or '.join(free)} batches."] if free else []
    reached = f"{rate or 0:,.0f} images/s{line}, {stall or 0:.1%} of the time waiting for data"
    found = f"{grid.run.workload}, {lead.params['source']}, {where}: {reached}."
    return [found, *(f"{limit}." for limit in limits), *none]
