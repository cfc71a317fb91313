"""The drop-in DataLoader: torch's constructor, batches without a copy.

    from iobench.loaders import DataLoader, ShardSet
    loader = DataLoader(ShardSet.open("data/"), batch_size=256, shuffle=True, num_workers=2)
    for images, labels in loader: ...        # uint8 (B, C, H, W) over the read buffer, int64 (B)

Over a ShardSet `num_workers` means reader threads (0 reads inside next()), and the epoch's order comes from the set's
shuffle_mode and seed unless a sampler or a generator is given.  Over any other data set it is torch's own loader.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

import numpy as np
import torch
import torch.utils.data
from torch.utils.data import Dataset, Sampler

from .buffers import BufferPool
from .plan import Indices, epoch_order, num_batches, rank_share
from .prefetch import Prefetcher, Tally
from .shards import ShardSet

T_co = TypeVar("T_co", covariant=True)
DEFAULT_PREFETCH_FACTOR = 2


class DataLoader(torch.utils.data.DataLoader[T_co]):
    """torch.utils.data.DataLoader, with the fast road over a ShardSet.

    Attributes of the fast road: `epoch` (the next one, counted up by each iter(), see set_epoch), `tally` (what was
    read), `num_dropped` (records the last epoch left out because of drop_last).
    """

    def __init__(
        self,
        dataset: Dataset[T_co] | ShardSet,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        shards = dataset if isinstance(dataset, ShardSet) else None
        self._shards = shards
        if shards is not None and multiprocessing_context is not None:
            raise ValueError(
                "multiprocessing_context has no meaning over a ShardSet: num_workers are threads; leave it out"
            )
        super().__init__(
            dataset,  # type: ignore[arg-type]  # a ShardSet is a map-style data set without being a torch class
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            num_workers,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            in_order=in_order,
        )
        self.epoch = 0
        self.tally = Tally()
        self.num_dropped = 0
        self._pool: BufferPool | None = None
        self._own_collate = collate_fn
        self._planned = shards is not None and sampler is None and batch_sampler is None
        self._shuffled = bool(shuffle)
        if shards is not None and shards.world_size > 1 and not self._planned:
            raise ValueError(
                f"rank and world_size {shards.world_size} were given to the ShardSet and a sampler to the loader: each "
                f"would split the records (a DistributedSampler would split them again); give one of them"
            )
        if shards is not None and pin_memory:
            warnings.warn("pin_memory has no effect over a ShardSet: its buffers are pageable", stacklevel=2)

    def check_worker_number_rationality(self) -> None:
        """Torch warns of more workers than cores; over a ShardSet they are threads that wait for storage."""
        if self._shards is None:
            super().check_worker_number_rationality()

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iter(); the order is a function of it."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        shards = self._shards
        if shards is None or not self._planned:
            return super().__len__()
        return num_batches(
            len(shards),
            rank=shards.rank,
            world_size=shards.world_size,
            batch_size=self.batch_size or 1,
            drop_last=self.drop_last,
        )

    def __iter__(self) -> Any:
        """One epoch: a BatchIterator over a ShardSet, torch's own iterator over anything else."""
        shards = self._shards
        if shards is None:
            return super().__iter__()
        if self.generator is not None or not self._planned:
            # Torch draws a seed for its workers here; drawn too, a generator or sampler gives the order it gives torch.
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        batches = self._planned_batches(shards) if self._planned else self._sampled_batches(shards)
        self.epoch += 1
        return BatchIterator(self, shards, batches)

    def _order(self, shards: ShardSet) -> Indices:
        """This epoch's order, from the set's seed and mode; a generator wins, with the order torch draws from it."""
        if self._shuffled and self.generator is not None:
            return np.fromiter(self.sampler, dtype=np.int64)
        return epoch_order(
            shards.index.shard_sizes,
            seed=shards.seed,
            epoch=self.epoch,
            mode=shards.shuffle_mode if self._shuffled else "off",
            block_records=shards.block_records,
        )

    def _planned_batches(self, shards: ShardSet) -> Iterator[Indices]:
        order = self._order(shards)
        size = self.batch_size or 1
        share = rank_share(
            order, rank=shards.rank, world_size=shards.world_size, batch_size=size, drop_last=self.drop_last
        )
        self.num_dropped = share.num_dropped
        return (share.records[start : start + size] for start in range(0, len(share.records), size))

    def _sampled_batches(self, shards: ShardSet) -> Iterator[Indices]:
        for batch in self._index_sampler:
            yield shards.record_numbers(batch if self._auto_collation else [batch])

    def _open(self, shards: ShardSet, batches: Iterator[Indices]) -> Prefetcher:
        depth = self.num_workers * (self.prefetch_factor or DEFAULT_PREFETCH_FACTOR)
        stated = self.batch_size or getattr(self.batch_sampler, "batch_size", None)
        size = stated if isinstance(stated, int) else 1  # the pool grows to larger batches
        if self._pool is None:
            self._pool = shards.new_pool(size, depth=max(1, depth))
        return shards.prefetch(
            batches,
            batch_size=size,
            num_threads=self.num_workers,
            depth=depth,
            pool=self._pool,
            tally=self.tally,
            timeout_s=self.timeout,
            on_thread_start=self.worker_init_fn,
        )


class BatchIterator:
    """One epoch over a ShardSet.  Leaving it early, or dropping it, ends its reader threads."""

    def __init__(self, loader: DataLoader[Any], shards: ShardSet, batches: Iterator[Indices]) -> None:
        self._shards = shards
        self._batched = loader._auto_collation
        self._collate = loader._own_collate
        self._prefetcher = loader._open(shards, batches)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """(images, labels); what collate_fn makes of the samples where one was given."""
        images, labels = self._shards.to_tensors(next(self._prefetcher))
        if not self._batched:
            sample = (images[0], int(labels[0]))
            return sample if self._collate is None else self._collate(sample)  # type: ignore[arg-type]  # as torch does
        if self._collate is None:
            return images, labels
        return self._collate(list(zip(images, labels.tolist(), strict=True)))

    def close(self) -> None:
        """End the reader threads; batches already handed out stay valid."""
        self._prefetcher.close()
