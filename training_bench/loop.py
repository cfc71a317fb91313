"""The rank's side: one process per accelerator, which runs the blocks it is told to, step by step.

    for each round: for each block, in an order all ranks know:
        [evict, counters] -> barrier -> ranks 0..n-1: the measured loop -> readers closed -> barrier -> [counters]

    the measured loop   asked |--data wait--| got |--compute--| computed |--sync wait--| met |--overhead--| asked ...

Every meeting carries one flag, so that a block out of time ends on all its ranks after the same step.
"""

from __future__ import annotations

import itertools
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from ..loaders.buffers import Buffer, BufferPool
from ..loaders.engines import open_reader
from ..loaders.evidence import counter_for, process_read_bytes
from ..loaders.page_cache import cache_fraction, evict
from ..loaders.plan import ShuffleMode, endless_batches
from ..loaders.prefetch import Tally
from ..loaders.shards import ShardSet
from ..storage_bench.accelerators import Accelerator
from ..storage_bench.launch import rank_main
from ..storage_bench.ranks import Ranks

Source = Literal["synthetic", "staged", "direct"]


class Block(BaseModel):
    """One stretch of steps: `source` read by ranks 0..num_ranks-1, the first `drop_steps` not counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Source
    num_ranks: int
    drop_steps: int
    count_steps: int
    limit_s: float


class RankPlan(BaseModel):
    """What every rank of one launch is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_ranks: int
    blocks: tuple[Block, ...]
    rounds: int
    budget_s: float
    folders: dict[Source, str]
    engines: dict[Source, str]
    record_bytes: int
    image_shape: tuple[int, int, int]
    accelerator: str
    step_time_s: float
    batch_size: int
    reader_threads: int
    prefetch_depth: int
    shuffle: ShuffleMode = "blocks"
    seed: int = 0


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Run all rounds that fit into the budget; returns this rank's log of every block, as plain JSON."""
    plan = RankPlan.model_validate(config)
    accelerator = Accelerator(plan.accelerator, plan.step_time_s, plan.batch_size, False, "as planned")
    sources: dict[Source, _Source] = {"synthetic": _Synthetic(plan)}
    for name, folder in plan.folders.items():
        sources[name] = _Shards(plan, Path(folder), plan.engines[name])
    logs: list[dict[str, Any]] = []
    begin = perf_counter()
    longest = 0.0
    for number in range(plan.rounds):
        # a round that would not end within the budget is not begun, on any rank
        if number and ranks.any_true(perf_counter() - begin + longest > plan.budget_s, plan.num_ranks):
            break
        started = perf_counter()
        for which in np.random.default_rng([plan.seed, number]).permutation(len(plan.blocks)).tolist():
            log = _run_block(plan, which, number, sources, accelerator, ranks)
            if log is not None:
                logs.append(log)
        longest = max(longest, perf_counter() - started)
        ranks.report({"round": number + 1, "rounds": plan.rounds})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"blocks": logs, "peak_rss_bytes": peak, "wall_s": perf_counter() - begin}


def _run_block(
    plan: RankPlan,
    which: int,
    number: int,
    sources: dict[Source, _Source],
    accelerator: Accelerator,
    ranks: Ranks,
) -> dict[str, Any] | None:
    block = plan.blocks[which]
    source = sources[block.source]
    mine = ranks.rank < block.num_ranks
    resident, before = source.prepare() if ranks.rank == 0 else (None, None)
    own = process_read_bytes()
    ranks.barrier()
    if mine:
        with source.batches(rank=ranks.rank, num_ranks=block.num_ranks, seed=plan.seed + 7919 * number) as batches:
            steps = measured_steps(batches, block, accelerator, ranks)
    ranks.barrier()
    if not mine:
        return None
    after = source.counters() if ranks.rank == 0 else None
    own_after = process_read_bytes()
    delivered, payload = source.take_bytes()
    return {
        "block": which,
        "round": number,
        "steps_ns": steps.tolist(),
        "delivered_bytes": delivered,
        "payload_bytes": payload,
        "device_bytes": None if before is None or after is None else after - before,
        "process_bytes": None if own is None or own_after is None else own_after - own,
        "cache_fraction": resident,
    }


