"""Roads from shards to batches on the device: ours, the bare loop, torch's, DALI's; and what a block of one is.

    ours    ShardSet.open(..., device="cuda"): CUDA batches, over buffers that were read into
    bare    n threads: preadv into pinned memory, an asynchronous copy to the device, nothing else
    torch   torch.utils.data.DataLoader with worker processes and pin_memory, then .to(device, non_blocking=True)
    dali    DALI's TFRecord reader, and its transfer to the GPU

On the CPU twin a batch is copied into a buffer instead: there is no device that it could go to.  Where the device
decodes, the twin plays one (twin.py).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..loaders.batches import PlannedBatches
from ..loaders.dataloader import DataLoader
from ..loaders.images.decoders import DEVICE_DECODERS
from ..loaders.nearness import standing_on
from ..loaders.plan import Indices, endless_batches
from ..loaders.roads.peers import PreadSamples
from ..loaders.roads.road import IMAGE, LABEL, Records
from ..loaders.shards import ShardSet
from .device import Device
from .rounds import Block
from .twin import TwinDevice

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.evidence import RouteEvidence

AHEAD = 2  # batches that each thread, worker or pipeline of a road reads ahead
PROBED = 16  # every so many pixels of a row and of a column are looked at, on the device


class RoadGoneError(RuntimeError):
    """A road came to an end: it should have given batches for ever."""

    exit_status: ClassVar[int] = 3


class Road(Protocol):
    """Batches on the device for ever; `ahead` of them may be ready before anybody asks."""

    label: str
    ahead: int

    def batches(self) -> Iterator[Tensor]:
        """Images (B, C, H, W) or (B, H, W, C), which the current stream may read; valid until the next one."""

    def close(self) -> None:
        """End threads and processes, close files."""


class Landing:
    """Takes host batches to the device, as a training loop would: on a GPU asynchronously, else into a buffer."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffer: Any = None

    def __call__(self, images: Tensor) -> Tensor:
        """The batch on the device."""
        import torch

        if self._device.is_cuda:
            return images.to("cuda", non_blocking=True)
        if self._buffer is None or self._buffer.shape != images.shape or self._buffer.dtype != images.dtype:
            self._buffer = torch.empty_like(images)
        self._buffer.copy_(images)
        taken: Tensor = self._buffer
        return taken


class EndlessBatches(PlannedBatches):
    """Batches for ever, epoch behind epoch without a seam: a small sample stands for a long set."""

    def _batches(self, epoch: int) -> Iterator[Indices]:
        return endless_batches(
            self.shards.index.shard_sizes,
            seed=self.shards.seed + epoch,
            mode=self.shards.shuffle_mode,
            block_records=self.shards.block_records,
            rank=0,
            world_size=1,
            batch_size=self.batch_size,
        )


