"""One trial of a grid: a launch of one layout's ranks, whose blocks are all sources, interleaved.

for each round, in an order all ranks know:
    [direct] [direct, nothing computed] [synthetic] ...           train: ranks meet after each step, infer: they do not
    train+validate has both for each source, and one rate for an epoch of training and its validation
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...loaders.evidence import Counter, background_rate
from ...loaders.index import RecordLayout
from ...results.record import Point
from ...results.scaling import Layout, cycle_rate
from ...storage_bench.accelerators import Accelerator
from ...storage_bench.image_hops import values_in
from ...storage_bench.launching.hosts import HostSlots
from ...storage_bench.launching.launch import launch_ranks
from ...storage_bench.launching.placing import Placing
from ..budget import check_memory, make_plan
from ..images import told_of_images
from ..places import Places
from ..plan import Block, RankPlan, Source
from ..summary import find_point, summarise_ranks
from ..train import RANK_MODULE, START_S
from ..train_run import TrainConfig, TrainError, TrainRun
from .journal import SourceTrial, Trial

Workload = Literal["train", "infer", "train+validate"]
Phase = Literal["train", "validate", "infer", "given"]

PHASES: dict[Workload, tuple[Phase, ...]] = {
    "train": ("train",),
    "infer": ("infer",),
    "train+validate": ("train", "validate"),
}


@dataclass(frozen=True, slots=True)
class GridRun:
    """What all trials of a grid have in common; `stored_bytes` are those of one image in its shard.

    `copies` tells of each folder what it was copied from.
    """

    workload: Workload
    sources: tuple[Source, ...]
    folders: dict[Source, Path]
    engines: dict[Source, str]
    accelerator: Accelerator
    train: TrainConfig
    steps: int
    budget_s: float
    layout: RecordLayout
    stored_bytes: float
    validate_share: float
    seed: int
    places: Places = field(default_factory=Places)
    copies: Mapping[Path, Path] = field(default_factory=dict)

    def hosts_of(self, layout: Layout) -> tuple[HostSlots, ...]:
        """The hosts of one layout, as many ranks on each; none where all ranks are on this host."""
        return tuple(HostSlots(host.name, layout.gpus_per_node) for host in self.places.hosts[: layout.nodes])


def run_trial(run: GridRun, layout: Layout, repetition: int) -> Trial:
    """Launch the layout's ranks and run every source; raises what `launch_ranks` and `check_memory` raise."""
    plan, phases = make_trial_plan(run, layout, repetition)
    here = layout.gpus_per_node if run.places.hosts else layout.num_ranks
    check_memory(plan.model_copy(update={"num_ranks": here}))
    counters = run.places.counters(run.folders)
    rates = {counter: background_rate(counter) or 0.0 for counter in set(counters.values())}
    with tempfile.TemporaryDirectory(prefix="iobench-ranks-") as folder:
        results = launch_ranks(
            RANK_MODULE,
            plan.model_dump(mode="json"),
            num_ranks=plan.num_ranks,
            folder=Path(folder),
            timeout_s=START_S + run.budget_s + sum(block.limit_s for block in plan.blocks),
            placing=Placing(run.train.placement),
            hosts=run.hosts_of(layout),
            ssh=run.places.ssh,
        )
    background = {source: rates[counter] for source, counter in counters.items()}
    found = _Phases(plan, phases, run, results, counters, background)
    return Trial(
        repetition=repetition,
        layout=layout,
        sources={source: found.source_trial(source) for source in run.sources},
        images=told_of_images(results, num_threads=plan.reader_threads).named(run.copies).decoded,
    )


