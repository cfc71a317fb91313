"""Checkpoints -> points of a record: rates alone and beside readers, their ratios, and the counters' word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...loaders.evidence import RouteEvidence, judge
from ...results.record import Metric, Point
from ...results.stats import rate_flags, ratio_interval, summarise
from ..evidence import cold_scope_of, doubts, read_path
from ..scratch import ScratchFolder, memory_folder
from .config import CheckpointConfig
from .files import Checkpoint
from .rounds import Bench, Sample, Series

CEILING_BYTES = 64 << 20
HARNESS_MARGIN = 0.9
WRITTEN_SHARE = 0.98
RATIOS = ("write_gbps", "fsync_s", "restore_gbps", "read_gbps")


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """The points, what must be said of them, and why any of them does not count."""

    points: tuple[Point, ...]
    warnings: tuple[str, ...]
    invalid: tuple[str, ...]


OnSample = Callable[[float, str], None]


def measure_checkpoint(path: Path, config: CheckpointConfig, *, on_sample: OnSample | None = None) -> CheckpointResult:
    """Measure in a folder below `path`, which is gone afterwards; `on_sample` is told the share done, and what was.

    Raises CheckpointError where there is no room, writing fails or a restore differs; ReadError from the readers.
    """
    both = Series("nothing"), Series("reads")
    ceiling = _ceiling_gbps(config)
    random = np.random.Generator(np.random.PCG64DXSM(config.seed))
    with ScratchFolder(path, purpose="checkpoint") as scratch:
        bench = Bench(scratch.path, path, config)
        for number in range(config.blocks):
            for place, which in enumerate(random.permutation(2).tolist()):
                sample = bench.measure(both[which])
                if on_sample is not None:
                    on_sample((2 * number + place + 1) / (2 * config.blocks), _told(both[which], sample))
        scope = cold_scope_of(scratch.path)
    found = [_evidence(series.samples, bench) for series in both]
    points = [_point(series, config, bench, ceiling) for series in both]
    points[1].metrics.update(_ratios(*both))
    paths = [read_path(evidence, cold_scope=scope) for evidence in found]
    return CheckpointResult(
        tuple(point.model_copy(update={"read_path": path}) for point, path in zip(points, paths, strict=True)),
        (*_said(bench), *(text for evidence in found for text in doubts(evidence))),
        tuple(text for evidence in found for text in (evidence.invalid_reason(), _unwritten(evidence)) if text),
    )


def _told(series: Series, sample: Sample) -> str:
    return f"beside {series.beside}: {sample.write.gbps:.2f} GB/s written, {sample.restore.gbps:.2f} GB/s restored"


def _said(bench: Bench) -> list[str]:
    if not bench.has_own_data:
        return []
    return [f"there are no data to read here: the readers read {bench.data_bytes / 1e9:.2f} GB that were made for them"]


def _point(series: Series, config: CheckpointConfig, bench: Bench, ceiling: tuple[float, float] | None) -> Point:
    metrics = _metrics(series.samples)
    limits = dict(zip(("write_gbps", "restore_gbps"), ceiling or (), strict=False))
    limited = any((metrics[name].value or 0.0) > HARNESS_MARGIN * limit for name, limit in limits.items())
    flags = (*(["harness_limited"] if limited else []), *rate_flags(metrics["write_gbps"]))
    return Point(
        params={
            "stage": "checkpoint",
            "beside": series.beside,
            "checkpoint_bytes": series.samples[0].write.num_bytes,
            "threads": config.threads,
            "block_size_bytes": config.block_size,
            "engine": config.engine,
            "restore_engine": bench.read_engine,
            "readers": config.readers,
            "read_data_bytes": bench.data_bytes,
        },
        metrics=metrics,
        flags=flags,
    )


def _metrics(samples: Sequence[Sample]) -> dict[str, Metric]:
    during = [sample.read_during_restore_gbps for sample in samples]
    metrics = {
        "write_gbps": summarise([sample.write.gbps for sample in samples], unit="GB/s"),
        "write_s": summarise([sample.write.seconds for sample in samples], unit="s"),
        "fsync_s": summarise([sample.write.fsync_s for sample in samples], unit="s"),
        "restore_gbps": summarise([sample.restore.gbps for sample in samples], unit="GB/s"),
        "restore_s": summarise([sample.restore.seconds for sample in samples], unit="s"),
        "read_gbps": summarise([sample.read_gbps for sample in samples], unit="GB/s"),
    }
    known = [rate for rate in during if rate is not None]
    return metrics | ({"read_during_restore_gbps": summarise(known, unit="GB/s")} if known else {})


def _ratios(alone: Series, beside: Series) -> dict[str, Metric]:
    """What each figure is beside the other load, divided by what it is alone; pairs of the same round."""
    theirs, ours = _metrics(beside.samples), _metrics(alone.samples)
    ratios = {f"{name}_ratio": _ratio(theirs[name], ours[name]) for name in RATIOS}
    ratios["read_during_restore_gbps_ratio"] = _ratio(theirs["read_during_restore_gbps"], ours["read_gbps"])
    return ratios


def _ratio(candidate: Metric, base: Metric) -> Metric:
    if min(*candidate.samples, *base.samples) <= 0:
        return summarise([], unit="ratio", reason="one of the pairs has the value 0")
    value, low, high = ratio_interval(candidate.samples, base.samples)
    return Metric(value=value, unit="ratio", ci95=(low, high), n=len(base.samples))


def _evidence(samples: Sequence[Sample], bench: Bench) -> RouteEvidence:
    """What the counters say of everything that was read, restores and readers together."""
    delivered = sum(sample.delivered_bytes for sample in samples)
    found = judge(
        bench.counter,
        engine=bench.read_engine,
        page_cache="cold",
        cache_fraction=None,
        delivered_bytes=delivered,
        payload_bytes=delivered,
        raw_device_bytes=_sum([sample.device_bytes for sample in samples]),
        background_bytes=0.0,
        process_bytes=_sum([sample.process_bytes for sample in samples]),
    )
    found.counters["device_bytes_written"] = _sum([sample.device_written_bytes for sample in samples])
    found.counters["checkpoint_bytes"] = sum(sample.write.num_bytes for sample in samples)
    return found


def _unwritten(evidence: RouteEvidence) -> str | None:
    """Why the writes do not count, or None: an exact counter saw fewer bytes go to the device."""
    written, asked = evidence.counters["device_bytes_written"], evidence.counters["checkpoint_bytes"]
    if evidence.counter_class != "exact" or not isinstance(written, int) or not isinstance(asked, int):
        return None
    if written >= WRITTEN_SHARE * asked:
        return None
    return (
        f"only {written / asked:.1%} of the checkpoints' bytes went to the device though they were synced: "
        f"a cache, compression or deduplication took the rest"
    )


def _ceiling_gbps(config: CheckpointConfig) -> tuple[float, float] | None:
    """What the same threads write and restore in memory, digests included; None without a file system there."""
    size = min(config.checkpoint, CEILING_BYTES)
    folder = memory_folder(size)
    if folder is None:
        return None
    with ScratchFolder(folder, purpose="ceiling") as scratch:
        trial = Checkpoint(
            scratch.path, size_bytes=size, threads=config.threads, block_bytes=config.block_size, serial=0
        )
        return trial.write("buffered").gbps, trial.restore("buffered").gbps


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