class OurRoad:
    """Our loader, whose batches come on the device."""

    def __init__(
        self, folder: Path, device: Device, *, batch_size: int, threads: int, engine: str = "buffered", **options: Any
    ) -> None:
        decoded_there = options.get("decoder") in DEVICE_DECODERS
        to: Any = TwinDevice() if decoded_there and not device.is_cuda else device.name
        self._there = to != "cpu"
        self._set = ShardSet.open(folder, engine=engine, device=to, **options)  # type: ignore[arg-type]
        self._loader: Any = DataLoader(
            self._set,
            batch_sampler=EndlessBatches(self._set, batch_size),
            num_workers=threads,
            prefetch_factor=AHEAD,
            worker_init_fn=standing_on(device.near()),
        )
        self._landing = Landing(device)
        self.ahead = threads * AHEAD
        decoder = f", {self._set.decoding.name}" if self._set.decoding is not None else ""
        self.label = f"iobench {self._set.reader.engine}{decoder}"

    @property
    def slot_bytes(self) -> int:
        """What is read for one image, framing included."""
        return int(self._set.index.layout.slot_bytes)

    @property
    def image_bytes(self) -> int:
        """The pixels of one image."""
        return int(self._set.index.layout.payload_bytes)

    def batches(self) -> Iterator[Tensor]:
        """One endless epoch."""
        with closing(self.labelled()) as pairs:
            for images, _ in pairs:
                yield images
                del images, _

    def labelled(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        """One endless epoch, with labels."""
        with closing(iter(self._loader)) as epoch:
            for images, labels in epoch:
                yield images if self._there else self._landing(images), labels
                del images, labels

    @property
    def delivered_bytes(self) -> int:
        """What read calls returned so far, or who reads in their place."""
        return int(self._set.reader.delivered_bytes)

    def evidence(self) -> RouteEvidence:
        """Which way the bytes took, by what counters saw since this road was opened."""
        found: RouteEvidence = self._loader.evidence()
        return found

    def close(self) -> None:
        """Close the files."""
        self._set.close()


class TorchRoad:
    """torch's DataLoader over a data set of one pread per image, batches pinned and sent."""

    def __init__(self, folder: Path, device: Device, *, batch_size: int, workers: int) -> None:
        from torch.utils.data import DataLoader as TorchLoader

        self._samples = PreadSamples(Records(ShardSet.open(folder).files))
        data: Any = self._samples  # a map-style data set by what it can do
        self._loader: Any = TorchLoader(
            data,
            batch_size,
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            persistent_workers=workers > 0,
            pin_memory=device.is_cuda,
            drop_last=True,
        )
        self._landing = Landing(device)
        self.ahead = max(1, workers) * AHEAD
        self.label = f"torch, {workers} workers{', pin_memory' if device.is_cuda else ''}"

    def batches(self) -> Iterator[Tensor]:
        """One epoch after another; the workers stay."""
        while True:
            for images, _ in self._loader:
                yield self._landing(images)

    def close(self) -> None:
        """End the workers."""
        if (iterator := self._loader._iterator) is not None:
            iterator._shutdown_workers()
        self._samples.close()


class DaliRoad:
    """DALI's TFRecord reader: raw images, taken to the GPU by DALI itself; its files are in the page cache."""

    def __init__(self, folder: Path, device: Device, *, batch_size: int, threads: int) -> None:
        dali: Any = import_module("nvidia.dali")
        fn: Any = import_module("nvidia.dali.fn")
        records = Records(ShardSet.open(folder).files)
        self._index_files = records.index_files()
        self._device, self._landing = device, Landing(device)
        self._pipeline: Any = dali.Pipeline(
            batch_size, threads, device_id=0 if device.is_cuda else None, prefetch_queue_depth=AHEAD
        )
        with self._pipeline:
            found = fn.readers.tfrecord(
                path=[str(path) for path in records.paths],
                index_path=[file.path for file in self._index_files],
                features=features_of(dali.tfrecord),
            )
            images = fn.reshape(found[IMAGE], shape=list(records.shape))
            self._pipeline.set_outputs(images.gpu() if device.is_cuda else images, found[LABEL])
        self._pipeline.build()
        self.ahead = AHEAD
        self.label = f"DALI {dali.__version__} TFRecord"

    def batches(self) -> Iterator[Tensor]:
        """Views over the pipeline's outputs."""
        while True:
            images, _ = self._pipeline.run(*self._device.compute_stream())
            yield from_dali(images, self._device, self._landing)
            del images

    def close(self) -> None:
        """End the pipeline's threads."""
        del self._pipeline
        for file in self._index_files:
            file.close()


def features_of(feature: Any) -> dict[str, Any]:
    """What DALI is to find in a record."""
    return {
        IMAGE: feature.FixedLenFeature((), feature.string, ""),
        LABEL: feature.FixedLenFeature([1], feature.int64, -1),
    }


def from_dali(images: Any, device: Device, landing: Landing) -> Tensor:
    """A pipeline's output as one tensor on the device, without a copy on a GPU."""
    import numpy as np
    import torch.utils.dlpack

    if device.is_cuda:
        return torch.utils.dlpack.from_dlpack(images.as_tensor())
    return landing(torch.from_numpy(np.asarray(images.as_tensor())))


def block_of(road: Road, device: Device) -> Block:
    """Blocks of a road: images per second; what lay ready before the clock started is used up first.

    A few bytes of each image are added up on the device, so that a batch that is not there yet would be waited for.
    """
    batches = road.batches()

    def run(seconds: float) -> float:
        import torch

        seen = torch.zeros((), dtype=torch.float32, device=device.name)
        for _ in range(road.ahead + 1):
            seen += probe(_next(batches, road))
        device.synchronize()
        begin, images = perf_counter(), 0
        while not images or perf_counter() - begin < seconds:
            batch = _next(batches, road)
            seen += probe(batch)
            images += len(batch)
            del batch
        device.synchronize()
        return images / (perf_counter() - begin)

    return run


def probe(images: Tensor) -> Tensor:
    """The sum of a few values of every image, on the device."""
    import torch

    return images[:, ::PROBED, ::PROBED, ::PROBED].sum(dtype=torch.float32)


def _next(batches: Iterator[Tensor], road: Road) -> Tensor:
    batch = next(batches, None)
    if batch is None:
        raise RoadGoneError(f"{road.label}: gave no more batches; see its log")
    return batch
