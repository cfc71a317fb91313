"""Where a block's batches come from: one batch again and again, some in memory, or shards as one endless epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar, cast

import numpy as np

from ..loaders.buffers import Buffer, BufferPool
from ..loaders.destinations.choice import DeviceChoice, open_device
from ..loaders.destinations.destination import Destination
from ..loaders.evidence import counter_for
from ..loaders.page_cache import cache_fraction, evict, warm
from ..loaders.plan import ShuffleMode, endless_batches
from ..loaders.prefetch import RawBatch, Tally
from ..loaders.traced import Recorder, trace_set
from ..results.record import CacheState
from ..storage_bench.accelerators import Images
from ..storage_bench.decoded import Decoded, decoded_of
from ..storage_bench.encoded import EncodedImages
from .plan import RankPlan, Rung, Source

Batch = TypeVar("Batch")


class BatchSource(Generic[Batch]):
    """Where a block's batches come from."""

    counter_name = ""  # of the counter that decides, among those of `counters`

    def prepare(self) -> tuple[float | None, dict[str, int]]:
        """Make the start clean (rank 0, while nobody reads); the resident share, and the counters before."""
        return None, {}

    def counters(self) -> dict[str, int]:
        """What all counters that see this source show now, in bytes; empty where nothing counts."""
        return {}

    def resident(self) -> float | None:
        """The share of the data that is in the page cache."""
        return None

    @contextmanager
    def batches(self, *, rank: int, num_ranks: int, seed: int) -> Iterator[Iterator[Batch]]:
        """Endless batches for this rank: (B, H, W, C) or lists of samples of unequal size, or what a network takes."""
        raise NotImplementedError

    def trace(self, recorder: Recorder) -> None:
        """Have reads and decodes noted from now on."""

    def take_bytes(self) -> tuple[int, int]:
        """Bytes delivered, and bytes of pixels handed out, since the last call."""
        return 0, 0

    def take_hops(self) -> dict[str, float]:
        """Seconds of threads and batches by hop since the last call (Tally.hop_seconds); empty: nothing is decoded."""
        return {}

    def decoded(self) -> Decoded | None:
        """What made samples of encoded images so far; None where there are none."""
        return None


class Synthetic(BatchSource[Images]):
    """One batch in host memory, handed out again and again: a loader that never waits."""

    def __init__(self, plan: RankPlan) -> None:
        memory = Buffer(plan.batch_size * plan.record_bytes).memory
        flat = np.frombuffer(memory, dtype=np.uint8)
        flat[:] = 1  # pages must be there before the clock runs
        self._images: Images = np.split(flat[: plan.batch_size * plan.record_bytes], plan.batch_size)
        if plan.image_shape:
            height, width, channels = plan.image_shape
            strides = (plan.record_bytes, width * channels, channels, 1)
            self._images = np.ndarray(
                (plan.batch_size, height, width, channels), np.uint8, buffer=memory, strides=strides
            )

    @contextmanager
    def batches(self, *, rank: int, num_ranks: int, seed: int) -> Iterator[Iterator[Images]]:
        """The one batch, for ever."""
        del rank, num_ranks, seed  # every rank gets the same batch
        yield itertools.repeat(self._images)


class Resident(BatchSource[Batch]):
    """Batches of real records that lie in host memory, one after another, for ever: a loader without a storage."""

    def __init__(self, ring: Sequence[Batch]) -> None:
        self._ring = ring

    @contextmanager
    def batches(self, *, rank: int, num_ranks: int, seed: int) -> Iterator[Iterator[Batch]]:
        """The batches in turn, for ever."""
        del rank, num_ranks, seed  # what this rank read once is what it gets
        yield itertools.cycle(self._ring)


def resident_batches(prefetch_depth: int) -> int:
    """As many batches as a loader of this depth has in memory at once: those ahead, one in use, one in exchange."""
    return prefetch_depth + 2


def copied(images: Images) -> Images:
    """The same pixels in memory of their own."""
    return [sample.copy() for sample in images] if isinstance(images, list) else images.copy()


