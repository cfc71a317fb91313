"""Frameworks that would take a DataLoader apart: what keeps ours whole.

accelerate rebuilds every loader as a plain torch one, which over a ShardSet is right but slow.  `prepare` gives it a
loader that it takes as prepared already: of iobench's class, with this process's share of every epoch, and with all
that accelerate asks of a loader (end of the epoch, remainder, device, state).
"""

from __future__ import annotations

from importlib import import_module
from operator import length_hint
from typing import Any, ClassVar, TypeVar

import torch.utils.data

from .batches import PlannedBatches
from .dataloader import DataLoader
from .shards import ShardSet
from .stall_cuda import moved_to

T_co = TypeVar("T_co", covariant=True)


class PrepareError(ValueError):
    """A loader that cannot be prepared as it is."""

    exit_status: ClassVar[int] = 2


def prepare(accelerator: Any, loader: torch.utils.data.DataLoader[T_co]) -> torch.utils.data.DataLoader[T_co]:
    """`loader` for this process of an `accelerate.Accelerator`; use it where you would call accelerator.prepare.

    Over a ShardSet the result is an iobench DataLoader and every process reads its own share.  With the accelerator's
    even_batches (its default) all processes have the same batches and the last step repeats up to num_processes - 1
    records, which gather_for_metrics takes off again; with even_batches=False every record comes exactly once, and
    numbers of batches may differ by one.  Over any other data set this is accelerator.prepare.  Raises PrepareError.
    """
    shards = loader.dataset
    if not isinstance(loader, DataLoader) or not isinstance(shards, ShardSet):
        prepared: torch.utils.data.DataLoader[T_co] = accelerator.prepare(loader)
        return prepared
    mine = PreparedLoader(
        shards,
        batch_sampler=_share_of(accelerator, loader, shards),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        pin_memory_device=loader.pin_memory_device,
        in_order=loader.in_order,
    )
    mine.take_part_in(accelerator)
    return mine  # type: ignore[return-value]  # its samples are those of `loader`


def _share_of(accelerator: Any, loader: DataLoader[Any], shards: ShardSet) -> Any:
    """The batch sampler of this process."""
    rank, world_size = accelerator.process_index, accelerator.num_processes
    if reason := _unsuited(accelerator, loader, shards):
        raise PrepareError(f"this loader cannot be prepared for {world_size} processes: {reason}")
    plan = loader._plan
    if plan is None:
        return loader.batch_sampler
    return PlannedBatches(
        shards,
        plan.batch_size // world_size if accelerator.split_batches else plan.batch_size,
        shuffle=plan.shuffle,
        drop_last=plan.drop_last,
        rank=rank,
        world_size=world_size,
        even_batches=accelerator.even_batches,
        generator=plan.generator,
    )


def _unsuited(accelerator: Any, loader: DataLoader[Any], shards: ShardSet) -> str | None:
    """Why `prepare` cannot do what the accelerator or the loader asks for, None where it can."""
    rank, world_size = accelerator.process_index, accelerator.num_processes
    plan = loader._plan
    doubts = {
        "it gives single samples; give it a batch_size": not loader._auto_collation,
        "dispatch_batches=True lets one process read for all; leave it out, every process reads its share": (
            accelerator.dispatch_batches
        ),
        "a device mesh makes several processes share a batch; give the ShardSet rank and world_size yourself": (
            getattr(accelerator, "torch_device_mesh", None) is not None
        ),
        "it has a sampler of its own; leave sampler and batch_sampler out, the processes share the set's order": (
            world_size > 1 and plan is None
        ),
        f"its ShardSet is rank {shards.rank} of {shards.world_size}, and this process is {rank} of {world_size}": (
            (shards.rank, shards.world_size) not in ((0, 1), (rank, world_size))
        ),
        f"split_batches=True, and its batch_size is no multiple of {world_size}": (
            accelerator.split_batches and plan is not None and plan.batch_size % world_size
        ),
    }
    return next((reason for reason, unsuited in doubts.items() if unsuited), None)


class PreparedLoader(DataLoader[T_co]):
    """A DataLoader that accelerate knows as its own."""

    _is_accelerate_prepared = True  # accelerator.prepare gives it back as it is
    use_stateful_dataloader = True  # accelerator.save_state asks it for its state_dict
    end_of_dataloader = False
    remainder = -1

    def take_part_in(self, accelerator: Any) -> None:
        """Let `accelerator` know of this loader; batches go to its device unless it was told not to place them."""
        self.gradient_state = accelerator.gradient_state
        self._device = accelerator.device if accelerator.device_placement else None
        self._num_processes = accelerator.num_processes
        accelerator.prepare_data_loader(self)

    @property
    def total_batch_size(self) -> int:
        """Records of one step over all processes."""
        batch_size: int = self._index_sampler.batch_size
        return batch_size * int(self._num_processes)

    @property
    def total_dataset_length(self) -> int:
        """Records of all processes."""
        return len(self.dataset)  # type: ignore[arg-type]  # a ShardSet has a length

    def __iter__(self) -> Any:
        """One epoch, during which the accelerator knows when its last batch has come."""
        plan = self._plan
        if plan is not None and plan.generator is not None and self._num_processes > 1:
            import_module("accelerate.utils").synchronize_rng_states(["generator"], plan.generator)
        repeats = plan is not None and plan.even_batches and not plan.drop_last
        self.remainder = self.total_dataset_length % self.total_batch_size if repeats else -1
        last = length_hint(self._index_sampler, -1)
        self.end_of_dataloader = False
        self.gradient_state._add_dataloader(self)
        try:
            for batch in super().__iter__():
                self.end_of_dataloader = self._place.num_yielded == last
                yield batch if self._device is None else moved_to(batch, self._device)
        finally:
            self.gradient_state._remove_dataloader(self)
