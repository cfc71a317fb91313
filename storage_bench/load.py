"""`iobench load`: what our loader delivers by itself, with nothing behind it but a touch of every page.

One endless pass over the data is cut into time blocks; the evidence covers the whole of it.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..loaders.destinations.choice import cuda_missing, open_device
from ..loaders.destinations.device import DestinationError, Device
from ..loaders.engines.choice import EngineName, open_reader, refuse_engine
from ..loaders.engines.readers import BufferedReader, DirectReader, Reader
from ..loaders.evidence import RouteEvidence, background_rate, judge, moved, process_read_bytes
from ..loaders.formats.image_files import ImageFiles
from ..loaders.page_cache import cache_fraction, evict, warm
from ..loaders.plan import ShuffleMode
from ..loaders.prefetch import Tally
from ..loaders.probe import Suggestion, suggest
from ..loaders.remote import RemotePath, ShardPath
from ..loaders.route import by_own_counters, copied_on, counter_of, files_of, own_counters
from ..loaders.shards import ShardSet, open_index
from ..loaders.traced import Recorder, trace_set
from ..results.record import Metric, Point, not_measured
from ..results.stats import rate_flags, summarise
from .choice import choose_engine
from .evidence import cold_scope_of, doubts, read_path
from .image_hops import ImageConfig, ImageHops, hops_of, warnings_of
from .limits import require_memory, require_room_to_warm
from .takers import DeviceTaker, HostTaker, Taker, TimeBlock, noted, time_blocks
from .workload import PageCache, WorkloadUsageError

if TYPE_CHECKING:
    from ..loaders.dataloader import DataLoader


Prepared = Callable[[str, int, int], None]  # which part of the preparation, files done, all of them


class LoadConfig(ImageConfig):
    """What the loader reads, how, and for how long.  Threads and depth that are not given come from a probe."""

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


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The point, why it would not count (None: it counts), and what else must be said.

    `chosen` are the threads and the depth it was measured with, and the probe's rates where it chose them.  `images` is
    what there is to say of encoded ones: the decoder, and which hop limits.
    """

    point: Point
    invalid: str | None
    warnings: tuple[str, ...]
    engine_reason: str
    index_status: str
    layout_reason: str
    chosen: dict[str, Any]
    images: dict[str, Any] | None = None


def measure_load(
    path: Path | str,
    config: LoadConfig,
    *,
    on_block: Callable[[int, int, float], None] | None = None,
    on_prepare: Prepared | None = None,
    recorder: Recorder | None = None,
    device: Device | None = None,
) -> LoadResult:
    """Measure images/s of the loader on a path or an address; raises what opening and reading the shards raises.

    Objects on a server are in no page cache here: they are read cold, as far as this client goes.  A `recorder` gets
    every read, decode, wait for a batch, and touch of one; engine mmap shows it no reads, which the kernel makes.
    With destination `gpu` batches go to the GPU, or to a `device` that is handed in.  `on_prepare` is told how far the
    index, and what is done with the page cache before, have come.
    """
    device = device or _device_of(config)
    taker: Taker = HostTaker() if device is None else DeviceTaker(device)
    shards, reason = _open_set(path, config, recorder, device, on_prepare)
    paths, index, reader = shards.paths, shards.index, shards.reader
    cold = config.page_cache == "cold"
    total_bytes = sum(stamp.size_bytes for stamp in index.stamps)
    if not cold:
        require_room_to_warm(total_bytes)
    files = files_of(paths)
    counter = counter_of(paths)
    background = background_rate(counter) or 0.0
    _prepare(files, cold=cold, told=on_prepare)
    batch_size = min(config.batch_size, len(shards))
    chosen = _choose(shards, config, batch_size)
    if chosen.rates:  # the probe has read
        _prepare(files, cold=cold, told=on_prepare)
    looked_at = files.spread() if isinstance(files, ImageFiles) else files
    resident = cache_fraction(looked_at)
    _require_batches(shards, chosen, batch_size)
    loader = _new_loader(shards, config, chosen, batch_size)
    if recorder is not None:
        recorder.clear()  # of the probe's reads
    batches = taker.batches(loader)
    if recorder is not None:
        batches = noted(batches, recorder)
    probed_bytes, own_before = reader.delivered_bytes, own_counters(reader)
    before, mine, cpu_before = counter.snapshot(), process_read_bytes(), time.process_time()
    begin = perf_counter()
    try:
        blocks = list(time_blocks(batches, taker, seconds=config.seconds, blocks=config.blocks, on_block=on_block))
        own = {name: count - own_before.get(name, 0) for name, count in own_counters(reader).items()}
    finally:
        shards.close()
    total_s, cpu_s = perf_counter() - begin, time.process_time() - cpu_before
    went, mine_after = moved(before, counter.snapshot()), process_read_bytes()
    delivered_bytes = reader.delivered_bytes - probed_bytes
    evidence = judge(
        counter,
        engine=reader.engine,
        page_cache=config.page_cache,
        cache_fraction=resident,
        cache_fraction_after=cache_fraction(looked_at),
        delivered_bytes=delivered_bytes,
        payload_bytes=loader.tally.payload_bytes,
        raw_device_bytes=went.pop(counter.name, None),
        process_bytes=None if mine is None or mine_after is None else mine_after - mine,
        background_bytes=background * total_s,
        beside=went,
    )
    if device is not None:
        evidence = _on_device(evidence, own)
    if not files:
        evidence = _of_objects(evidence, own)
    images = _hops(shards, loader.tally, chosen, blocks, wall_s=total_s)
    metrics = _metrics(blocks, cpu_s, delivered_bytes, total_bytes / len(shards)) | (images.metrics() if images else {})
    point = Point(
        params={
            "stage": "load",
            "engine": reader.engine,
            "batch_size": batch_size,
            "shuffle": config.shuffle,
            "num_workers": chosen.num_workers,
            "page_cache": config.page_cache,
            **({} if device is None else {"destination": "gpu"}),
        },
        read_path=read_path(evidence, cold_scope=cold_scope_of(files[0]) if files else "client"),
        metrics=metrics,
        flags=rate_flags(metrics["images_per_s"]),
    )
    smaller = f"batches hold {batch_size} images, not {config.batch_size}: there are no more"
    warnings = (*doubts(evidence), *warnings_of(loader.tally), *([smaller] if batch_size < config.batch_size else []))
    return LoadResult(
        point,
        evidence.invalid_reason(),
        warnings,
        reason,
        index.status,
        index.layout_reason,
        asdict(chosen),
        images.described() if images else None,
    )


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


