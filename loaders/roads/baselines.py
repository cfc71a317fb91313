"""Baselines: the roads others take over the same raw TFRecord shards, and ours, behind one narrow protocol.

    preadv     the bare loop (bare_loop.py)
    torch      torch's DataLoader: a data set of one pread per sample (map), or the tfrecord package's (iterable)
    tfrecord   the tfrecord package's reader, record by record, in the caller's thread
    dali       NVIDIA DALI's TFRecord reader in a CPU pipeline
    iobench    ShardSet and DataLoader of this package

Each gives batches for ever, epoch behind epoch: `images` on the host (B, H, W, C) uint8 and `labels` (B,) int64.  Each
is written as well as its library allows, with no copy that the library does not make itself.  Index files that
libraries ask for live in memory (memfd), so that nothing is left behind however a process ends.  Roads over encoded
images, which RoadOptions.transform asks for, are those of image_roads.py.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ... import __version__
from ..engines.readers import BufferedReader
from ..formats.tensors import SUFFIX
from ..plan import ShuffleMode
from ..traced import Recorder, trace_set
from .bare_loop import PreadvRoad
from .image_roads import ROADS as IMAGE_ROADS
from .image_roads import image_candidates
from .road import IMAGE, LABEL, MemoryFile, Records, Road, RoadBatch, RoadError, RoadOptions, read_fully


class TorchRoad:
    """torch.utils.data.DataLoader with `threads` worker processes over a map-style or an iterable data set."""

    def __init__(self, records: Records, options: RoadOptions) -> None:
        import torch
        from torch.utils.data import DataLoader

        workers = options.threads
        self.version = str(torch.__version__)
        self.engine = options.variant or "map"
        self._index_files = records.index_files(with_end=True) if self.engine == "iterable" and workers else []
        self._samples = _Samples(records) if self.engine == "map" else None
        dataset: Any = self._samples or _chain(records, self._index_files)
        self._loader: Any = DataLoader(
            dataset,
            options.batch_size,
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
        """End the workers, close the files."""
        if (iterator := self._loader._iterator) is not None:
            iterator._shutdown_workers()
        for file in self._index_files:
            file.close()
        if self._samples is not None:
            self._samples.close()


class _Samples:
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


def _chain(records: Records, index_files: Sequence[MemoryFile]) -> Any:
    """The tfrecord package's data set of each shard, one behind the other; each splits itself among the workers."""
    from tfrecord.torch.dataset import TFRecordDataset
    from torch.utils.data import ChainDataset

    # Without workers the package starts at a random record when it is given an index.
    names: list[str] | list[None] = [file.path for file in index_files] or [None] * len(records.paths)
    transform = partial(_sample, shape=records.shape)
    return ChainDataset(
        [
            TFRecordDataset(str(path), name, {IMAGE: "byte", LABEL: "int"}, transform=transform)
            for path, name in zip(records.paths, names, strict=True)
        ]
    )


def _sample(features: dict[str, Any], *, shape: tuple[int, int, int]) -> tuple[npt.NDArray[np.uint8], int]:
    return np.frombuffer(features[IMAGE], np.uint8).reshape(shape), int(features[LABEL][0])


class TFRecordRoad:
    """The tfrecord package's loader: records parsed one by one, each image copied into a fresh batch."""

    engine = "loader"

    def __init__(self, records: Records, options: RoadOptions) -> None:
        self.version = version("tfrecord")
        self._records, self._options = records, options

    def batches(self) -> Iterator[RoadBatch]:
        """Whole batches, across the seams between shards and epochs."""
        size = self._options.batch_size
        with closing(self._features()) as records:
            while True:
                images = np.empty((size, *self._records.shape), np.uint8)
                labels = np.empty(size, np.int64)
                for slot, features in enumerate(itertools.islice(records, size)):
                    images[slot], labels[slot] = _sample(features, shape=self._records.shape)
                yield RoadBatch(images, labels)

    def close(self) -> None:
        """Nothing stays open."""

    def _features(self) -> Any:
        from tfrecord.reader import tfrecord_loader

        for path in itertools.cycle(self._records.paths):
            yield from tfrecord_loader(str(path), None, {IMAGE: "byte", LABEL: "int"})


class DaliRoad:
    """DALI's TFRecord reader and a reshape in a CPU pipeline: `mmap` (its default), `read`, or `direct` (O_DIRECT)."""

    def __init__(self, records: Records, options: RoadOptions) -> None:
        dali: Any = import_module("nvidia.dali")
        fn: Any = import_module("nvidia.dali.fn")
        self.version = str(dali.__version__)
        self.engine = options.variant or ("direct" if options.cold else "mmap")
        self._index_files = records.index_files()
        feature = dali.tfrecord
        self._pipeline: Any = dali.Pipeline(
            options.batch_size, options.threads, device_id=None, prefetch_queue_depth=options.prefetch_factor
        )
        with self._pipeline:
            found = fn.readers.tfrecord(
                path=[str(path) for path in records.paths],
                index_path=[file.path for file in self._index_files],
                features={
                    IMAGE: feature.FixedLenFeature((), feature.string, ""),
                    LABEL: feature.FixedLenFeature([1], feature.int64, -1),
                },
                dont_use_mmap=self.engine != "mmap",
                use_o_direct=self.engine == "direct",
            )
            self._pipeline.set_outputs(fn.reshape(found[IMAGE], shape=list(records.shape)), found[LABEL])
        self._pipeline.build()

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


