"""The batches of one rank, epoch by epoch, as a batch sampler: what a DataLoader over a ShardSet takes by itself.

    epoch's order (the set's seed and shuffle_mode, or a generator) -> this rank's share -> arrays of record numbers

It is a batch sampler for torch's own DataLoader as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import RandomSampler, Sampler

from .plan import Indices, Share, epoch_order, even_share, num_batches, rank_share
from .shards import ShardSet


class PlannedBatches(Sampler[Any]):
    """One rank's batches of record numbers in the epoch `epoch`; `set_epoch` chooses it.

    Rank and world size are the set's unless given.  With `even_batches` every rank has the same number of batches of
    the same sizes and none is left out; up to world_size - 1 records then come twice, in the last step.
    """

    def __init__(
        self,
        shards: ShardSet,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        even_batches: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(shards, ShardSet):
            raise TypeError(
                f"PlannedBatches plans over a ShardSet, not over a {type(shards).__name__}; where a framework puts its "
                f"sampler here, tell it not to (Lightning: Trainer(use_distributed_sampler=False))"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give 1 or more")
        self.shards = shards
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rank = shards.rank if rank is None else rank
        self.world_size = shards.world_size if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not one of world_size {self.world_size}; ranks count from 0")
        self.even_batches = even_batches
        self.generator = generator
        self.epoch = 0

    def of(self, shards: ShardSet) -> Self:
        """This plan, once it is certain that it is one of such a set; ValueError where it is not."""
        if len(self.shards) != len(shards):
            raise ValueError(
                f"the PlannedBatches are of another set: it has {len(self.shards)} records, the loader's has "
                f"{len(shards)}; make them over the loader's ShardSet"
            )
        return self

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iter(); the order is a function of it."""
        self.epoch = epoch

    @property
    def mode(self) -> str:
        """Where the order comes from: a shuffle mode of the set, or `generator`."""
        if not self.shuffle:
            return "off"
        return self.shards.shuffle_mode if self.generator is None else "generator"

    @property
    def num_dropped(self) -> int:
        """Records of an epoch that no rank reads."""
        return len(self.shards) - len(self) * self.batch_size * self.world_size if self.drop_last else 0

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        total, size = len(self.shards), self.batch_size
        if self.even_batches and not self.drop_last:
            step = size * self.world_size
            return (total + step - 1) // step
        return num_batches(total, rank=self.rank, world_size=self.world_size, batch_size=size, drop_last=self.drop_last)

    def __iter__(self) -> Iterator[Indices]:
        return self._batches(self.epoch)  # the epoch of now, however late the first batch is asked for

    def _batches(self, epoch: int) -> Iterator[Indices]:
        records, size = self._share(self._order(epoch)).records, self.batch_size
        yield from (records[start : start + size] for start in range(0, len(records), size))

    def _share(self, order: Indices) -> Share:
        rank, world_size, size = self.rank, self.world_size, self.batch_size
        if self.even_batches and not self.drop_last:
            return even_share(order, rank=rank, world_size=world_size, batch_size=size)
        return rank_share(order, rank=rank, world_size=world_size, batch_size=size, drop_last=self.drop_last)

    def _order(self, epoch: int) -> Indices:
        shards = self.shards
        if self.shuffle and self.generator is not None:  # the order torch draws from it
            return np.fromiter(RandomSampler(shards, generator=self.generator), dtype=np.int64)
        return epoch_order(
            shards.index.shard_sizes,
            seed=shards.seed,
            epoch=epoch,
            mode=shards.shuffle_mode if self.shuffle else "off",
            block_records=shards.block_records,
        )
