"""Validation inference, the rank's side: blocks of all sources and batch sizes, and arrivals at a rate.

for each round: for each (batch size, source), in an order all ranks know:
    [evict, counters] -> barrier -> the measured loop, no rank waits for another -> barrier -> [counters]
then, where a bound is given: arrivals at a rate, bisected to the highest whose 99th percentile is within it

closed loop   asked |--data wait--| got |--compute--| answered              the next batch is asked for at once
open loop     due |--queued--| asked |--data wait--| got |--compute--| answered      whether or not it is answered
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, perf_counter_ns, sleep
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from ...loaders.evidence import moved, process_read_bytes
from ...loaders.nearness import Near, near_device, standing_on
from ...loaders.prefetch import RawBatch
from ...storage_bench.accelerators import Accelerator, Images
from ...storage_bench.decoded import Decoded
from ...storage_bench.launching.launch import rank_main
from ...storage_bench.launching.ranks import Ranks, machine_id
from ...storage_bench.placement import ReadersSeen
from ..images import as_json
from ..loop import Computes, measured_steps
from ..peers import all_told
from ..plan import Block, RankPlan
from ..sources import BatchSource, Shards, Synthetic
from .plan import Bound, InferPlan
from .rate import Arrived, OutOfTimeError, allowed_misses, arrival_times, highest_rate

MAX_PROOFS = 4


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Run the rounds and the search; returns this rank's log of every block and rate, as plain JSON."""
    plan = InferPlan.model_validate(config)
    run = _Run(plan, ranks)
    run.rounds()
    rates = [run.search(size, bound) for bound in plan.bounds for size in range(len(plan.sizes))]
    agreement = run.agreement()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "logs": run.logs,
        "rates": rates,
        "agreement": agreement,
        "peak_rss_bytes": peak,
        "wall_s": run.elapsed_s,
        "placement": run.placement,
        "readers": run.readers.told(),
        "images": as_json(run.decoded),
    }


class Keeps(Protocol):
    """A trial: whether arrivals at this rate keep the bound."""

    def __call__(self, rate: float, *, proof: bool = False) -> bool:
        """Run it; a proof has arrivals of its own, after the search."""


