"""What `iobench load` measures, opened: the set, its reader, the counters of its way, threads and depth, the loader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..loaders.destinations.choice import cuda_missing, open_device
from ..loaders.destinations.device import DestinationError, Device
from ..loaders.engines.choice import EngineName, open_reader, refuse_engine
from ..loaders.engines.readers import BufferedReader, DirectReader, Reader
from ..loaders.evidence import background_rate
from ..loaders.formats.image_files import ImageFiles
from ..loaders.formats.records import ShardIndex
from ..loaders.nearness import Near, standing_on
from ..loaders.opening import open_index
from ..loaders.page_cache import cache_fraction, evict, warm
from ..loaders.plan import ShuffleMode
from ..loaders.probe import Suggestion, suggest
from ..loaders.remote import RemotePath, ShardPath
from ..loaders.route import counter_of, files_of
from ..loaders.shards import ShardSet
from ..loaders.traced import Recorder, trace_set
from .choice import choose_engine
from .image_hops import ImageConfig
from .limits import require_memory, require_room_to_warm
from .placement import Placement, near_readers
from .workload import PageCache, WorkloadUsageError

if TYPE_CHECKING:
    from ..loaders.counters.counter import CounterSet
    from ..loaders.dataloader import DataLoader


_OF_ENCODED = ("transform", "decoder")

Prepared = Callable[[str, int, int], None]  # which part of the preparation, files done, all of them


class LoadConfig(ImageConfig):
    """What the loader reads, how, and for how long.  Threads and depth that are not given come from a probe.

    `placement` says which cores reader threads stand on (placement.py).
    """

    engine: EngineName = "auto"
    destination: Literal["host", "gpu"] = "host"
    batch_size: Annotated[int, Field(ge=1)] = 64
    shuffle: ShuffleMode = "blocks"
    num_workers: Annotated[int, Field(ge=0, le=64)] | None = None
    prefetch_factor: Annotated[int, Field(ge=1, le=64)] | None = None
    page_cache: PageCache = "cold"
    seconds: Annotated[float, Field(gt=0, le=600)] = 1.0
    blocks: Annotated[int, Field(ge=2, le=1000)] = 8
    seed: Annotated[int, Field(ge=0)] = 0
    placement: Placement = "auto"


@dataclass(frozen=True, slots=True)
class Load:
    """All that is there once the set is open, its files are cold or warm as asked, and threads and depth are chosen.

    `files` are those of this machine, none for objects on a server; `looked_at` are those whose residency is asked.
    `background` is what others read meanwhile, in bytes/s; `near` is where reader threads stand.
    """

    config: LoadConfig
    device: Device | None
    shards: ShardSet
    engine_reason: str
    files: Sequence[Path]
    looked_at: Sequence[Path]
    counter: CounterSet
    background: float
    resident: float | None
    batch_size: int
    chosen: Suggestion
    near: Near
    loader: DataLoader[Any]

    @property
    def total_bytes(self) -> int:
        """Of all shards."""
        return sum(stamp.size_bytes for stamp in self.shards.index.stamps)


def open_load(
    path: Path | str, config: LoadConfig, *, device: Device | None, recorder: Recorder | None, told: Prepared | None
) -> Load:
    """Open the set and its loader; raises what opening and probing the shards raises."""
    device = device or _device_of(config)
    shards, reason = _open_set(path, config, recorder, device, told)
    cold, files = config.page_cache == "cold", files_of(shards.paths)
    if not cold:
        require_room_to_warm(sum(stamp.size_bytes for stamp in shards.index.stamps))
    counter = counter_of(shards.paths)
    background = background_rate(counter) or 0.0
    _prepare(files, cold=cold, told=told)
    batch_size = min(config.batch_size, len(shards))
    chosen = _choose(shards, config, batch_size)
    if chosen.rates:  # the probe has read
        _prepare(files, cold=cold, told=told)
    looked_at = files.spread() if isinstance(files, ImageFiles) else files
    resident = cache_fraction(looked_at)
    _require_batches(shards, chosen, batch_size)
    near = near_readers(
        config.placement,
        gpu=None if device is None else device.name,
        sample=shards.paths[0],
        encoded=shards.index.layout.codec is not None,
    )
    loader = _new_loader(shards, config, chosen, batch_size, near)
    measured = config, device, shards, reason, files, looked_at, counter, background, resident, batch_size
    return Load(*measured, chosen, near, loader)


def _device_of(config: LoadConfig) -> Device | None:
    """The GPU that batches go to; None is host memory, DestinationError where there is none."""
    if config.destination == "host":
        return None
    if (missing := cuda_missing()) is not None:
        raise DestinationError(f"--destination gpu is not possible: {missing}; use --destination host")
    return open_device("cuda")


def _open_set(
    path: Path | str, config: LoadConfig, recorder: Recorder | None, device: Device | None, told: Prepared | None
) -> tuple[ShardSet, str]:
    """The set that is measured, with the reader that was asked for, and why it is that one."""
    progress = None if told is None else partial(told, "index")
    paths, index = open_index(path, **config.sample_options(), progress=progress)
    index = config.index_of(index)
    refuse_engine(config.engine, index)
    encoded = index.layout.codec is not None
    reader, reason = _open_reader(config, paths[0], encoded=encoded, into_device=device is not None and not encoded)
    shards = ShardSet(
        paths,
        index,
        reader,
        shuffle_mode=config.shuffle,
        seed=config.seed,
        decoder="auto" if config.decoder == "none" else config.decoder,
        transform=config.transform_of(index),
        on_error=config.on_error,
        device=device or "cpu",
    )
    if recorder is not None:
        trace_set(shards, recorder)
    return shards, reason


def _prepare(files: Sequence[Path], *, cold: bool, told: Prepared | None) -> None:
    """Put the files out of the page cache, or into it."""
    if cold:
        evict(files, progress=None if told is None else partial(told, "evict"))
    else:
        warm(files, progress=None if told is None else partial(told, "warm"))


def _require_batches(shards: ShardSet, chosen: Suggestion, batch_size: int) -> None:
    """Raise where the batches on their way and in the loop's hands do not fit into memory."""
    num_batches = max(1, chosen.num_workers * (chosen.prefetch_factor or 1)) + 2
    output_bytes = 0 if shards.decoding is None else shards.decoding.output_bytes(1)
    require_memory(
        num_batches * batch_size * (shards.index.layout.slot_bytes + output_bytes),
        f"{num_batches} batches of {batch_size} images",
        way_out="use a smaller --batch-size, fewer --num-workers or a smaller prefetch_factor",
    )


