"""Iterators of the DataLoader: torch's own, metered and with a place to come back to, and the one over a ShardSet.

    _BaseDataLoaderIter (torch)     what torch does when an epoch begins: worker seed, warnings, sampler
      |-- LocalBatches              torch's, in this process
      |-- ProcessBatches            torch's, in worker processes
      `-- ShardBatches              the fast road: reader threads, batches over the read buffers

All three are torch's to whoever looks (`isinstance`), count what they yield, and end the step they are in when dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch.utils.data._utils.pin_memory import pin_memory
from torch.utils.data.dataloader import (
    _BaseDataLoaderIter,
    _MultiProcessingDataLoaderIter,
    _SingleProcessDataLoaderIter,
)

from .destinations.device import WAITING
from .plan import Indices
from .resume import ResumeError
from .shards import ShardSet
from .stall import Steps

if TYPE_CHECKING:
    from .dataloader import DataLoader
    from .fast_road import FastRoad
    from .stall_cuda import DeviceWaits


class _Tracked(_BaseDataLoaderIter):
    """Counts each batch at its place in the epoch, and the time that the loop waited for it."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._follow(loader)
        super().__init__(loader)

    def _reset(self, loader: DataLoader[Any], first_iter: bool = False) -> None:
        self._follow(loader)
        super()._reset(loader, first_iter)

    def _follow(self, loader: DataLoader[Any]) -> None:
        """The loader's new epoch; torch calls this twice for one."""
        self._place = loader._place
        self._steps = Steps(loader.meter)
        self._indices: Iterator[Any] | None = None

    def _next_index(self) -> Any:
        if self._indices is None:
            self._indices = self._place.stream(self._sampler_iter, self._index_sampler)
        return next(self._indices)

    def __next__(self) -> Any:
        try:
            batch = self._steps.take(super().__next__)
        except StopIteration:
            if not self._place.finished:
                self._place.finished = True
                self._end_epoch()
            raise
        self._place.count()
        return batch

    def _end_epoch(self) -> None:
        """What is to be done once after the last batch."""

    def pass_over(self, num_batches: int) -> None:
        """Read batches that the loop had already: the only way to come to a place of an iterable data set."""
        for number in range(num_batches):
            try:
                super().__next__()
            except StopIteration:
                raise ResumeError(
                    f"the state says that {num_batches} batches were yielded, but the data set ends after {number}"
                ) from None


class LocalBatches(_Tracked, _SingleProcessDataLoaderIter):
    """Torch's iterator without workers."""


class ProcessBatches(_Tracked, _MultiProcessingDataLoaderIter):
    """Torch's iterator over worker processes."""


class ShardBatches(_Tracked):
    """One epoch over a ShardSet.  Leaving it early, or dropping it, ends its reader threads unless they persist."""

    def __init__(self, loader: DataLoader[Any], road: FastRoad) -> None:
        super().__init__(loader)
        shards = self._shards = road.shards
        self._collate = loader._own_collate
        self._held_to_route = loader.evidence if shards.require_route is not None else None
        indices = self._place.stream(self._sampler_iter, self._index_sampler)
        records = indices if loader._plan is not None else _checked(shards, indices, batched=self._auto_collation)
        self._prefetcher = loader._open(road, records, base_seed=int(self._base_seed))
        self._destination = road.destination
        self._waits: DeviceWaits | None = None
        if self._destination is not None:
            self._waits = loader.meter.on_device(self._destination.device, empty_ms=road.empty_ms)
            road.empty_ms = self._waits.empty_ms

    def _next_data(self) -> Any:
        if self._destination is None or self._waits is None:
            batch = next(self._prefetcher)
        else:
            pair = self._waits.ask()
            with self._destination.device.range(WAITING):
                batch = next(self._prefetcher)
            self._waits.receive(pair)
        images, labels = self._shards.to_tensors(batch)
        data = self._collated(images, labels, batch.records)
        to_be_pinned = self._pin_memory and batch.labels is None  # a device's memory is no host's
        return pin_memory(data, self._pin_memory_device) if to_be_pinned else data  # type: ignore[no-untyped-call]

    def _collated(self, images: Any, labels: Any, records: Indices) -> Any:
        """(images, labels); what collate_fn makes of the samples where one was given, with labels as plain numbers."""
        if not self._auto_collation:
            sample = (images[0], int(self._shards.index.labels[records[0]]))
            return sample if self._collate is None else self._collate(sample)  # type: ignore[arg-type]  # as torch does
        if self._collate is None:
            return images, labels
        return self._collate(list(zip(images, self._shards.index.labels[records].tolist(), strict=True)))

    def _end_epoch(self) -> None:
        if self._held_to_route is not None:
            self._held_to_route()

    def close(self) -> None:
        """End the reader threads, unless they persist; batches already handed out stay valid."""
        self._prefetcher.close()


def _checked(shards: ShardSet, indices: Iterator[Any], *, batched: bool) -> Iterator[Indices]:
    """A sampler's batches as record numbers; knows nothing of the iterator, so that dropping it ends its threads."""
    for index in indices:
        yield shards.record_numbers(index if batched else [index])