def make_trial_plan(run: GridRun, layout: Layout, repetition: int) -> tuple[RankPlan, tuple[Phase, ...]]:
    """What the ranks are told, and which phase each block is of."""
    count = layout.num_ranks
    plan = make_plan(
        TrainRun(
            folders=run.folders,
            engines=run.engines,
            cells=tuple((source, count) for source in run.sources),
            accelerator=run.accelerator,
            config=run.train,
            budget_s=run.budget_s,
            layout=run.layout,
            steps=run.steps,
        )
    )
    blocks: list[Block] = []
    phases: list[Phase] = []
    for block in plan.blocks:
        wanted = PHASES[run.workload] if block.source == "synthetic" else (*PHASES[run.workload], "given")
        for phase in wanted:
            blocks.append(_as_phase(block, phase))
            phases.append(phase)
    seed = (run.seed * 7919 + repetition) * 104_729 + layout.nodes * 1009 + layout.gpus_per_node
    return plan.model_copy(update={"blocks": tuple(blocks), "seed": seed % 2**31}), tuple(phases)


def _as_phase(block: Block, phase: Phase) -> Block:
    step_time_s = 0.0 if phase == "given" else block.step_time_s
    return block.model_copy(update={"meets": phase in {"train", "given"}, "step_time_s": step_time_s})


class _Phases:
    """The points of each phase of one launch."""

    def __init__(
        self,
        plan: RankPlan,
        phases: Sequence[Phase],
        run: GridRun,
        results: Sequence[dict[str, Any]],
        counters: Mapping[str, Counter],
        background: Mapping[str, float],
    ) -> None:
        self._run, self._plan = run, plan
        self._points: dict[Phase, list[Point]] = {}
        self._invalid: dict[str, str] = {}
        for phase in dict.fromkeys(phases):
            logs = [_only(result, {n for n, each in enumerate(phases) if each == phase}) for result in results]
            points, invalid = summarise_ranks(plan, run.accelerator, logs, counters=counters, background_bps=background)
            self._points[phase] = points
            self._invalid |= dict(invalid)

    def source_trial(self, source: Source) -> SourceTrial:
        """All phases of one source as one figure."""
        points = {phase: self._point(phase, source) for phase in PHASES[self._run.workload]}
        rates = {phase: _value(point, "images_per_s") for phase, point in points.items()}
        stalls = {phase: _value(point, "data_stall_fraction") for phase, point in points.items()}
        first = next(iter(points.values()))
        given = None if source == "synthetic" else _value(self._point("given", source), "images_per_s")
        return SourceTrial(
            images_per_s=self._together(rates),
            data_stall_fraction=self._share(rates, stalls),
            given_images_per_s=given,
            phases={str(phase): rate for phase, rate in rates.items()},
            counted_steps=sum(int(point.params["counted_steps"] or 0) for point in points.values()),
            read_path=first.read_path,
            ranks=first.ranks,
            flags=tuple(dict.fromkeys(flag for point in points.values() for flag in point.flags)),
            invalid=self._invalid.get(source),
            hops=values_in(first.metrics),
        )

    def _point(self, phase: Phase, source: Source) -> Point:
        point = find_point(self._points[phase], source, self._plan.num_ranks)
        if point is None or point.metrics["images_per_s"].value is None:
            raise TrainError(
                f"{source}, {self._plan.num_ranks} ranks: no step was counted within {self._plan.budget_s:g} s; "
                f"raise --seconds"
            )
        return point

    def _together(self, rates: Mapping[Phase, float]) -> float:
        if "validate" not in rates:
            return next(iter(rates.values()))
        return cycle_rate(rates["train"], rates["validate"], self._run.validate_share)

    def _share(self, rates: Mapping[Phase, float], stalls: Mapping[Phase, float]) -> float:
        """The stall of each phase, weighted by the time that the phase takes."""
        images = {"validate": self._run.validate_share}
        times = {phase: images.get(phase, 1.0) / rate for phase, rate in rates.items()}
        return sum(stalls[phase] * time for phase, time in times.items()) / sum(times.values())


def _value(point: Point, name: str) -> float:
    value = point.metrics[name].value
    if value is None:
        raise TrainError(f"{point.params['source']}: {name} was not measured; raise --seconds")
    return value


def _only(result: dict[str, Any], blocks: set[int]) -> dict[str, Any]:
    """A rank's result with the logs of some blocks."""
    return {**result, "blocks": [log for log in result["blocks"] if log["block"] in blocks]}
