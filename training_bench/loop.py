"""The rank's side: one process per accelerator, which runs the blocks it is told to, step by step.

    [search: short blocks of 4, 6, 5 ... ranks, until the largest number that is fed is known]
    for each round: for each block, in an order all ranks know:
        [evict, counters] -> barrier -> ranks 0..n-1: the measured loop -> readers closed -> barrier -> [counters]

    the measured loop   asked |--data wait--| got |--compute--| computed |--sync wait--| met |--overhead--| asked ...

Every meeting carries one flag, so that a block out of time ends on all its ranks after the same step.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter, perf_counter_ns
from typing import Any, Generic, Protocol

import numpy as np

from ..loaders.evidence import moved, process_read_bytes
from ..loaders.traced import Recorder
from ..storage_bench.accelerators import Accelerator, Images
from ..storage_bench.launching.launch import rank_main
from ..storage_bench.launching.ranks import Ranks, machine_id
from ..storage_bench.placement import ReadersSeen
from .energy import EnergyMeter, energy_counters
from .images import as_json
from .plan import Block, RankPlan, Rung, Source
from .search import Search, bisect, next_window, window
from .sources import Batch, BatchSource, Shards, Synthetic, copied, open_sources
from .timeline import StepClock, Times
from .tracing import recorded

MAX_PASSES = 3


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Run all rounds that fit into the budget; returns this rank's log of every block, as plain JSON."""
    plan = RankPlan.model_validate(config)
    accelerator = Accelerator(plan.accelerator, plan.step_time_s, plan.batch_size, False, "as planned")
    sources = open_sources(
        plan,
        rank=ranks.rank,
        synthetic=Synthetic(plan),
        open_shards=lambda folder, engine, page_cache: Shards(plan, folder, engine, page_cache=page_cache),
        copy=copied,
    )

    recorder = Recorder(plan.trace_spans) if plan.trace_spans else None
    if recorder is not None:
        for source in sources.values():
            source.trace(recorder)

    def measure(batches: Iterator[Images], block: Block) -> Times:
        return measured_steps(batches, block, _of_block(accelerator, block), ranks)

    launch = Launch(plan, sources, measure, ranks)
    if plan.search is None:
        launch.run_rounds(range(len(plan.blocks)))
    else:
        launch.find_max(plan.search)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {"blocks": launch.logs, "trials": launch.trials, "peak_rss_bytes": peak, "wall_s": launch.elapsed_s}
    images = as_json(source.decoded() for source in sources.values())
    return {**told, "readers": launch.readers.told(), "images": images, **recorded(recorder)}


class Computes(Protocol):
    """What takes batches: an emulated accelerator, or a network."""

    def step(self, images: Images, received_ns: int) -> None:
        """Compute on one batch, received at this time of perf_counter_ns."""


