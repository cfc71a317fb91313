"""What real training is fed: batches of one rank, from shards or from the device's own memory, with a place in them.

step i of the epoch: |rank 0's batch|rank 1's batch| ...      the same records whatever the number of ranks
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from ..loaders.batches import PlannedBatches
from ..loaders.destinations.choice import DeviceChoice
from ..loaders.evidence import counter_for
from ..loaders.nearness import near_device, standing_on
from ..loaders.plan import Indices, Share
from ..loaders.shards import ShardSet
from ..loaders.traced import Recorder, trace_set
from ..storage_bench.decoded import Decoded, decoded_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.dataloader import DataLoader
    from .real.plan import RealPlan


class FeedError(ValueError):
    """Data that a network cannot be trained on."""

    exit_status: ClassVar[int] = 4


class FeedUsageError(FeedError):
    """What is asked for gives a network nothing that it can take."""

    exit_status = 2


class Feed(Protocol):
    """An endless source of (images, labels) that knows its place."""

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch behind epoch, from the place that was loaded last.  Close it to end its reader threads."""

    def state_dict(self) -> dict[str, Any]:
        """The place: the same on every rank after the same number of batches."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""

    def trace(self, recorder: Recorder) -> None:
        """Have reads and decodes noted from now on."""

    def counters(self) -> dict[str, int]:
        """How far all counters of what is read are, whoever reads."""

    def hop_seconds(self) -> dict[str, float]:
        """Seconds of threads and batches by hop so far (Tally.hop_seconds); empty where nothing is decoded."""

    def decoded(self) -> Decoded | None:
        """What made samples of encoded images so far; None where there are none."""

    @property
    def delivered_bytes(self) -> int:
        """What read calls returned so far."""

    @property
    def payload_bytes(self) -> int:
        """What of it was asked for."""


class StepBatches(PlannedBatches):
    """Batches of whole steps: the ranks' batches of a step stand next to each other in the epoch's order.

    So a step's records depend on the images of a step, and not on how many ranks share them.
    """

    def _share(self, order: Indices) -> Share:
        step = self.batch_size * self.world_size
        keep = len(order) // step * step
        mine = order[:keep].reshape(-1, self.world_size, self.batch_size)[:, self.rank]
        return Share(np.ascontiguousarray(mine).reshape(-1), len(order) - keep)


class ShardFeed:
    """Batches of shards, through the drop-in loader, which brings them to the device."""

    def __init__(self, plan: RealPlan, rank: int, device: DeviceChoice = "cpu") -> None:
        from ..loaders.dataloader import DataLoader

        assert plan.data is not None
        self._shards = plan.open(
            plan.data, engine=plan.engine, shuffle_mode=plan.shuffle, seed=plan.seed, device=device
        )
        self._counter = counter_for(self._shards.files)
        self._requested = plan.decoder
        sampler = StepBatches(
            self._shards, plan.batch_size, shuffle=True, drop_last=True, rank=rank, world_size=plan.num_ranks
        )
        self._loader: DataLoader[Any] = DataLoader(
            self._shards,
            batch_sampler=sampler,
            num_workers=plan.reader_threads,
            prefetch_factor=plan.prefetch_factor if plan.reader_threads else None,
            worker_init_fn=standing_on(near_device(str(device), wanted=plan.placement == "auto")),
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch behind epoch; the reader threads of an epoch end with it."""
        while True:
            yield from self._loader

    def trace(self, recorder: Recorder) -> None:
        """Have reads and decodes noted from now on."""
        trace_set(self._shards, recorder)

    def state_dict(self) -> dict[str, Any]:
        """The loader's place."""
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; ResumeError where it is a place in another order."""
        self._loader.load_state_dict(state)

    def counters(self) -> dict[str, int]:
        """Of the devices under the shards."""
        return self._counter.snapshot()

    def hop_seconds(self) -> dict[str, float]:
        """Of this rank's reader threads."""
        return {} if self._shards.decoding is None else self._loader.tally.hop_seconds()

    def decoded(self) -> Decoded | None:
        """Who decoded, and what was left out."""
        return decoded_of(self._shards.decoding, self._loader.tally, requested=self._requested)

    @property
    def delivered_bytes(self) -> int:
        """What read calls returned so far."""
        return self._shards.reader.delivered_bytes

    @property
    def payload_bytes(self) -> int:
        """What of it was asked for."""
        return self._loader.tally.payload_bytes


class SyntheticFeed:
    """One random batch that is on the device already."""

    delivered_bytes = 0
    payload_bytes = 0

    def __init__(self, plan: RealPlan, device: Any) -> None:
        import torch

        height, width, channels = plan.image_shape
        random = torch.Generator().manual_seed(plan.seed)
        shape = (plan.batch_size, height, width, channels)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random).permute(0, 3, 1, 2)
        labels = torch.randint(0, plan.num_classes, (plan.batch_size,), generator=random)
        self._batch = images.to(device), labels.to(device)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The one batch, for ever."""
        while True:
            yield self._batch

    def trace(self, recorder: Recorder) -> None:
        """Nothing is read."""
        del recorder

    def state_dict(self) -> dict[str, Any]:
        """There is one place only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to go to."""
        del state

    def counters(self) -> dict[str, int]:
        """Nothing is read."""
        return {}

    def hop_seconds(self) -> dict[str, float]:
        """Nothing is decoded."""
        return {}

    def decoded(self) -> Decoded | None:
        """Nothing is decoded."""
        return None


def open_feed(plan: RealPlan, *, rank: int, device: Any) -> Feed:
    """The rank's batches from the plan's source."""
    return SyntheticFeed(plan, device) if plan.source == "synthetic" else ShardFeed(plan, rank, str(device))


def check_data(shards: ShardSet, *, num_classes: int, images_per_step: int, path: str) -> tuple[int, int, int]:
    """The shape (H, W, C) of images that can be trained on.

    Raises FeedError where they differ in size, are no RGB bytes, have no labels or labels beyond the classes, or do
    not fill one step.
    """
    labels, shape = shards.index.labels, image_shape(shards, path=path)
    if labels.min() < 0:
        raise FeedError(f"{path}: record {int(labels.argmin())} has no label; real training needs one for each image")
    if labels.max() >= num_classes:
        raise FeedError(
            f"{path}: record {int(labels.argmax())} has label {int(labels.max())}, the network {num_classes} classes; "
            f"use --set num_classes={int(labels.max()) + 1}"
        )
    if len(shards) < images_per_step:
        raise FeedError(
            f"{path}: {len(shards)} images do not fill a step of {images_per_step}; use a smaller --batch-size, fewer "
            f"ranks, or more data"
        )
    return shape


def image_shape(shards: ShardSet, *, path: str) -> tuple[int, int, int]:
    """The shape (H, W, C) of the bytes that a network takes; FeedError where images have none in common."""
    layout = shards.index.layout
    if shards.decoding is not None:
        if shards.decoding.transform is None:
            raise FeedUsageError(
                f"{path}: encoded images have sizes of their own, and a network needs one; use --transform train or "
                f"validation"
            )
        return shards.decoding.transform.shape
    if len(layout.shape) != 3 or layout.shape[2] != 3 or layout.dtype != "uint8":
        raise FeedError(
            f"{path}: networks need RGB images of one size in bytes; these are {layout.shape} {layout.dtype}"
        )
    height, width, channels = layout.shape
    return height, width, channels
