"""What roads of one library share, over raw images and over encoded ones: torch's workers, and DALI's pipelines.

torch   a map-style data set of one pread per sample -> worker processes -> batches
dali    TFRecords and an index in memory -> a CPU pipeline's reader -> its operators -> batches
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .road import IMAGE, LABEL, MemoryFile, Records, RoadBatch, RoadOptions, read_fully


class WorkerRoad:
    """torch.utils.data.DataLoader with `threads` worker processes, which stay from epoch to epoch."""

    def __init__(self, dataset: Any, options: RoadOptions, *, shuffle: bool = False) -> None:
        from torch.utils.data import DataLoader

        workers = options.threads
        self._loader: Any = DataLoader(
            dataset,
            options.batch_size,
            shuffle=shuffle,
            num_workers=workers,
            prefetch_factor=options.prefetch_factor if workers else None,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers else None,
        )

    def batches(self) -> Iterator[RoadBatch]:
        """One epoch after another; the workers stay."""
        while True:
            for images, labels in self._loader:
                yield RoadBatch(images.numpy(), labels.numpy())

    def close(self) -> None:
        """End the workers."""
        if (iterator := self._loader._iterator) is not None:
            iterator._shutdown_workers()


class PreadSamples:
    """A map-style data set: one read per image, straight into a new tensor; the labels are in memory."""

    def __init__(self, records: Records) -> None:
        self._records = records
        # pread needs no file position: forked workers may share these
        self._files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in records.paths]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        import torch

        records = self._records
        image = torch.empty(records.shape, dtype=torch.uint8)
        file = self._files[records.shards[position]]
        read_fully(file, image.numpy().data.cast("B"), int(records.offsets[position]))
        return image, int(records.labels[position])

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)


class PipelineRoad:
    """A CPU pipeline of DALI with `threads` threads; it reads by `mmap` (its default), `read`, or `direct` (O_DIRECT).

    Who inherits from it says what becomes of an image, and builds it.
    """

    def __init__(self, paths: Sequence[Path], index_files: Sequence[MemoryFile], options: RoadOptions) -> None:
        dali: Any = import_module("nvidia.dali")
        self.version = str(dali.__version__)
        self.engine = options.variant or ("direct" if options.cold else "mmap")
        self._paths, self._index_files = paths, index_files
        self._pipeline: Any = dali.Pipeline(
            options.batch_size,
            options.threads,
            device_id=None,
            prefetch_queue_depth=options.prefetch_factor,
            seed=options.seed,
        )

    def _read(self, **options: Any) -> tuple[Any, Any]:
        """The reader's outputs, image and label of each record; `options` are others of its own."""
        fn: Any = import_module("nvidia.dali.fn")
        feature: Any = import_module("nvidia.dali").tfrecord
        found = fn.readers.tfrecord(
            path=[str(path) for path in self._paths],
            index_path=[file.path for file in self._index_files],
            features={
                IMAGE: feature.FixedLenFeature((), feature.string, ""),
                LABEL: feature.FixedLenFeature([1], feature.int64, -1),
            },
            dont_use_mmap=self.engine != "mmap",
            use_o_direct=self.engine == "direct",
            **options,
        )
        return found[IMAGE], found[LABEL]

    def batches(self) -> Iterator[RoadBatch]:
        """Views over the pipeline's outputs, which lie in one piece."""
        while True:
            images, labels = self._pipeline.run()
            yield RoadBatch(np.asarray(images.as_tensor()), np.asarray(labels.as_tensor()).reshape(-1))
            del images, labels

    def close(self) -> None:
        """End the pipeline's threads."""
        del self._pipeline
        for file in self._index_files:
            file.close()
