"""The roofs over each network that `iobench infer --roofline` has answered with.

What loaders decode and read is measured once for each batch size and source; what the device does, for each network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...results.record import Point
from ...storage_bench.encoded import images_of
from ..models import model_info
from ..outcome import Outcome
from ..roofline import Roof, roofline_lines, roofline_points, standing
from ..roofs import data_roofs, device_roofs
from .setup import InferRun

Show = Callable[[str, float, str], None]


def with_infer_roofline(outcome: Outcome, run: InferRun, *, show: Show) -> Outcome:
    """An inference's outcome with a point for each roof over every network's best point, and where it stands."""
    of_data: dict[tuple[object, object], list[Roof]] = {}
    points, lines = list(outcome.points), [outcome.sentence]
    for name in run.config.models:
        best = _best(outcome, run, name)
        if best is None:
            continue
        told = _told(outcome, run, best)
        key = told["batch_size"], told["source"]
        if key not in of_data:
            of_data[key] = data_roofs(run.path, told, run.config.num_ranks, show=show)
        roofs = [*device_roofs(told, run.config.num_ranks), *of_data[key]]
        about = {
            key: best.params[key] for key in ("num_ranks", "accelerator", "emulated", "batch_size", "source", "model")
        }
        points += (found := roofline_points(roofs, best, about=about))
        where = standing(roofs, best.metrics["images_per_s"].value or 0.0)
        lines += [f"{name}:", roofline_lines(found), f"{model_info(name).title}, {where.text}" if where else ""]
    return replace(outcome, points=points, sentence="\n".join(filter(None, lines)))


def _best(outcome: Outcome, run: InferRun, name: str) -> Point | None:
    """The network's point of the highest rate, of the sources that were asked for."""
    known = [
        point
        for point in outcome.points
        if point.params["model"] == name
        and point.params["source"] in run.config.sources
        and point.metrics["images_per_s"].value is not None
    ]
    return max(known, key=lambda point: point.metrics["images_per_s"].value or 0.0, default=None)


def _told(outcome: Outcome, run: InferRun, best: Point) -> dict[str, Any]:
    """The run as roofs are asked for."""
    config, params = run.config, best.params
    return {
        **images_of(config).model_dump(),
        "emulated": not config.real,
        "accelerator_source": outcome.workload["accelerator_source"],
        "step_time_s": params["step_time_s"],
        "model": params["model"],
        "training": False,
        "device": config.accelerator,
        "precision": config.precision,
        "image_shape": outcome.workload["image_shape"],
        "crop": config.crop,
        "batch_size": params["batch_size"],
        "source": params["source"],
        "engine": outcome.workload["engine"],
        "reader_threads": config.prefetch_threads,
        "prefetch_depth": params["queue_depth"],
        "shuffle": config.shuffle,
    }
