"""`iobench load`: what our loader delivers by itself, with nothing behind it but a touch of every page.

One endless pass over the data is cut into time blocks; the evidence covers the whole of it.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from ..loaders.destinations.device import Device
from ..loaders.engines.reader_threads import reader_thread_ids
from ..loaders.evidence import RouteEvidence, judge, moved, process_read_bytes
from ..loaders.page_cache import cache_fraction
from ..loaders.route import by_own_counters, copied_on, own_counters, with_registration
from ..loaders.traced import Recorder
from ..results.record import Metric, Point, not_measured
from ..results.stats import rate_flags, summarise
from .decoded import Decoded, decoded_of
from .evidence import cold_scope_of, doubts, read_path
from .image_hops import ImageHops, hops_of
from .load_setup import Load, LoadConfig, Prepared, asked_in_vain, open_load
from .placement import ReadersSeen
from .takers import DeviceTaker, HostTaker, Taker, TimeBlock, noted, time_blocks


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The point, why it would not count (None: it counts), and what else must be said.

    `chosen` are the threads and the depth it was measured with, the probe's rates where it chose them, and the cores
    that threads were `placed` on.  `images` is what there is to say of encoded ones: the decoder, and which hop limits.
    """

    point: Point
    invalid: str | None
    warnings: tuple[str, ...]
    engine_reason: str
    index_status: str
    layout_reason: str
    chosen: dict[str, Any]
    images: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was counted while batches came: time blocks, seconds, bytes, and the counters' movements."""

    blocks: Sequence[TimeBlock]
    total_s: float
    cpu_s: float
    delivered_bytes: int
    own: Mapping[str, int]
    went: Mapping[str, int]
    process_bytes: int | None
    readers: Mapping[str, int]
    was_interrupted: bool = False


def measure_load(
    path: Path | str,
    config: LoadConfig,
    *,
    on_block: Callable[[int, int, float], None] | None = None,
    on_prepare: Prepared | None = None,
    recorder: Recorder | None = None,
    device: Device | None = None,
    keep: Callable[[LoadResult], None] | None = None,
) -> LoadResult:
    """Measure images/s of the loader on a path or an address; raises what opening and reading the shards raises.

    On KeyboardInterrupt the blocks that are whole are given to `keep`.

    Objects on a server are in no page cache here: they are read cold, as far as this client goes.  A `recorder` gets
    every read, decode, wait for a batch, and touch of one; engine mmap shows it no reads, which the kernel makes.
    With destination `gpu` batches go to the GPU, or to a `device` that is handed in.  `on_prepare` is told how far the
    index, and what is done with the page cache before, have come.
    """
    loaded = open_load(path, config, device=device, recorder=recorder, told=on_prepare)
    shards = loaded.shards
    try:
        seen = _count(loaded, recorder, on_block)
    finally:
        shards.close()
    result = _result(loaded, seen)
    if seen.was_interrupted:
        if keep is not None:
            keep(result)
        raise KeyboardInterrupt
    return result


def _result(loaded: Load, seen: _Seen) -> LoadResult:
    """What the blocks and the counters come to."""
    shards, loader, config = loaded.shards, loaded.loader, loaded.config
    evidence = _evidence(loaded, seen)
    decoded = decoded_of(shards.decoding, loader.tally, requested=config.decoder)
    images = None if decoded is None else _hops(loaded, seen, decoded)
    smaller = f"batches hold {loaded.batch_size} images, not {config.batch_size}: there are no more"
    warnings = (
        *doubts(evidence),
        *(decoded.warnings() if decoded else ()),
        *asked_in_vain(config, shards.index),
        *([smaller] if loaded.batch_size < config.batch_size else []),
    )
    return LoadResult(
        _point(loaded, seen, evidence, images),
        evidence.invalid_reason(),
        warnings,
        loaded.engine_reason,
        shards.index.status,
        shards.index.layout_reason,
        asdict(loaded.chosen) | {"placed": {**loaded.near.told(), "readers": seen.readers}},
        {**decoded.described(), **images.described()} if decoded and images else None,
    )