def _hops(
    shards: ShardSet, tally: Tally, chosen: Suggestion, blocks: Sequence[TimeBlock], *, wall_s: float
) -> ImageHops | None:
    """Where the time of encoded images went; None where there are none."""
    if shards.decoding is None:
        return None
    waited = sum(waited for *_, waited in blocks) / sum(seconds for _, seconds, _ in blocks)
    return hops_of(shards.decoding, tally, num_threads=chosen.num_workers, wall_s=wall_s, waited=waited)


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


def _on_device(evidence: RouteEvidence, own: Mapping[str, int]) -> RouteEvidence:
    """What went on to a device, or right there, as the reader's own counts tell."""
    found = by_own_counters(copied_on(evidence), own, into_gpu=True)
    return replace(found, requested_route="bounce", counters={**found.counters, **own})


def _of_objects(evidence: RouteEvidence, own: Mapping[str, int]) -> RouteEvidence:
    """What was read of a server, by the reader's own count."""
    found = by_own_counters(evidence, own)
    return replace(found, requested_route="remote", counters={**found.counters, **own})


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


def _new_loader(shards: ShardSet, config: LoadConfig, chosen: Suggestion, batch_size: int) -> DataLoader[Any]:
    from ..loaders.dataloader import DataLoader

    return DataLoader(
        shards,
        batch_size=batch_size,
        shuffle=config.shuffle != "off",
        num_workers=chosen.num_workers,
        prefetch_factor=chosen.prefetch_factor,
        drop_last=True,
    )


def _metrics(blocks: Sequence[TimeBlock], cpu_s: float, delivered: int, record_bytes: float) -> dict[str, Metric]:
    rates = [images / seconds for images, seconds, _ in blocks]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    per_gb = (
        Metric(value=cpu_s / (delivered / 1e9), unit="s/GB", n=1)
        if delivered
        else not_measured("s/GB", "nothing was delivered")
    )
    return {
        "images_per_s": summarise(rates, unit="images/s"),
        "read_gbps": summarise([rate * record_bytes / 1e9 for rate in rates], unit="GB/s"),
        "data_stall_fraction": summarise([waited / seconds for _, seconds, waited in blocks], unit="fraction"),
        "cpu_seconds_per_gb": per_gb,
        "peak_rss_bytes": Metric(value=float(peak), unit="bytes", n=1),
    }