class Launch(Generic[Batch]):
    """This rank's part of one launch: what it has logged, and the time it has left.

    `measure` is the measured loop: it takes a block's batches and returns the marks of its steps.
    """

    def __init__(
        self,
        plan: RankPlan,
        sources: Mapping[Source | Rung, BatchSource[Batch]],
        measure: Callable[[Iterator[Batch], Block], Times],
        ranks: Ranks,
        *,
        energy: EnergyMeter | None = None,
    ) -> None:
        self.logs: list[dict[str, Any]] = []
        self.trials: list[dict[str, Any]] = []
        self.readers = ReadersSeen()
        self._plan, self._sources, self._measure, self._ranks = plan, sources, measure, ranks
        self._energy = energy or EnergyMeter(energy_counters() if ranks.local_rank == 0 else None)
        self._begin = perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Time since the ranks met for the first time."""
        return perf_counter() - self._begin

    def run_rounds(self, blocks: Sequence[int], *, again: int = 0) -> None:
        """Rounds of these blocks; one that would not end within the budget is not begun, on any rank."""
        plan, ranks = self._plan, self._ranks
        longest = 0.0
        for number in range(plan.rounds):
            if (number or again) and ranks.any_true(self.elapsed_s + longest > plan.budget_s, plan.num_ranks):
                break
            started = perf_counter()
            for which in np.random.default_rng([plan.seed, number, again]).permutation(len(blocks)).tolist():
                log = self._run_block(plan.blocks[blocks[which]], number + plan.rounds * again)
                if log is not None:
                    self.logs.append({"block": blocks[which], "round": number, **log})
            longest = max(longest, perf_counter() - started)
            ranks.report({"round": number + 1, "rounds": plan.rounds})

    def find_max(self, search: Search) -> None:
        """Bisect with short blocks, then rounds around what was found, and again where they do not confirm it."""
        fixed = [which for which, block in enumerate(self._plan.blocks) if block.fixed]
        wanted = window(self._bisect(search), low=search.low, high=search.high)
        reached: dict[int, bool] = {}
        for again in range(MAX_PASSES):
            blocks = [which for which, block in enumerate(self._plan.blocks) if block.num_ranks in wanted]
            self.run_rounds(sorted({*blocks, *fixed}) if again == 0 else blocks, again=again)
            reached |= {count: self._is_fed(count, search.threshold) for count in wanted}
            wanted = next_window(reached, low=search.low, high=search.high)
            if not wanted:
                break

    def _bisect(self, search: Search) -> int:
        trials = bisect(search.low, search.high, hint=search.hint)
        count = next(trials)
        while True:
            block = Block(
                source="direct",
                num_ranks=count,
                drop_steps=search.drop_steps,
                count_steps=search.count_steps,
                limit_s=search.trial_s(self._plan.step_time_s),
            )
            self._ranks.report({"round": 0, "rounds": self._plan.rounds, "trying": count})
            log = self._run_block(block, self._plan.rounds * MAX_PASSES + len(self.trials))
            reached = None if log is None else _utilisation([log], block.drop_steps, self._plan.step_time_s)
            delivered = 0 if log is None else log["delivered_bytes"]
            self.trials.append({"num_ranks": count, "au_mlperf": reached, "delivered_bytes": delivered})
            try:
                count = trials.send(self._all_know(reached is not None and reached >= search.threshold))
            except StopIteration as found:
                return int(found.value)

    def _is_fed(self, count: int, threshold: float) -> bool:
        """Whether the rounds so far had `count` ranks fed, as rank 0 saw it."""
        blocks = self._plan.blocks
        mine = [
            log
            for log in self.logs
            if (blocks[log["block"]].source, blocks[log["block"]].num_ranks) == ("direct", count)
        ]
        reached = _utilisation(mine, blocks[mine[0]["block"]].drop_steps, self._plan.step_time_s) if mine else None
        return self._all_know(reached is not None and reached >= threshold)

    def _all_know(self, flag: bool) -> bool:
        """Rank 0's answer, on every rank: it takes part in every block."""
        return self._ranks.any_true(flag and self._ranks.rank == 0, self._plan.num_ranks)

    def _run_block(self, block: Block, number: int) -> dict[str, Any] | None:
        ranks = self._ranks
        source = self._sources[block.source]
        mine = ranks.rank < block.num_ranks
        leads = ranks.local_rank == 0  # the counters are of its host
        resident, before = source.prepare() if leads else (None, {})
        own = process_read_bytes()
        ranks.barrier()
        self._energy.start()
        begun = perf_counter()
        if mine:
            seed = self._plan.seed + 7919 * number
            with source.batches(rank=ranks.rank, num_ranks=block.num_ranks, seed=seed) as batches:
                steps = self._measure(batches, block)
                self.readers.look()
        read_s = perf_counter() - begun
        energy = self._energy.stop()
        ranks.barrier()
        if not mine:
            return None
        went = moved(before, source.counters()) if leads else {}
        own_after = process_read_bytes()
        delivered, payload = source.take_bytes()
        return {
            "steps_ns": steps.tolist(),
            "read_s": read_s,
            "delivered_bytes": delivered,
            "payload_bytes": payload,
            "hop_s": source.take_hops(),
            "device_bytes": went.pop(source.counter_name, None),
            "beside": went,
            "process_bytes": None if own is None or own_after is None else own_after - own,
            "energy": energy,
            "cache_fraction": resident,
            "cache_fraction_after": source.resident() if leads else None,
            "machine": machine_id() if leads else None,
        }


def _utilisation(logs: Sequence[Mapping[str, Any]], drop_steps: int, step_time_s: float) -> float | None:
    """The AU over the counted steps of these logs; None where there is none."""
    num_steps, wall_ns = 0, 0
    for log in logs:
        counted = log["steps_ns"][drop_steps:]
        if counted:
            num_steps += len(counted)
            wall_ns += counted[-1][3] - counted[0][0]
    return num_steps * step_time_s * 1e9 / wall_ns if wall_ns else None


def _of_block(accelerator: Accelerator, block: Block) -> Accelerator:
    """The accelerator with the block's own step time, if it has one."""
    return accelerator if block.step_time_s is None else replace(accelerator, step_time_s=block.step_time_s)


def _alone(flag: bool, _num_ranks: int) -> bool:
    """The end of a step that no other rank is waited for at."""
    return flag


def measured_steps(batches: Iterator[Images], block: Block, accelerator: Computes, ranks: Ranks) -> Times:
    """The measured loop: (steps, 4) times in ns: asked, got, computed, met."""
    num_steps = block.drop_steps + block.count_steps
    deadline = perf_counter_ns() + round(block.limit_s * 1e9)
    clock = StepClock(num_steps)
    mark = clock.mark
    step = accelerator.step
    meet = ranks.any_true if block.meets else _alone
    for _ in range(num_steps):
        mark()
        images = next(batches)
        step(images, mark())
        over = meet(mark() > deadline, block.num_ranks)
        mark()
        if over:
            break
    return clock.times


if __name__ == "__main__":
    rank_main(main)