class ShardFiles(BatchSource[Batch]):
    """Shards in a folder, cold or warm.

    Cold they are put out of the page cache before each block, and behind the reader; warm they are all read into it.
    """

    def __init__(
        self,
        folder: Path,
        engine: str,
        *,
        page_cache: CacheState,
        images: EncodedImages,
        shuffle: ShuffleMode,
        seed: int = 0,
        device: DeviceChoice = "cpu",
    ) -> None:
        self._page_cache = page_cache
        behind = engine != "direct" and page_cache == "cold"
        self._shards = images.open(
            folder, engine=engine, evict_behind=behind, shuffle_mode=shuffle, seed=seed, device=device
        )
        self._reader = self._shards.reader
        self._counter = counter_for(self._shards.files)
        self.counter_name = self._counter.name
        self._tally = Tally()
        self._seen = 0, 0
        self._hops_seen: dict[str, float] = {}
        self._requested = images.decoder

    def prepare(self) -> tuple[float | None, dict[str, int]]:
        """Out of the page cache, or into it, before a block begins."""
        if self._page_cache == "cold":
            evict(self._shards.files)
        elif self.resident() != 1.0:
            warm(self._shards.files)
        return self.resident(), self.counters()

    def trace(self, recorder: Recorder) -> None:
        """Have reads and decodes noted from now on."""
        trace_set(self._shards, recorder)

    def counters(self) -> dict[str, int]:
        """What was read of the shards, by all that counts it."""
        return self._counter.snapshot()

    def resident(self) -> float | None:
        """The share of the shards that is in the page cache."""
        return cache_fraction(self._shards.files)

    def take_bytes(self) -> tuple[int, int]:
        """What the reader delivered, and what reached batches."""
        now = self._reader.delivered_bytes, self._tally.payload_bytes
        delivered, payload = now[0] - self._seen[0], now[1] - self._seen[1]
        self._seen = now
        return delivered, payload

    def take_hops(self) -> dict[str, float]:
        """What threads spent in each hop, and batches before it."""
        if self._shards.decoding is None:
            return {}
        before, self._hops_seen = self._hops_seen, self._tally.hop_seconds()
        return {name: spent - before.get(name, 0.0) for name, spent in self._hops_seen.items()}

    def decoded(self) -> Decoded | None:
        """Who decoded, and what was left out."""
        return decoded_of(self._shards.decoding, self._tally, requested=self._requested)


class Shards(ShardFiles[Images]):
    """Shards read as one endless epoch: a small sample stands for a long one, without a seam.

    On a `device` that is none of the host's, batches are tensors there.
    """

    def __init__(
        self,
        plan: RankPlan,
        folder: Path,
        engine: str,
        *,
        page_cache: CacheState = "cold",
        device: DeviceChoice = "cpu",
        on_thread_start: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(folder, engine, page_cache=page_cache, images=plan.images, shuffle=plan.shuffle, device=device)
        self._plan = plan
        self._on_thread_start = on_thread_start
        depth, there = plan.prefetch_depth, open_device(device)
        self._destination = None if there is None else Destination(there, num_free_kept=depth + 2)
        self._pool: BufferPool = self._shards.new_pool(plan.batch_size, depth=depth, destination=self._destination)

    @contextmanager
    def batches(self, *, rank: int, num_ranks: int, seed: int) -> Iterator[Iterator[Images]]:
        """This rank's share of an epoch without an end, read ahead by the plan's depth."""
        with self.raw_batches(rank=rank, num_ranks=num_ranks, seed=seed) as raw:
            yield (cast("Images", batch.images) for batch in raw)  # in host memory: none other was asked for

    @contextmanager
    def raw_batches(self, *, rank: int, num_ranks: int, seed: int) -> Iterator[Iterator[RawBatch]]:
        """The same batches, with their records and the time from which they lay ready."""
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
            destination=self._destination,
            on_thread_start=self._on_thread_start,
        )
        try:
            yield prefetcher
        finally:
            prefetcher.close()


def open_sources(
    plan: RankPlan,
    *,
    rank: int,
    synthetic: BatchSource[Batch],
    open_shards: Callable[[Path, str, CacheState], BatchSource[Batch]],
    copy: Callable[[Batch], Batch],
) -> dict[Source | Rung, BatchSource[Batch]]:
    """Every source that the plan's blocks name; the rungs below the direct source take its data."""
    found: dict[Source | Rung, BatchSource[Batch]] = {"synthetic": synthetic}
    for name, folder in plan.folders.items():
        found[name] = open_shards(Path(folder), plan.engines[name], "cold")
    named = {block.source for block in plan.blocks}
    if "host" in named:
        with found["direct"].batches(rank=rank, num_ranks=plan.num_ranks, seed=plan.seed) as batches:
            found["host"] = Resident([copy(next(batches)) for _ in range(resident_batches(plan.prefetch_depth))])
        found["direct"].take_bytes()  # no block's
        found["direct"].take_hops()
    if "warm" in named:
        found["warm"] = open_shards(Path(plan.folders["direct"]), plan.engines["direct"], "warm")
    return found
