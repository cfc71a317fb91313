"""The fast road of a loader over a ShardSet: what it keeps from epoch to epoch.

buffers for what is read, and for images that are decoded     made for the first epoch, and again where batches
the device that batches go to, and its buffers                begin to go elsewhere
reader threads, where workers persist
counters of what was read, for the evidence
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .buffers import BufferPool
from .destinations.choice import open_device
from .destinations.destination import Destination
from .destinations.device import Device
from .engines.reader_threads import ReaderThreads
from .hand_out import Tally
from .plan import Indices
from .prefetch import Prefetcher
from .route import RouteWatch
from .shards import ShardSet
from .worker_start import starting_workers


class FastRoad:
    """What one loader has of buffers, devices and threads; used from the thread that its loop runs in."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self.destination: Destination | None = None
        self.watch: RouteWatch | None = None
        self.empty_ms: float | None = None  # of a pair of events: known from the first epoch on
        self.pool: BufferPool | None = None
        self._image_pool: BufferPool | None = None
        self._threads: ReaderThreads | None = None  # those of persistent workers

    def open(
        self,
        batches: Iterator[Indices],
        *,
        batch_size: int,
        num_threads: int,
        depth: int,
        epoch: int,
        tally: Tally,
        pin_memory: bool,
        persistent: bool,
        timeout_s: float,
        init_fn: Callable[[int], None] | None,
        base_seed: int,
    ) -> Prefetcher:
        """Begin to read `batches`, of which `batch_size` says how large most are, `depth` of them ahead."""
        pool = self._open_pools(batch_size, depth=max(1, depth), pin_memory=pin_memory)
        kept = self._threads if self._threads is not None and self._threads.usable else None
        with starting_workers(
            init_fn if kept is None else None,
            num_workers=num_threads,
            base_seed=base_seed,
            dataset=self.shards,
            timeout_s=timeout_s,
        ) as on_start:
            if persistent and kept is None:
                kept = ReaderThreads(num_threads, self.shards.reader, self.shards.paths, on_start=on_start)
                self._threads = kept
            return Prefetcher(
                self.shards,
                batches,
                pool=pool,
                tally=tally,
                num_threads=num_threads,
                depth=depth,
                timeout_s=timeout_s,
                on_thread_start=on_start,
                threads=kept,
                epoch=epoch,
                image_pool=self._image_pool,
                freight=None if self.destination is None else self.shards.freight(self.destination),
            )

    def target(self, *, pin_memory: bool) -> Device | None:
        """The device that batches go to now; None is host memory.

        Who asks for no device, but for `pin_memory`, means host memory; images without one size stay there, too.
        """
        decoding = self.shards.decoding
        as_they_are = decoding is not None and decoding.transform is None
        stays = self.shards.device == "auto" and (pin_memory or as_they_are)
        return None if stays else open_device(self.shards.device)

    def _open_pools(self, batch_size: int, *, depth: int, pin_memory: bool) -> BufferPool:
        """Buffers, kept from epoch to epoch unless batches go elsewhere from now on: a process may start CUDA late."""
        device = self.target(pin_memory=pin_memory)
        if (device and device.name) != (self.destination and self.destination.device.name):
            self.destination = None if device is None else Destination(device, num_free_kept=depth + 2)
            self.pool, self._image_pool, self.watch = None, None, None
        to = self.destination
        self.pool = self.pool or self.shards.new_pool(batch_size, depth=depth, destination=to)
        if self._image_pool is None:
            self._image_pool = BufferPool(0, num_free_kept=depth + 2) if to is None else to.pinned_pool(0)
        self.watch = self.watch or RouteWatch(self.shards, into_gpu=to is not None)
        return self.pool