def _count(loaded: Load, recorder: Recorder | None, on_block: Callable[[int, int, float], None] | None) -> _Seen:
    """Take batches for all time blocks, between two looks at every counter.

    Who is interrupted has those that are whole by then; KeyboardInterrupt where there is none.
    """
    config, reader, counter = loaded.config, loaded.shards.reader, loaded.counter
    readers = ReadersSeen(besides=reader_thread_ids())
    taker: Taker = HostTaker() if loaded.device is None else DeviceTaker(loaded.device)
    batches = taker.batches(loaded.loader)
    if recorder is not None:
        recorder.clear()  # of the probe's reads
        batches = noted(batches, recorder)
    probed_bytes, own_before = reader.delivered_bytes, own_counters(reader)
    before, mine, cpu_before = counter.snapshot(), process_read_bytes(), time.process_time()
    begin = perf_counter()
    blocks: list[TimeBlock] = []
    try:
        for block in time_blocks(batches, taker, seconds=config.seconds, blocks=config.blocks, on_block=on_block):
            blocks.append(block)  # noqa: PERF402  # each is kept as it comes
    except KeyboardInterrupt:
        if not blocks:
            raise
    readers.look()
    own = {name: count - own_before.get(name, 0) for name, count in own_counters(reader).items()}
    loaded.shards.close()  # what is still being read is read by then
    total_s, cpu_s = perf_counter() - begin, time.process_time() - cpu_before
    went, mine_after = moved(before, counter.snapshot()), process_read_bytes()
    process_bytes = None if mine is None or mine_after is None else mine_after - mine
    delivered = reader.delivered_bytes - probed_bytes
    interrupted = len(blocks) < config.blocks
    return _Seen(blocks, total_s, cpu_s, delivered, own, went, process_bytes, readers.told(), interrupted)


def _evidence(loaded: Load, seen: _Seen) -> RouteEvidence:
    """Which way the bytes took."""
    counter = loaded.counter
    evidence = judge(
        counter,
        engine=loaded.shards.reader.engine,
        page_cache=loaded.config.page_cache,
        cache_fraction=loaded.resident,
        cache_fraction_after=cache_fraction(loaded.looked_at),
        delivered_bytes=seen.delivered_bytes,
        payload_bytes=loaded.loader.tally.payload_bytes,
        raw_device_bytes=seen.went.get(counter.name),
        process_bytes=seen.process_bytes,
        background_bytes=loaded.background * seen.total_s,
        beside={name: count for name, count in seen.went.items() if name != counter.name},
    )
    if loaded.device is not None:
        evidence = with_registration(_on_device(evidence, seen.own), loaded.shards.reader)
    return evidence if loaded.files else _of_objects(evidence, seen.own)


def _point(loaded: Load, seen: _Seen, evidence: RouteEvidence, images: ImageHops | None) -> Point:
    config, files = loaded.config, loaded.files
    record_bytes = loaded.total_bytes / len(loaded.shards)
    metrics = _metrics(seen.blocks, seen.cpu_s, seen.delivered_bytes, record_bytes)
    return Point(
        params={
            "stage": "load",
            "engine": loaded.shards.reader.engine,
            "batch_size": loaded.batch_size,
            "shuffle": config.shuffle,
            "num_workers": loaded.chosen.num_workers,
            "page_cache": config.page_cache,
            **({} if loaded.device is None else {"destination": "gpu"}),
        },
        read_path=read_path(evidence, cold_scope=cold_scope_of(files[0]) if files else "client"),
        metrics=metrics | (images.metrics() if images else {}),
        flags=rate_flags(metrics["images_per_s"]),
    )


def _hops(loaded: Load, seen: _Seen, decoded: Decoded) -> ImageHops:
    """Where the time of encoded images went."""
    return hops_of(
        loaded.loader.tally.hop_seconds(),
        decoded,
        num_threads=loaded.chosen.num_workers,
        wall_s=seen.total_s,
        waited=sum(waited for *_, waited in seen.blocks) / sum(seconds for _, seconds, _ in seen.blocks),
        to_gpu=loaded.device is not None,
    )


def _on_device(evidence: RouteEvidence, own: Mapping[str, int]) -> RouteEvidence:
    """What went on to a device, or right there, as the reader's own counts tell."""
    found = by_own_counters(copied_on(evidence), own, into_gpu=True)
    return replace(found, requested_route="bounce", counters={**found.counters, **own})


def _of_objects(evidence: RouteEvidence, own: Mapping[str, int]) -> RouteEvidence:
    """What was read of a server, by the reader's own count."""
    found = by_own_counters(evidence, own)
    return replace(found, requested_route="remote", counters={**found.counters, **own})


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
