"""Stall by hop of real training, the rank's side: one network goes on learning, block by block, on every rung.

    round 1   [host] [storage, cold] [synthetic] [warm] ...     each block: readers open, steps, readers closed
    round 2   [warm] [synthetic] ...                            all ranks in the same order, gradients averaged

The steps are those of any training; only where their batches come from changes.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ...loaders.dataloader import DataLoader
from ...loaders.nearness import near_device, standing_on
from ...loaders.plan import Indices, endless_batches
from ...loaders.shards import ShardSet
from ...results.record import CacheState
from ...storage_bench.launching.launch import rank_main
from ...storage_bench.launching.ranks import Ranks
from ..feed import SyntheticFeed
from ..images import as_json
from ..loop import Launch
from ..peers import peers_of
from ..plan import Block
from ..sources import BatchSource, ShardFiles, open_sources
from ..timeline import Times
from .plan import RealHopsPlan, RealPlan
from .ranks import Training, device_of, energy_meter, open_training

TensorBatch = tuple[Tensor, Tensor]


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """All rounds that fit into the budget; this rank's log of every block, as plain JSON."""
    told = RealHopsPlan.model_validate(config)
    training, plan = told.training, told.launch
    device, peers = device_of(training, ranks, engines=plan.engines.values()), peers_of(ranks)
    feed = SyntheticFeed(training, device)
    sources = open_sources(
        plan,
        rank=ranks.rank,
        synthetic=SyntheticBatches(feed),
        open_shards=lambda folder, engine, page_cache: TensorShards(
            training, folder, engine, page_cache=page_cache, device=str(device)
        ),
        copy=_pinned if training.device == "cuda" else _cloned,
    )
    with peers.together():
        steps = Steps(open_training(training, feed, ranks=ranks, peers=peers, device=device))
        steps.make(feed.batches(), told.warmup_steps)
        launch = Launch(plan, sources, steps.measure, ranks, energy=energy_meter(ranks, device))
        launch.run_rounds(range(len(plan.blocks)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    near = near_device(str(device), wanted=training.placement == "auto")
    return {
        "blocks": launch.logs,
        "peak_rss_bytes": peak,
        "wall_s": launch.elapsed_s,
        "placement": near.reason,
        "readers": launch.readers.told(),
        "images": as_json(source.decoded() for source in sources.values()),
    }


class Steps:
    """The steps of one training, wherever their batches come from: a block goes on where the one before it ended."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._done = 0

    def measure(self, batches: Iterator[TensorBatch], block: Block) -> Times:
        """The block's steps: (steps, 5) marks in ns, on CUDA of the compute stream."""
        return self.make(batches, block.drop_steps + block.count_steps)

    def make(self, batches: Iterator[TensorBatch], count: int) -> Times:
        """So many steps, and their marks."""
        first, self._done = self._done, self._done + count
        clock = self._training.new_clock(count)
        self._training.make_steps(batches, range(first, self._done), clock)
        return clock.times


class SyntheticBatches(BatchSource[TensorBatch]):
    """The one batch of a synthetic feed, which is on the device already."""

    def __init__(self, feed: SyntheticFeed) -> None:
        self._feed = feed

    @contextmanager
    def batches(self, *, rank: int, num_ranks: int, seed: int) -> Iterator[Iterator[TensorBatch]]:
        """The one batch, for ever."""
        del rank, num_ranks, seed  # every rank has its batch
        yield self._feed.batches()


class TensorShards(ShardFiles[TensorBatch]):
    """Shards through the loader that trainings have, which brings batches to the device, as one endless epoch."""

    def __init__(
        self, plan: RealPlan, folder: Path, engine: str, *, page_cache: CacheState, device: str = "cpu"
    ) -> None:
        super().__init__(
            folder, engine, page_cache=page_cache, images=plan, shuffle=plan.shuffle, seed=plan.seed, device=device
        )
        self._order = EndlessBatches(self._shards, plan.batch_size)
        self._loader: DataLoader[Any] = DataLoader(
            self._shards,
            batch_sampler=cast("Any", self._order),  # whose batches are arrays, not lists
            num_workers=plan.reader_threads,
            prefetch_factor=plan.prefetch_factor if plan.reader_threads else None,
            worker_init_fn=standing_on(near_device(device, wanted=plan.placement == "auto")),
        )
        self._tally = self._loader.tally

    @contextmanager
    def batches(self, *, rank: int, num_ranks: int, seed: int) -> Iterator[Iterator[TensorBatch]]:
        """This rank's share, read ahead as a training's is."""
        self._order.begin(rank=rank, num_ranks=num_ranks, seed=seed)
        batches = iter(self._loader)
        try:
            yield batches
        finally:
            batches.close()


class EndlessBatches:
    """A batch sampler without an end: a small sample stands for a long epoch."""

    def __init__(self, shards: ShardSet, batch_size: int) -> None:
        self._shards = shards
        self.batch_size = batch_size
        self._share = {"rank": 0, "world_size": 1, "seed": 0}

    def begin(self, *, rank: int, num_ranks: int, seed: int) -> None:
        """Whose share, and in which order, the next iteration gives."""
        self._share = {"rank": rank, "world_size": num_ranks, "seed": seed}

    def __iter__(self) -> Iterator[Indices]:
        shards = self._shards
        return endless_batches(
            shards.index.shard_sizes,
            mode=shards.shuffle_mode,
            block_records=shards.block_records,
            batch_size=self.batch_size,
            **self._share,
        )


def _cloned(batch: TensorBatch) -> TensorBatch:
    """The same batch in memory of its own."""
    images, labels = batch
    return images.clone(), labels.clone()


def _pinned(batch: TensorBatch) -> TensorBatch:
    """The same batch, which is on the device, in page-locked memory of the host."""
    images, labels = batch
    return images.cpu().pin_memory(), labels.cpu().pin_memory()


if __name__ == "__main__":
    rank_main(main)
