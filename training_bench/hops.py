"""Stall by hop: what each stretch of the data's way adds to a step, by putting another source in its place.

    synthetic --> host --> warm --> direct        one batch; batches in host memory; page cache; the storage, cold
                             \\--> staged          the local copy, cold: a branch beside the storage, no hop

All rungs run in interleaved blocks of one launch, and a hop costs the difference of two rungs' steps, block by block:
what moved both cancels.  A hop may come out negative, and is then shown so.  What the last rung stalls by substitution
is held against what the meter in the loop saw of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..results.record import Metric, Point, not_measured
from ..results.stats import summarise
from ..storage_bench.limits import require_room_to_warm
from ..storage_bench.workload import WorkloadError
from .plan import Rung, Source
from .summary import find_point

Hop = Literal["synthetic", "host", "warm", "direct", "staged"]

LADDER: tuple[Hop, ...] = ("synthetic", "host", "warm", "direct")
SHOWN = ("step_time_s", "images_per_s", "data_wait_s", "straggler_wait_s", "data_stall_fraction")
WORK = ("compute_s", "communication_s", "optimizer_s", "overhead_s")  # the parts of a step that are no wait for data
METERED = ("data_wait_s", "straggler_wait_s")  # what the meter takes for stall: waiting for data, and for who does
DISAGREEMENT = 0.02
NAMES = {
    "synthetic": "one batch in memory",
    "host": "batches in host memory",
    "warm": "page cache",
    "direct": "storage, cold",
    "staged": "local copy, cold",
}


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rungs that can be run here, and why the others cannot."""

    rungs: tuple[Source | Rung, ...]
    missing: Mapping[Hop, str]


def plan_ladder(files: Sequence[Path], *, engine: str, staged: bool) -> Ladder:
    """Which rungs there are for these files and this engine; `staged` adds the local copy."""
    missing: dict[Hop, str] = {}
    if engine == "direct":
        missing["warm"] = "engine direct never reads from the page cache; with --engine buffered there is this rung"
    else:
        try:
            require_room_to_warm(sum(path.stat().st_size for path in files))
        except WorkloadError as error:
            missing["warm"] = str(error)
    if not staged:
        missing["staged"] = "no local copy was asked for; --source staged makes one"
    rungs: list[Source | Rung] = [rung for rung in (*LADDER, "staged") if rung not in missing]
    return Ladder(tuple(rungs), missing)


def hop_points(points: Sequence[Point], ladder: Ladder, *, num_ranks: int) -> list[Point]:
    """One point a hop, in the order of the data's way, of the points of the launch.

    `hop_cost_s` is what the hop adds to a step over the rung before it that was run, and `hop_cost_fraction` the same
    as a share of the step of this branch's last rung, so that the shares of a branch add up to its stall.
    """
    found: list[Point] = []
    before: Point | None = None
    for hop in LADDER:
        point = find_point(points, hop, num_ranks)
        found.append(_hop_point(hop, point, before, find_point(points, "direct", num_ranks), ladder, num_ranks))
        branch, before = before, point or before
    copy = find_point(points, "staged", num_ranks)
    found.append(_hop_point("staged", copy, branch, copy, ladder, num_ranks))
    return found


def _hop_point(
    hop: Hop, point: Point | None, before: Point | None, last: Point | None, ladder: Ladder, num_ranks: int
) -> Point:
    params: dict[str, str | int | float | bool | None] = {"stage": "hop", "hop": hop, "num_ranks": num_ranks}
    if point is None:
        reason = ladder.missing.get(hop, "no block was run within the time allowed")
        units = {"step_time_s": "s", "hop_cost_s": "s", "hop_cost_fraction": "fraction"}
        return Point(params=params, metrics={name: not_measured(unit, reason) for name, unit in units.items()})
    cost, share = _cost(point, before, last)
    metrics = {name: point.metrics[name] for name in SHOWN}
    for name in ("accelerator", "emulated", "scaled", "batch_size"):
        params[name] = point.params[name]
    params["over"] = before.params["source"] if before is not None else None
    return Point(
        params=params,
        read_path=point.read_path,
        metrics={**metrics, "hop_cost_s": cost, "hop_cost_fraction": share},
        flags=point.flags,
    )


def _cost(point: Point, before: Point | None, last: Point | None) -> tuple[Metric, Metric]:
    """What a hop adds to a step, in seconds and as a share of the step at the branch's end."""
    if before is None:
        reason = "the first rung: there is nothing before it"
        return not_measured("s", reason), not_measured("fraction", reason)
    steps, earlier = (each.metrics["step_time_s"].samples for each in (point, before))
    ends = last.metrics["step_time_s"].samples if last is not None else ()
    if len(steps) != len(earlier):
        reason = f"{len(steps)} time blocks cannot be paired with {len(earlier)}; raise --seconds"
        return not_measured("s", reason), not_measured("fraction", reason)
    costs = np.subtract(steps, earlier)
    if len(ends) != len(costs):
        share = not_measured("fraction", "the branch's last rung has other time blocks; raise --seconds")
    else:
        share = summarise((costs / np.array(ends)).tolist(), unit="fraction")
    return summarise(costs.tolist(), unit="s"), share


def hop_lines(points: Sequence[Point]) -> str:
    """A line a hop: the step there, and what the hop added to it."""
    hops = [point for point in points if point.params.get("stage") == "hop"]
    return "\n".join(_hop_line(point) for point in hops if point.params["hop"] != "staged" or "over" in point.params)