class IobenchRoad:
    """Ours: DataLoader over a ShardSet; `engine` decides how it reads."""

    def __init__(self, records: Records, options: RoadOptions) -> None:
        from ..dataloader import DataLoader
        from ..shards import ShardSet

        evicting = options.cold and options.engine == "buffered"
        self._set = ShardSet.open(
            records.paths,
            engine=BufferedReader(evict_behind=True) if evicting else options.engine,
            device="cpu",
            shuffle_mode=options.shuffle,
            seed=options.seed,
        )
        self.version = __version__
        self.engine = self._set.reader.engine
        self._loader: Any = DataLoader(
            self._set,
            batch_size=options.batch_size,
            shuffle=options.shuffle != "off",
            num_workers=options.threads,
            prefetch_factor=options.prefetch_factor if options.threads else None,
        )

    def trace(self, recorder: Recorder) -> None:
        """Have reads and decodes noted from now on."""
        trace_set(self._set, recorder)

    def batches(self) -> Iterator[RoadBatch]:
        """One epoch after another."""
        while True:
            with closing(iter(self._loader)) as epoch:
                for images, labels in epoch:
                    yield RoadBatch(images.permute(0, 2, 3, 1).numpy(), labels.numpy())
                    del images, labels

    def close(self) -> None:
        """Close the files."""
        self._set.close()


class _Kind(NamedTuple):
    """What is known of a road before it is opened; `packages` are needed whatever the variant."""

    open: Callable[[Records, RoadOptions], Road]
    packages: tuple[str, ...]
    shuffles: tuple[ShuffleMode, ...] = ("off",)
    reads_tensors: bool = True


_KINDS: dict[str, _Kind] = {
    "iobench": _Kind(IobenchRoad, ("torch",), ("off", "shards", "blocks", "records")),
    "preadv": _Kind(PreadvRoad, (), ("off", "records")),
    "torch": _Kind(TorchRoad, ("torch",)),
    "tfrecord": _Kind(TFRecordRoad, ("tfrecord",), reads_tensors=False),
    "dali": _Kind(DaliRoad, ("nvidia.dali",), reads_tensors=False),
}
OURS = "iobench"
PEERS: tuple[str, ...] = tuple(name for name in _KINDS if name != OURS)
IMAGE_PEERS: tuple[str, ...] = tuple(name for name in IMAGE_ROADS if name != OURS)  # those that decode images
_EXTRAS = {"nvidia.dali": ("NVIDIA DALI", "gpu"), "tfrecord": ("the tfrecord package", "dev")}


def missing(name: str) -> str | None:
    """Why road `name` cannot be taken here and how to get what it needs; None where it can."""
    for package in _KINDS[name].packages:
        if not _installed(package):
            title, extra = _EXTRAS.get(package, (package, ""))
            return f"{title} is not installed; pip install 'iobench{f'[{extra}]' if extra else ''}'"
    return None


def open_road(name: str, paths: Sequence[Path], options: RoadOptions) -> Road:
    """Open road `name` over these shards; raises RoadError, and what reading and indexing the shards raises."""
    if name not in _KINDS:
        raise RoadError(f"road {name!r} is not known; known are {', '.join(_KINDS)}")
    if not options.transform and options.shuffle not in _KINDS[name].shuffles:
        raise RoadError(
            f"road {name}: shuffle {options.shuffle!r} is not compared; take {' or '.join(_KINDS[name].shuffles)}"
        )
    if reason := missing(name):
        raise RoadError(f"road {name}: {reason}")
    if options.transform:
        if name not in IMAGE_ROADS:
            raise RoadError(f"road {name}: it decodes no images; compare with {' or '.join(IMAGE_PEERS)}")
        return IMAGE_ROADS[name](paths, options)
    if paths[0].suffix == SUFFIX and not _KINDS[name].reads_tensors:
        raise RoadError(f"road {name}: {paths[0].name} is a tensor shard, and it reads TFRecord only")
    return _KINDS[name].open(Records(paths), options)


def candidates(name: str, options: RoadOptions) -> list[RoadOptions]:
    """The ways a road can be taken with at most `options.threads` threads; the fastest of them is its best."""
    if options.transform:
        return image_candidates(name, options)
    if name == "torch":
        workers = sorted({0, 1, options.threads})
        variants = ["map", *(["iterable"] if _installed("tfrecord") else [])]
        return [replace(options, variant=variant, threads=number) for variant in variants for number in workers]
    if name == "dali":
        # mapped pages cannot be evicted, so a cold comparison takes the other two
        variants = ["read", "direct"] if options.cold else ["mmap", "read"]
        return [replace(options, variant=variant) for variant in variants]
    if name == "tfrecord":
        return [replace(options, threads=0)]  # it reads in the caller's thread
    return [options]


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a package inside one that is not there
        return False