def _choose(shards: ShardSet, config: LoadConfig, batch_size: int) -> Suggestion:
    """Threads and depth: those that were given, the others chosen."""
    shuffle, given = config.shuffle != "off", config.prefetch_factor
    chosen = suggest(shards, batch_size=batch_size, shuffle=shuffle, num_workers=config.num_workers)
    return chosen if given is None or not chosen.num_workers else replace(chosen, prefetch_factor=given)


def _open_reader(config: LoadConfig, sample: ShardPath, *, encoded: bool, into_device: bool) -> tuple[Reader, str]:
    cold = config.page_cache == "cold"
    if isinstance(sample, RemotePath):
        if not cold:
            raise WorkloadUsageError(f"{sample}: objects on a server are in no page cache here; leave --page-cache out")
        return open_reader(config.engine, sample, encoded=encoded, into_device=into_device)
    if config.engine == "mmap" and cold:
        raise WorkloadUsageError("engine mmap shows the page cache itself; use --page-cache warm, or --engine direct")
    if config.engine in ("mmap", "kvikio", "remote"):
        return open_reader(config.engine, sample, evict_behind=cold, into_device=into_device)
    engine, reason = choose_engine(config.engine, sample, page_cache=config.page_cache)
    return (DirectReader() if engine == "direct" else BufferedReader(evict_behind=cold)), reason


def _new_loader(
    shards: ShardSet, config: LoadConfig, chosen: Suggestion, batch_size: int, near: Near
) -> DataLoader[Any]:
    from ..loaders.dataloader import DataLoader

    return DataLoader(
        shards,
        batch_size=batch_size,
        shuffle=config.shuffle != "off",
        num_workers=chosen.num_workers,
        prefetch_factor=chosen.prefetch_factor,
        drop_last=True,
        worker_init_fn=standing_on(near),
    )


def asked_in_vain(config: LoadConfig, index: ShardIndex) -> list[str]:
    """Settings of encoded images that were given for others."""
    given = [f"--{name}" for name in _OF_ENCODED if name in config.model_fields_set and getattr(config, name) != "none"]
    if not given or index.layout.codec is not None or config.decoder == "none":
        return []
    return [f"{' and '.join(given)} had no effect: these are no encoded images, and are handed over as they are stored"]