def _hop_line(point: Point) -> str:
    step, cost, share = (point.metrics[name] for name in ("step_time_s", "hop_cost_s", "hop_cost_fraction"))
    name = f"{NAMES[str(point.params['hop'])]:<24}"
    if step.value is None:
        return f"{name}not measured: {step.reason}"
    text = f"{name}{step.value * 1e3:9.2f} ms a step"
    if cost.value is None:
        return text
    wide = "" if cost.ci95 is None else f" ({cost.ci95[0] * 1e3:+.2f} to {cost.ci95[1] * 1e3:+.2f})"
    part = "" if share.value is None else f", {share.value:+.1%} of the branch's step"
    return f"{text}, {cost.value * 1e3:+.2f} ms{wide} over {NAMES[str(point.params['over'])]}{part}"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How much of a rung's step is stall by substitution, and by the meter; `grew` is what else grew, per step.

    The meter's share is its wait for data and for ranks that waited for data, less what it sees on the synthetic rung.
    """

    hop: Hop
    by_substitution: float
    by_meter: float
    grew: str
    grew_s: float
    shares_cores: bool = False  # with the reader threads: the network computes on the CPU
    interval: tuple[float, float] | None = None  # of substitution less meter, over time blocks

    @property
    def agrees(self) -> bool:
        """Whether the two are within 2 points of each other."""
        return abs(self.by_substitution - self.by_meter) <= DISAGREEMENT

    @property
    def is_chance(self) -> bool:
        """Whether the blocks differ so much that the two may be within 2 points of each other after all."""
        return self.interval is not None and self.interval[0] <= DISAGREEMENT and self.interval[1] >= -DISAGREEMENT

    @property
    def text(self) -> str:
        """What it says, for people."""
        shares = f"{self.by_substitution:.1%} of a step is stall by substitution, {self.by_meter:.1%} by the meter"
        seen = f"{self.hop}: {shares}"
        if self.agrees:
            return seen
        if self.is_chance and self.interval is not None:
            low, high = (f"{each * 100:+.0f}" for each in self.interval)
            return (
                f"{seen}: more than {DISAGREEMENT * 100:.0f} points apart, which may be chance ({low} to {high} points "
                f"over the blocks); take more --steps or rounds"
            )
        return (
            f"{seen}: they disagree by more than {DISAGREEMENT * 100:.0f} points; {self.grew} "
            f"{'grew' if self.grew_s > 0 else 'shrank'} by {abs(self.grew_s) * 1e3:.1f} ms a step, which is no wait "
            f"for data{self._cause}"
        )

    @property
    def _cause(self) -> str:
        """Why computing takes longer with a storage than without one, where that is known."""
        if not self.shares_cores or self.grew != "compute" or self.grew_s <= 0:
            return ""
        return ": the network computes on the cores that the reader threads take their time from"


@dataclass(frozen=True, slots=True)
class HopsFound:
    """A point a hop, where the meter disagrees, and what both say, in lines."""

    points: list[Point]
    warnings: tuple[str, ...]
    lines: str


def check(points: Sequence[Point], *, num_ranks: int) -> list[Agreement]:
    """Hold the stall by substitution of the storage, and of the copy where there is one, against the meter's."""
    synthetic = find_point(points, "synthetic", num_ranks)
    found: list[Agreement] = []
    for hop in ("direct", "staged"):
        point = find_point(points, hop, num_ranks)
        if point is None or synthetic is None or _value(point, "step_time_s") == 0:
            continue
        found.append(_agreement(hop, point, synthetic))
    return found


def _agreement(hop: Literal["direct", "staged"], point: Point, synthetic: Point) -> Agreement:
    def grew(name: str) -> float:
        return _value(point, name) - _value(synthetic, name)

    step = _value(point, "step_time_s")
    others = {name: grew(name) for name in WORK if name in point.metrics}
    most = max(others, key=lambda name: abs(others[name]))
    return Agreement(
        hop=hop,
        by_substitution=grew("step_time_s") / step,
        by_meter=sum(grew(name) for name in METERED) / step,
        grew=most.removesuffix("_s"),
        grew_s=others[most],
        shares_cores=not point.params.get("emulated", True) and point.params.get("accelerator") == "cpu",
        interval=_difference(point, synthetic),
    )


def _difference(point: Point, synthetic: Point) -> tuple[float, float] | None:
    """The interval of what the step grew by beyond what the meter saw, as a share of the step, block by block."""
    names = ("step_time_s", *METERED)
    columns = [each.metrics[name].samples for each in (point, synthetic) for name in names]
    if len({len(samples) for samples in columns}) != 1:
        return None
    (step, *seen), (before, *seen_before) = np.split(np.array(columns), 2)
    beyond = (step - before) - (np.sum(seen, axis=0) - np.sum(seen_before, axis=0))
    return summarise((beyond / step).tolist(), unit="fraction").ci95


def tell_hops(points: Sequence[Point], ladder: Ladder, *, num_ranks: int) -> HopsFound:
    """The hops of a launch's points, held against the meter."""
    found = hop_points(points, ladder, num_ranks=num_ranks)
    agreements = check(points, num_ranks=num_ranks)
    return HopsFound(
        points=found,
        warnings=tuple(f"hops: {each.text}" for each in agreements if not each.agrees),
        lines="\n".join([hop_lines(found), *(each.text for each in agreements if each.agrees)]),
    )


def _value(point: Point, name: str) -> float:
    return point.metrics[name].value or 0.0