class _Run:
    """This rank's part of one launch."""

    def __init__(self, plan: InferPlan, ranks: Ranks) -> None:
        self.logs: list[dict[str, Any]] = []
        self.readers = ReadersSeen()
        self.decoded: list[Decoded | None] = []
        self._plan, self._ranks = plan, ranks
        self._network: Any = None
        self._device = "cpu"  # where batches are brought
        if plan.network is not None:
            from .network import NetworkStep

            self._network = NetworkStep(plan.network, ranks.local_rank)
            self._device = str(self._network.device)
        self._near = near_device(self._device, wanted=plan.network is None or plan.network.near_gpu)
        self._begin = perf_counter()

    @property
    def placement(self) -> str:
        """Where this rank's reader threads stand."""
        return self._near.reason

    @property
    def elapsed_s(self) -> float:
        """Time since this rank was ready to begin."""
        return perf_counter() - self._begin

    def rounds(self) -> None:
        """Every block of every batch size in each round; a round that would not end in time is not begun."""
        cells = [(size, which) for size, plan in enumerate(self._plan.sizes) for which in range(len(plan.blocks))]
        first, longest = self._plan.sizes[0], 0.0
        for number in range(first.rounds):
            if number and self._ranks.any_true(self.elapsed_s + longest > first.budget_s, self._ranks.size):
                break
            started = perf_counter()
            for place in np.random.default_rng([first.seed, number]).permutation(len(cells)).tolist():
                size, which = cells[place]
                self.logs.append({"size": size, "block": which, "round": number, **self._block(size, which, number)})
            longest = max(longest, perf_counter() - started)
            self._ranks.report({"round": number + 1, "rounds": first.rounds})

    def search(self, size: int, bound: Bound) -> dict[str, Any]:
        """The highest rate of arrivals of this batch size that keeps the bound, and the blocks that prove it."""
        capacity = self._capacity(size, bound)
        tried: list[Arrived] = []
        end_s = self.elapsed_s + bound.budget_s

        def keeps(rate: float, *, proof: bool = False) -> bool:
            late = self.elapsed_s + bound.trial_batches / rate > end_s
            if self._ranks.any_true(late, self._ranks.size):
                raise OutOfTimeError
            self._ranks.report({"round": 0, "rounds": 1, "rate": rate})
            tried.append(self._arrive(size, bound, rate, seed=len(tried), proof=proof))
            return tried[-1].kept

        rate, in_time = None, True
        try:
            rate = self._proven(keeps, highest_rate(keeps, capacity=capacity, resolution=bound.resolution), bound)
        except OutOfTimeError:
            in_time = False
        return {
            "size": size,
            "source": bound.source,
            "batches_per_s": rate,
            "in_time": in_time,
            "capacity_batches_per_s": capacity,
            "trials": [each.as_json() for each in tried],
        }

    @staticmethod
    def _proven(keeps: Keeps, rate: float | None, bound: Bound) -> float | None:
        """The rate where it keeps the bound in a trial of its own, or one a little lower that does; else None."""
        for _ in range(MAX_PROOFS):
            if rate is None or keeps(rate, proof=True):
                return rate
            rate = rate * (1 - bound.resolution)
        return None

    def agreement(self) -> list[tuple[int, int]]:
        """Of some batches, how many images have the same best class in fp32, and how many there are."""
        network = self._plan.network
        if network is None or not network.agreement_batches:
            return []
        plan = self._plan.sizes[0]
        read = [block for block in plan.blocks if block.source != "synthetic"]
        opened = _open(plan, (read or plan.blocks)[0], device=self._device, near=self._near)
        with opened.batches(rank=self._ranks.rank, num_ranks=self._ranks.size, seed=plan.seed) as batches:
            found = [self._network.agreeing(next(batches)) for _ in range(network.agreement_batches)]
        self.decoded.append(opened.decoded())
        return found

    def _computes(self, plan: RankPlan) -> Computes:
        if self._network is not None:
            found: Computes = self._network
            return found
        return Accelerator(plan.accelerator, plan.step_time_s, plan.batch_size, False, "as planned")

    def _block(self, size: int, which: int, number: int) -> dict[str, Any]:
        plan, ranks = self._plan.sizes[size], self._ranks
        block = plan.blocks[which]
        source = _open(plan, block, device=self._device, near=self._near)
        leads = ranks.local_rank == 0  # the counters are of its host
        resident, before = source.prepare() if leads else (None, {})
        own = process_read_bytes()
        ready: list[int] = []
        ranks.barrier()
        begun = perf_counter()
        with _noted(source, ready, rank=ranks.rank, num_ranks=ranks.size, seed=plan.seed + 7919 * number) as batches:
            steps = measured_steps(batches, block, self._computes(plan), ranks)
            self.readers.look()
        read_s = perf_counter() - begun
        ranks.barrier()
        went = moved(before, source.counters()) if leads else {}
        own_after = process_read_bytes()
        delivered, payload = source.take_bytes()
        self.decoded.append(source.decoded())
        return {
            "steps_ns": steps.tolist(),
            "ready_ns": ready[: len(steps)],
            "read_s": read_s,
            "delivered_bytes": delivered,
            "payload_bytes": payload,
            "hop_s": source.take_hops(),
            "device_bytes": went.pop(source.counter_name, None),
            "beside": went,
            "process_bytes": None if own is None or own_after is None else own_after - own,
            "cache_fraction": resident,
            "cache_fraction_after": source.resident() if leads else None,
            "machine": machine_id() if leads else None,
        }

    def _capacity(self, size: int, bound: Bound) -> float:
        """Batches per second of this rank in the closed loop, the slowest rank's on all: rank 0 hands it out."""
        plan = self._plan.sizes[size]
        times = [
            np.array(log["steps_ns"])[plan.blocks[log["block"]].drop_steps :]
            for log in self.logs
            if log["size"] == size and plan.blocks[log["block"]].source == bound.source
        ]
        counted = [each for each in times if len(each)]
        wall_s = sum(float(each[-1, 3] - each[0, 0]) for each in counted) / 1e9
        mine = sum(map(len, counted)) / wall_s if wall_s else 0.0
        return float(min(all_told(self._ranks, mine)))

    def _arrive(self, size: int, bound: Bound, rate: float, *, seed: int, proof: bool) -> Arrived:
        """Arrivals at `rate` on every rank; what all ranks' latencies together say."""
        plan, ranks = self._plan.sizes[size], self._ranks
        block = next(block for block in plan.blocks if block.source == bound.source)
        source = _open(plan, block, device=self._device, near=self._near)
        due = arrival_times(bound, rate, seed=(plan.seed, ranks.rank, seed, int(proof)))
        misses = allowed_misses(len(due) * ranks.size)
        if ranks.local_rank == 0:
            source.prepare()
        ranks.barrier()
        with source.batches(rank=ranks.rank, num_ranks=ranks.size, seed=plan.seed + 104_729 * (seed + 1)) as batches:
            computes = self._computes(plan)
            for _ in range(plan.prefetch_depth + 1):
                computes.step(next(batches), perf_counter_ns())
            latencies = open_loop(batches, due, computes, bound_s=bound.bound_s, misses=misses)
        self.decoded.append(source.decoded())
        ranks.barrier()
        together = np.concatenate([np.array(each) for each in all_told(ranks, latencies.tolist())])
        return Arrived.of(rate, together, asked=len(due) * ranks.size, bound_s=bound.bound_s, proof=proof)


