"""Shard sets: a map-style data set over the records of several files, or of objects on a server.

path | glob | address | list -> shards -> ShardIndex -> ShardSet: len, [i], __getitems__
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from .buffers import BufferPool
from .decode import buffer_bytes
from .destinations.choice import DeviceChoice, check_choice, reads_into_device
from .discovery import ShardSource
from .engines.choice import EngineName, open_reader, refuse_engine
from .engines.readers import Reader
from .evidence import Route
from .formats.fields import Fields, Shape
from .formats.image_files import ImageFiles
from .formats.ragged import pool_bytes
from .images.choice import choose_decoding, device_decoder
from .images.decoders import DecoderName
from .images.decoding import OnError
from .index import ShardIndex
from .opening import open_index
from .plan import SHUFFLE_MODES, Indices, ShuffleMode
from .prefetch import Prefetcher, RawBatch, Tally
from .remote import ShardPath, local_files
from .route import device_for, refuse_route
from .transforms import ImageTransform

if TYPE_CHECKING:
    import torch
    from torch.utils.data import ConcatDataset, Dataset

    from .destinations.destination import Destination
    from .destinations.freight import Freight

    _Samples = Dataset[tuple[torch.Tensor, int]]
else:
    _Samples = object  # opening a data set does not import torch

BLOCK_BYTES = 8 << 20


class ShardSet(_Samples):
    """A map-style data set over shards: `len(s)`, `s[i] -> (image CHW uint8, int)`, `s.__getitems__(list)`.

    Where samples differ in size (`index.extents`), `s[i]` is (tensor, int) and a batch (list of tensors, labels).
    Encoded images (`index.layout.codec`) are decoded; an ImageTransform makes them samples of one size, and a batch.

    Open one with `ShardSet.open`.  A plain torch DataLoader works on it; iobench's takes the fast road, and holds the
    bytes to `require_route` at the end of each epoch (RouteError).
    """

    def __init__(
        self,
        paths: Sequence[ShardPath],
        index: ShardIndex,
        reader: Reader,
        *,
        shuffle_mode: ShuffleMode = "records",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        require_route: Route | None = None,
        transform: Callable[[Any], Any] | ImageTransform | None = None,
        engine_reason: str = "handed in",
        decoder: DecoderName = "auto",
        on_error: OnError = "raise",
        device: DeviceChoice = "cpu",
    ) -> None:
        if shuffle_mode not in SHUFFLE_MODES:
            raise ValueError(f"shuffle_mode {shuffle_mode!r} is not one of {', '.join(SHUFFLE_MODES)}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of world_size {world_size}; ranks count from 0")
        if not hasattr(seed, "__index__") or seed < 0:
            raise ValueError(f"seed {seed!r} is no whole number of 0 or more")
        device = device_for(require_route, device)
        refuse_route(require_route, engine=reader.engine, device=device)
        there = device_decoder(decoder, index, transform, device)
        device = "cuda" if there is not None and device == "auto" else device
        check_choice(device)
        self.decoding = choose_decoding(index, transform, decoder, on_error, require_route=require_route, there=there)
        refuse_engine(reader.engine, index)
        self.paths: Sequence[ShardPath] = paths if isinstance(paths, ImageFiles) else tuple(paths)
        self.index = index
        self.reader: Reader = reader
        self.engine_reason = engine_reason
        self.shuffle_mode = shuffle_mode
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.require_route = require_route
        self.device = device
        self.transform = None if isinstance(transform, ImageTransform) else transform
        self.block_records = max(1, BLOCK_BYTES // index.layout.slot_bytes)

    @classmethod
    def open(
        cls,
        source: ShardSource,
        *,
        engine: EngineName | Reader = "auto",
        device: DeviceChoice = "auto",
        shuffle_mode: ShuffleMode = "records",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        require_route: Route | None = None,
        decoder: DecoderName = "auto",
        transform: Callable[[Any], Any] | ImageTransform | None = None,
        on_error: OnError = "raise",
        fields: Fields | None = None,
        shape: Shape | None = None,
        dtype: str | None = None,
    ) -> ShardSet:
        """Open the shards of a folder, a glob, one file, or a list of files; builds the index on first use.

        Or of an S3 prefix (s3://bucket/prefix), one object's address (s3://bucket/key, https://host/file.tfrecord), or
        a list of such: `auto` reads them with kvikio where a CUDA driver is, else with `remote`, which needs none.

        `engine` is how files are read: `buffered`, `direct` (O_DIRECT), `mmap`, `kvikio`; `engine_reason` says why
        `auto` has taken which.  `shuffle_mode` is what `shuffle=True` of iobench's DataLoader means: `records` (any
        order), `blocks` (runs of some MB in any order, one read each), `shards` or `off`; the order is a function of
        `seed` and the epoch.  `rank` of `world_size` gets its part of each epoch.  `require_route` is the way that
        bytes must be shown to take, as `host` or `gds`: RouteError at the end of an epoch in which they are not.

        `device` is where iobench's DataLoader brings batches: `auto` is the GPU that the process works with by then,
        else host memory; `cpu`, `cuda`, `cuda:1`.  DestinationError where it is not there.  Samples, and batches of
        torch's own loader, are in host memory.

        `decoder` is of encoded images: `libjpeg-turbo` and `simplejpeg` decode in the reader threads, and `auto`
        takes the first of them that is there; `nvimgcodec` and `dali` whole batches on the GPU that these go to, where
        an ImageNetTrain or ImageNetValidation makes samples of them by the same random numbers.  What they cannot
        decode the CPU does (`tally.num_by_host` of the loader).

        `transform` takes a batch of images (B, C, H, W) and runs once per batch; of `loaders.transforms` it works on
        each encoded image, or raw one of uint8 (H, W, 3), in the reader threads.  Of images that cannot be decoded the
        first is an ImageError, or with `on_error="skip"` they are left out, and told in the loader's `tally`.  `fields`
        names the features of TFRecords where they are not TensorFlow's own; `shape` (H, W, C) is needed where the
        shards do not say it, and `dtype` is that of the pixels, uint8 unless given or said by dataset.json.  Raises
        ShardSetError, ShardFormatError, LayoutError, TensorShardError, CompressedShardError or TFRecordError with the
        file and the way out, ObjectError or RemotePathError with the address; EngineError for an engine that does not
        read such shards, DirectRefusedError where `direct` is not possible, RouteRefusedError where `require_route` is
        not.
        """
        device = device_for(require_route, device)
        refuse_route(require_route, engine=engine if isinstance(engine, str) else engine.engine, device=device)
        check_choice(device)
        paths, index = open_index(source, fields=fields, shape=shape, dtype=dtype)
        reason = "handed in"
        if isinstance(engine, str):
            refuse_engine(engine, index)
            encoded = index.layout.codec is not None
            into_device = not encoded and reads_into_device(device, transform)
            reader, reason = open_reader(engine, paths[0], encoded=encoded, into_device=into_device)
        else:
            reader = engine
        return cls(
            paths,
            index,
            reader,
            shuffle_mode=shuffle_mode,
            seed=seed,
            rank=rank,
            world_size=world_size,
            require_route=require_route,
            transform=transform,
            engine_reason=reason,
            decoder=decoder,
            on_error=on_error,
            device=device,
        )

    def __repr__(self) -> str:
        extents, layout = self.index.extents, self.index.layout
        samples = extents.said if extents is not None else f"{' x '.join(map(str, layout.shape))} {layout.dtype}"
        where = f"{len(self.paths)} {'file' if self.index.classes else 'shard'}{'s' * (len(self.paths) != 1)}"
        return f"<ShardSet of {len(self)} records, {samples}, in {where}, read with {self.reader.engine}>"

    def __len__(self) -> int:
        return self.index.num_records

    def __add__(self, other: Dataset[Any]) -> ConcatDataset[Any]:
        """Both, one after the other, as of torch's data sets; torch's loader reads them, and iobench's as torch's."""
        from torch.utils.data import ConcatDataset

        return ConcatDataset([self, other])

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        """Image (C, H, W) and label of one record; -1 where there are no labels."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[tuple[torch.Tensor, int]]:
        """Several records, read in file order: a list of (image CHW, label), each a view of one buffer."""
        if not len(positions):
            return []
        images, labels = self.to_tensors(self.read_batch(self.record_numbers(positions)))
        return list(zip(images, labels.tolist(), strict=True))

    def record_numbers(self, positions: Iterable[SupportsIndex]) -> Indices:
        """Positions, as a sampler gives them, as record numbers; negative ones count from the end, as in a list."""
        numbers = np.fromiter(map(operator.index, positions), dtype=np.int64)
        outside = (numbers < -len(self)) | (numbers >= len(self))
        if outside.any():
            raise IndexError(f"record {numbers[outside][0]} is not one of {len(self)}")
        return np.where(numbers < 0, numbers + len(self), numbers)

    def read_batch(self, records: Indices) -> RawBatch:
        """Read these records now, in this thread.

        There is no epoch here: what a transform draws comes from torch's generator, as it does in torch's own loader.
        """
        epoch = 0
        if self.decoding is not None and self.decoding.draws:
            import torch

            epoch = int(torch.randint(1 << 62, ()))
        pool = BufferPool(0, num_free_kept=1)  # it grows to these records, whatever the others of the set take
        alone = iter([records])
        return next(self.prefetch(alone, batch_size=len(records), num_threads=0, depth=1, pool=pool, epoch=epoch))

    def prefetch(
        self,
        batches: Iterator[Indices],
        *,
        batch_size: int,
        num_threads: int,
        depth: int,
        pool: BufferPool | None = None,
        tally: Tally | None = None,
        timeout_s: float = 0.0,
        on_thread_start: Callable[[int], None] | None = None,
        epoch: int = 0,
        destination: Destination | None = None,
    ) -> Prefetcher:
        """Read `batches` of record numbers ahead with `num_threads` threads; samples are drawn as `epoch` has them.

        With a `destination` the batches are brought there; the pool must then be made for it, too.
        """
        return Prefetcher(
            self,
            batches,
            pool=pool or self.new_pool(batch_size, depth=depth, destination=destination),
            tally=tally or Tally(),
            num_threads=num_threads,
            depth=depth,
            timeout_s=timeout_s,
            on_thread_start=on_thread_start,
            epoch=epoch,
            image_pool=None if destination is None else destination.pinned_pool(0),
            freight=None if destination is None else self.freight(destination),
        )

    def freight(self, destination: Destination) -> Freight:
        """How the set's batches travel to a destination; DestinationUsageError where they cannot."""
        from .destinations.freight import Freight

        return Freight(destination, self.index, self.decoding, self.reader)

    def new_pool(self, batch_size: int, *, depth: int, destination: Destination | None = None) -> BufferPool:
        """Buffers for batches of this size: `depth` being read, and two between the loop's hands."""
        alignment = self.reader.alignment_bytes
        if self.index.extents is not None:
            size = pool_bytes(self.index.extents, batch_size=batch_size, alignment=alignment)
        else:
            size = buffer_bytes(self.index.layout, batch_size=batch_size, alignment=alignment)
        if destination is not None:
            return self.freight(destination).pool(size, num_records=batch_size, num_free_kept=depth + 2)
        return BufferPool(size, num_free_kept=depth + 2)

    def to_tensors(self, batch: RawBatch) -> tuple[Any, torch.Tensor]:
        """(images (B, C, H, W) over pool memory in channels-last order, labels int64 (B)), transform applied.

        Of a ragged set the first is a list of B tensors, each with its own shape.
        """
        import torch

        images: torch.Tensor | list[torch.Tensor]
        if batch.labels is not None:  # on a device already
            there: Any = batch.images
            images = there if isinstance(there, list) else there.permute(0, 3, 1, 2)
            return (images if self.transform is None else self.transform(images)), batch.labels
        if self.decoding is not None and isinstance(batch.images, list):
            images = [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in batch.images]
        elif self.decoding is not None and self.decoding.transform is not None:
            images = torch.from_numpy(batch.images).view(self.decoding.transform.dtype).permute(0, 3, 1, 2)
        elif isinstance(batch.images, list):
            images = [torch.from_numpy(sample) for sample in batch.images]
        else:
            images = torch.from_numpy(batch.images).permute(0, 3, 1, 2)
        labels = torch.from_numpy(self.index.labels[batch.records])
        return (images if self.transform is None else self.transform(images)), labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of an image folder's classes, by label; of shards, which have none, nothing."""
        return self.index.classes

    @property
    def files(self) -> Sequence[Path]:
        """The shards as files, for who reads files only; RemotePathError where they are objects on a server."""
        return self.paths if isinstance(self.paths, ImageFiles) else local_files(self.paths, user="this")

    def close(self) -> None:
        """Close the files."""
        self.reader.close()