def measured_steps(
    batches: Iterator[npt.NDArray[Any]], block: Block, accelerator: Accelerator, ranks: Ranks
) -> npt.NDArray[np.int64]:
    """The measured loop: (steps, 4) times in ns: asked, got, computed, met."""
    num_steps = block.drop_steps + block.count_steps
    times = np.zeros((num_steps, 4), dtype=np.int64)
    deadline = perf_counter_ns() + round(block.limit_s * 1e9)
    step = accelerator.step
    meet = ranks.any_true
    for i in range(num_steps):
        asked = perf_counter_ns()
        images = next(batches)
        got = perf_counter_ns()
        step(images, got)
        computed = perf_counter_ns()
        over = meet(computed > deadline, block.num_ranks)
        times[i] = (asked, got, computed, perf_counter_ns())
        if over:
            return times[: i + 1]
    return times


class _Source:
    """Where a block's batches come from."""

    def prepare(self) -> tuple[float | None, int | None]:
        """Make the start clean (rank 0, while nobody reads); the resident share, and the counters before."""
        return None, None

    def counters(self) -> int | None:
        """Bytes the devices under this source have read, None where nothing counts them."""
        return None

    @contextmanager
    def batches(self, *, rank: int, num_ranks: int, seed: int) -> Iterator[Iterator[npt.NDArray[Any]]]:
        """Endless batches (B, H, W, C) for this rank."""
        raise NotImplementedError

    def take_bytes(self) -> tuple[int, int]:
        """Bytes delivered, and bytes of pixels handed out, since the last call."""
        return 0, 0


class _Synthetic(_Source):
    """One batch in host memory, handed out again and again: a loader that never waits."""

    def __init__(self, plan: RankPlan) -> None:
        memory = Buffer(plan.batch_size * plan.record_bytes).memory
        flat = np.frombuffer(memory, dtype=np.uint8)
        flat[:] = 1  # pages must be there before the clock runs
        height, width, channels = plan.image_shape
        strides = (plan.record_bytes, width * channels, channels, 1)
        self._images: npt.NDArray[Any] = np.ndarray(
            (plan.batch_size, height, width, channels), np.uint8, buffer=memory, strides=strides
        )

    @contextmanager
    def batches(self, *, rank: int, num_ranks: int, seed: int) -> Iterator[Iterator[npt.NDArray[Any]]]:
        del rank, num_ranks, seed  # every rank gets the same batch
        yield itertools.repeat(self._images)


class _Shards(_Source):
    """Shards in a folder, read as one endless epoch: a small sample stands for a long one, without a seam."""

    def __init__(self, plan: RankPlan, folder: Path, engine: str) -> None:
        self._plan = plan
        found = ShardSet.open(folder)
        self._reader, _ = open_reader(engine, found.paths[0], evict_behind=engine != "direct")
        self._shards = ShardSet(found.paths, found.index, self._reader)
        self._pool: BufferPool = self._shards.new_pool(plan.batch_size, depth=plan.prefetch_depth)
        self._counter = counter_for(found.paths)
        self._tally = Tally()
        self._seen = 0, 0

    def prepare(self) -> tuple[float | None, int | None]:
        evict(self._shards.paths)
        return cache_fraction(self._shards.paths), self.counters()

    def counters(self) -> int | None:
        return self._counter.read_bytes()

    @contextmanager
    def batches(self, *, rank: int, num_ranks: int, seed: int) -> Iterator[Iterator[npt.NDArray[Any]]]:
        plan, shards = self._plan, self._shards
        records = endless_batches(
            shards.index.shard_sizes,
            seed=seed,
            mode=plan.shuffle,
            block_records=shards.block_records,
            rank=rank,
            world_size=num_ranks,
            batch_size=plan.batch_size,
        )
        prefetcher = shards.prefetch(
            records,
            batch_size=plan.batch_size,
            num_threads=plan.reader_threads,
            depth=plan.prefetch_depth,
            pool=self._pool,
            tally=self._tally,
        )
        try:
            yield (batch.images for batch in prefetcher)
        finally:
            prefetcher.close()

    def take_bytes(self) -> tuple[int, int]:
        now = self._reader.delivered_bytes, self._tally.payload_bytes
        delivered, payload = now[0] - self._seen[0], now[1] - self._seen[1]
        self._seen = now
        return delivered, payload


if __name__ == "__main__":
    rank_main(main)