def open_loop(
    batches: Iterator[Images], due_s: npt.NDArray[np.float64], computes: Computes, *, bound_s: float, misses: int
) -> npt.NDArray[np.float64]:
    """Answer a batch for each arrival, in order; seconds from when each was due to its answer.

    Ends early once more than `misses` of them took longer than the bound: the rate is then known to be too high.
    """
    found: list[float] = []
    late = 0
    begin = perf_counter()
    for due in (due_s + begin).tolist():
        while (left := due - perf_counter()) > 0:
            sleep(left)
        images = next(batches)
        computes.step(images, perf_counter_ns())
        found.append(perf_counter() - due)
        late += found[-1] > bound_s
        if late > misses:
            break
    return np.array(found)


def _open(plan: RankPlan, block: Block, *, device: str, near: Near) -> BatchSource[Images]:
    if block.source == "synthetic":
        return Synthetic(plan)
    assert block.source in ("staged", "direct")  # the only ones that inference plans
    folder, engine = Path(plan.folders[block.source]), plan.engines[block.source]
    return Shards(plan, folder, engine, device=device, on_thread_start=standing_on(near))


@contextmanager
def _noted(
    source: BatchSource[Images], ready: list[int], *, rank: int, num_ranks: int, seed: int
) -> Iterator[Iterator[Images]]:
    """The source's batches; since when each lay ready goes to `ready`, where there is a queue."""
    if not isinstance(source, Shards):
        with source.batches(rank=rank, num_ranks=num_ranks, seed=seed) as batches:
            yield batches
        return
    with source.raw_batches(rank=rank, num_ranks=num_ranks, seed=seed) as raw:
        yield _noting(raw, ready)


def _noting(raw: Iterator[RawBatch], ready: list[int]) -> Iterator[Images]:
    for batch in raw:
        ready.append(batch.ready_ns)
        yield cast("Images", batch.images)  # in host memory: none other was asked for


if __name__ == "__main__":
    rank_main(main)
