"""What the counters say of all blocks of a point together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...loaders.counters.backends import route_by_backends
from ...loaders.evidence import Counter, RouteEvidence, judge, total
from ...loaders.route import copied_on
from .points import PointResult

PROVEN_SHARE = 0.98


def collect_evidence(result: PointResult, counter: Counter, background_bps: float) -> RouteEvidence:
    """Judge all blocks of a point."""
    if result.point.operation == "write":
        return _judge_writes(result, counter)
    blocks = result.blocks
    beside = total(block.beside for block in blocks)
    found = judge(
        counter,
        engine=result.point.engine,
        page_cache=result.point.page_cache,
        cache_fraction=mean_known([block.cache_fraction for block in blocks]),
        cache_fraction_after=mean_known([block.cache_fraction_after for block in blocks]),
        delivered_bytes=sum(block.delivered_bytes for block in blocks),
        payload_bytes=sum(block.payload_bytes for block in blocks),
        raw_device_bytes=sum_known([block.device_bytes for block in blocks]),
        process_bytes=sum_known([block.process_bytes for block in blocks]),
        background_bytes=background_bps * sum(block.seconds for block in blocks),
        beside=beside,
    )
    if result.point.destination == "host":
        return found
    if result.point.engine == "kvikio":
        return _into_gpu(found, beside)
    return replace(copied_on(found), requested_route="bounce")


def write_doubt(evidence: RouteEvidence) -> str | None:
    """Why a measurement of writes does not count, or None: an exact counter saw fewer bytes go to the device."""
    if evidence.counter_class != "exact" or evidence.device_bytes is None or not evidence.delivered_bytes:
        return None
    share = evidence.device_bytes / evidence.delivered_bytes
    if share >= PROVEN_SHARE:
        return None
    return (
        f"{evidence.engine}: only {share:.1%} of the bytes written went to the device: a cache, compression or "
        f"deduplication took the rest"
    )


def _judge_writes(result: PointResult, counter: Counter) -> RouteEvidence:
    """Bytes written to the devices, against bytes that write calls took."""
    blocks = result.blocks
    device = sum_known([block.device_bytes for block in blocks])
    written = sum(block.delivered_bytes for block in blocks)
    words = counter.reason.replace("sectors read by", "sectors written to")
    proven = device is not None and counter.counter_class == "exact" and device >= PROVEN_SHARE * written
    doubt = (
        "no counter of what was written" if device is None else f"{device:,} of {written:,} bytes went to the device"
    )
    return RouteEvidence(
        engine=result.point.engine,
        page_cache=None,
        requested_route="host",
        observed_route="host" if proven else "unknown",
        route_evidence=words if proven else f"route not proven: {doubt}",
        counter_class=counter.counter_class if device is not None else "none",
        cache_fraction=None,
        delivered_bytes=written,
        payload_bytes=sum(block.payload_bytes for block in blocks),
        device_bytes=device,
        read_amplification=None,
        counters={"device_bytes_written": device},
    )


def _into_gpu(found: RouteEvidence, own: Mapping[str, int]) -> RouteEvidence:
    """The way into GPU memory, by what kvikio itself counted for each of its backends, and nvidia-fs beside it."""
    told = route_by_backends(own, nvidia_fs_bytes=own.get("nvidia_fs_read_bytes"), into_gpu=True)
    route, words = told or ("unknown", "the reader counted nothing")
    text = f"route not proven: {words}" if route == "unknown" else words
    return replace(found, requested_route="gds", observed_route=route, route_evidence=text)


def sum_known(values: Sequence[int | None]) -> int | None:
    """Their sum; None where one of them is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def mean_known(values: Sequence[float | None]) -> float | None:
    """Their mean; None where one of them is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
