"""The drop-in DataLoader: torch's constructor, batches without a copy.

    from iobench.loaders import DataLoader, ShardSet
    loader = DataLoader(ShardSet.open("data/"), batch_size=256, shuffle=True, num_workers=2)
    for images, labels in loader: ...        # uint8 (B, C, H, W) over the read buffer, int64 (B)

Over a ShardSet `num_workers` means reader threads (0 reads inside next()), and the epoch's order comes from the set's
shuffle_mode and seed unless a sampler or a generator is given.  Over any other data set it is torch's own loader.
CONTRACT.md says what every argument does on each road.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch.utils.data
from torch.utils.data import Dataset, IterableDataset, Sampler, default_collate, default_convert

from .batches import PlannedBatches
from .evidence import RouteEvidence
from .fast_road import FastRoad
from .hand_out import Tally
from .iterators import LocalBatches, ProcessBatches, ShardBatches
from .order import draws_globally, samplers_of, settings_of
from .plan import Indices
from .prefetch import Prefetcher
from .resume import Place, State, checked_state, generators_of, new_state, own_state, restore, sampler_epoch
from .resume import set_sampler_epoch as set_epoch_of
from .route import EvidenceError
from .shards import ShardSet
from .stall import StallMeter, cuda_in_use

T_co = TypeVar("T_co", covariant=True)
DEFAULT_PREFETCH_FACTOR = 2


class DataLoader(torch.utils.data.DataLoader[T_co]):
    """torch.utils.data.DataLoader, with the fast road over a ShardSet.

    Beyond torch's attributes: `meter` (how long the loop waited in the epoch begun last), `epoch` (the next one,
    counted up by each iter(), see set_epoch), and over a ShardSet `tally` (what was read) and `num_dropped` (records of
    an epoch left out because of drop_last).
    """

    def __init__(
        self,
        dataset: Dataset[T_co],
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
        self._road = None if shards is None else FastRoad(shards)
        self._plan: PlannedBatches | None = None
        if shards is not None and multiprocessing_context is not None:
            raise ValueError(
                "multiprocessing_context has no meaning over a ShardSet: num_workers are threads; leave it out"
            )
        super().__init__(
            dataset,
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
        self.meter = StallMeter()
        self.tally = Tally()
        self._num_epochs = 0
        self._told_epoch: int | None = 0  # what a sampler with a set_epoch was last set to
        self._place: Place
        self._begun = False
        self._pending: State | None = None
        # Whoever rebuilds a loader from its attributes gives torch's default by name.
        self._own_collate = None if collate_fn in (default_collate, default_convert) else collate_fn
        if shards is not None:
            given = sampler if batch_sampler is None else batch_sampler
            self._check_fast_road(shards, given=given)
            self._plan = self._planned(shards, given, shuffle=bool(shuffle))

    def _planned(self, shards: ShardSet, given: Any, *, shuffle: bool) -> PlannedBatches | None:
        """The batches in the set's own order; None where a sampler gives another."""
        if isinstance(given, PlannedBatches):
            return given.of(shards)
        if given is not None:
            return None
        size = self.batch_size or 1
        return PlannedBatches(shards, size, shuffle=shuffle, drop_last=self.drop_last, generator=self.generator)

    def _check_fast_road(self, shards: ShardSet, *, given: Any) -> None:
        """Refuse by name what torch accepts and reader threads cannot do."""
        if shards.world_size > 1 and given is not None and not isinstance(given, PlannedBatches):
            raise ValueError(
                f"rank and world_size {shards.world_size} were given to the ShardSet and a sampler to the loader: each "
                f"would split the records (a DistributedSampler would split them again); give one of them"
            )
        if self.timeout and not self.num_workers:
            raise ValueError("timeout needs num_workers > 0: without reader threads next() reads and cannot be left")
        if self.prefetch_factor == 0:
            raise ValueError("prefetch_factor is 0: reader threads must have a batch to read; give 1 or more")

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process begins its own epochs; buffers and counters stay here."""
        own = {
            "_road": None if self._road is None else FastRoad(self._road.shards),
            "_begun": False,
            "_iterator": None,
        }
        return {name: value for name, value in {**self.__dict__, **own}.items() if name != "_place"}

    def check_worker_number_rationality(self) -> None:
        """Torch warns of more workers than cores; over a ShardSet they are threads that wait for storage."""
        if self._road is None:
            super().check_worker_number_rationality()

    # --- epochs

    @property
    def epoch(self) -> int:
        """The epoch that the next iter() begins."""
        return self._num_epochs if self._plan is None else self._plan.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        if self._plan is None:
            self._num_epochs = epoch
        else:
            self._plan.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iter(): the order is a function of it; a sampler with a set_epoch is told."""
        self.epoch = epoch
        set_epoch_of(samplers_of(self), epoch)

    @property
    def num_dropped(self) -> int:
        """Records of an epoch that are left out because of drop_last, over all ranks."""
        return 0 if self._plan is None else self._plan.num_dropped

    @property
    def _index_sampler(self) -> Any:
        return super()._index_sampler if self._plan is None else self._plan

    def __iter__(self) -> Any:
        """One epoch; what it gives is torch's iterator, and over a ShardSet one of iobench's."""
        samplers, pending = samplers_of(self), self._pending
        resumed = pending is not None and pending["sampler_epoch"] == sampler_epoch(samplers)
        begun = dict(pending) if resumed and pending is not None else self._new_state()
        if resumed:
            restore(begun, samplers)
        self._place = Place(begun, sampler=own_state(samplers), resumed=resumed, seed_drawn=self.generator is None)
        self.meter = StallMeter()
        road = self._road
        on_host = road is None or road.target(pin_memory=self.pin_memory) is None
        self.meter.transfer_not_covered = cuda_in_use() and on_host
        batches: Any = super().__iter__() if road is None else self._get_iterator()
        self._begun, self._pending = True, None
        self.epoch += 1
        if isinstance(self.dataset, IterableDataset):
            batches.pass_over(begun["num_yielded"])
        return batches

    def _get_iterator(self) -> Any:
        if self._road is not None:
            return ShardBatches(self, self._road)
        if self.num_workers == 0:
            return LocalBatches(self)
        self.check_worker_number_rationality()
        return ProcessBatches(self)

    def _open(self, road: FastRoad, batches: Iterator[Indices], *, base_seed: int) -> Prefetcher:
        """Begin to read `batches`."""
        stated = getattr(self._index_sampler, "batch_size", 1)
        return road.open(
            batches,
            batch_size=min(stated, len(road.shards)) if isinstance(stated, int) else 1,  # pools grow to larger batches
            num_threads=self.num_workers,
            depth=self.num_workers * (self.prefetch_factor or DEFAULT_PREFETCH_FACTOR),
            epoch=self.epoch,
            tally=self.tally,
            pin_memory=self.pin_memory,
            persistent=self.persistent_workers,
            timeout_s=self.timeout,
            init_fn=self.worker_init_fn,
            base_seed=base_seed,
        )

    # --- evidence

    @property
    def stall(self) -> dict[str, Any]:
        """How long the loop waited for data in the epoch begun last: the meter's summary."""
        return self.meter.summary()

    def evidence(self, *, background_s: float | None = None) -> RouteEvidence:
        """Which way the bytes took that this loader has read since it was made.

        What others read is measured for `background_s` seconds if asked.  Raises EvidenceError where nothing was read
        yet, or this is no loader over a ShardSet; RouteError where the set requires a route that is not proven.
        """
        watch = None if self._road is None else self._road.watch
        if watch is None:
            what = "nothing was read yet" if self._road is not None else "there are counters only over a ShardSet"
            raise EvidenceError(f"no evidence: {what}")
        found = watch.evidence(self.tally, background_s=background_s)
        watch.check(found)
        return found

    # --- state

    def state_dict(self) -> State:
        """Where the epoch is, exact to the batch as yielded; at its beginning before an iter() and after the end.

        It holds for every rank that has yielded as many batches, and for any number of workers.
        """
        if self._pending is not None:
            return dict(self._pending)
        underway = self._begun and not self._place.finished
        return {"settings": settings_of(self), **(self._place.state_dict() if underway else self._new_state())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iter() goes on from there.  Raises ResumeError where it is a place in another order.

        Setting another epoch in between leaves the place behind.  An empty state changes nothing.
        """
        if not state:
            return
        samplers = samplers_of(self)
        self._pending = checked_state(state, settings_of(self), generators=generators_of(samplers))
        self._iterator = None  # worker processes that are kept have gone on
        self.epoch, self._told_epoch = state["epoch"], state["sampler_epoch"]
        if state["sampler_epoch"] is not None:
            set_epoch_of(samplers, state["sampler_epoch"])

    def _new_state(self) -> State:
        samplers = samplers_of(self)
        told = sampler_epoch(samplers)
        if told is not None and told != self._told_epoch:  # samples are drawn by the epoch that the sampler is set to
            self.epoch = self._told_epoch = told
        return new_state(epoch=self.epoch, samplers=samplers, draws_globally=draws_globally(self))
