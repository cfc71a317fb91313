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

from ..formats.tensors import SUFFIX
from ..plan import ShuffleMode
from .bare_loop import PreadvRoad
from .image_roads import ROADS as IMAGE_ROADS
from .image_roads import image_candidates
from .ours import IobenchRoad
from .peers import PipelineRoad, PreadSamples, WorkerRoad
from .road import IMAGE, LABEL, MemoryFile, Records, Road, RoadBatch, RoadError, RoadOptions


class TorchRoad(WorkerRoad):
    """torch.utils.data.DataLoader with `threads` worker processes over a map-style or an iterable data set."""

    def __init__(self, records: Records, options: RoadOptions) -> None:
        import torch

        self.version = str(torch.__version__)
        self.engine = options.variant or "map"
        by_worker = self.engine == "iterable" and options.threads > 0
        self._index_files = records.index_files(with_end=True) if by_worker else []
        self._samples = PreadSamples(records) if self.engine == "map" else None
        super().__init__(self._samples or _chain(records, self._index_files), options)

    def close(self) -> None:
        """End the workers, close the files."""
        super().close()
        for file in self._index_files:
            file.close()
        if self._samples is not None:
            self._samples.close()


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


class DaliRoad(PipelineRoad):
    """DALI's TFRecord reader and a reshape."""

    def __init__(self, records: Records, options: RoadOptions) -> None:
        fn: Any = import_module("nvidia.dali.fn")
        super().__init__(records.paths, records.index_files(), options)
        with self._pipeline:
            image, label = self._read()
            self._pipeline.set_outputs(fn.reshape(image, shape=list(records.shape)), label)
        self._pipeline.build()


class _Kind(NamedTuple):
    """What is known of a road before it is opened; `packages` are needed whatever the variant."""

    open: Callable[[Records, RoadOptions], Road]
    packages: tuple[str, ...]
    shuffles: tuple[ShuffleMode, ...] = ("off",)
    reads_tensors: bool = True


_KINDS: dict[str, _Kind] = {
    "iobench": _Kind(
        lambda records, options: IobenchRoad(records.paths, options), ("torch",), ("off", "shards", "blocks", "records")
    ),
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
