"""A folder of small files -> rounds -> points of a record, with what the counters say of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...loaders.evidence import CounterSet, RouteEvidence, counter_for, judge
from ...results.quantities import amount
from ...results.record import Metric, Point, ReadPath
from ...results.stats import summarise
from ..evidence import cold_scope_of, doubts, read_path
from ..scratch import ScratchFolder, memory_folder
from ..workload import PageCache, WorkloadError
from .config import OPERATIONS, MetadataConfig, Operation
from .files import SmallFiles, Timed
from .memory import cannot_drop_names
from .rounds import OnBlock, State, measure, unit_of

CEILING_FILES, CEILING_BYTES, CEILING_S = 1000, 64 << 20, 0.1
FILL_SHARE = 0.2  # of what the progress shows
HARNESS_MARGIN = 0.9
LIMITED = "the benchmark itself was the limit"


@dataclass(frozen=True, slots=True)
class MetadataResult:
    """The points, what must be said of them, and why any of them does not count."""

    points: tuple[Point, ...]
    warnings: tuple[str, ...]
    invalid: tuple[str, ...]
    fill_s: float


def measure_metadata(path: Path, config: MetadataConfig, *, on_block: OnBlock | None = None) -> MetadataResult:
    """Measure in a folder below `path`, which is gone afterwards; `on_block` is told the share done, and what was.

    Raises WorkloadError where cold was asked for and cannot be had, ScratchError and FileRateError with the place.
    """
    tell = on_block or (lambda _share, _text: None)
    states, warnings = _states(config)
    ceilings = _ceilings(config)
    with ScratchFolder(path, purpose="metadata") as scratch:
        _require_room(path, config)
        files = SmallFiles(
            scratch.path,
            num_files=config.files,
            file_bytes=config.file_size,
            threads=config.threads,
            fsync=config.fsync,
            seed=config.seed,
        )
        fill_s = files.fill(lambda done: tell(FILL_SHARE * done / config.files, f"{done} of {config.files} files made"))
        counter = counter_for([scratch.path])
        for number, state in enumerate(states):
            measure(files, counter, state, config, partial(_tell, tell, number, len(states)))
        found = [_evidence(state, counter, config) for state in states]
        scope = cold_scope_of(scratch.path)
        points = [
            _point(state, evidence, config, ceilings, path=read_path(evidence, cold_scope=scope), fill_s=fill_s)
            for state, evidence in zip(states, found, strict=True)
        ]
        tell(1.0, f"removing {config.files} files")
    warnings += [text for evidence in found for text in doubts(evidence)]
    invalid = [text for evidence in found if (text := evidence.invalid_reason())]
    return MetadataResult(tuple(points), tuple(warnings), tuple(invalid), fill_s)


def _require_room(path: Path, config: MetadataConfig) -> None:
    """Raise WorkloadError where so many files, or their content, do not fit."""
    space = os.statvfs(path)
    blocks = config.files * -(-config.file_size // space.f_frsize)
    if (space.f_files and config.files > space.f_favail) or blocks > space.f_bavail:
        raise WorkloadError(
            f"{path}: {config.files} files of {config.file_size} bytes do not fit: {space.f_favail} files and "
            f"{amount(space.f_bavail * space.f_frsize, 'bytes')} are free; use fewer --files, or another folder"
        )


def _states(config: MetadataConfig) -> tuple[list[State], list[str]]:
    """The states of the cache to measure, and what must be said where names cannot be forgotten."""
    refused = cannot_drop_names()
    if refused and "cold" in config.page_cache:
        raise WorkloadError(f"page_cache cold: {refused}; run as root, or ask for --page-cache warm")
    auto: PageCache = "warm" if refused else "cold"
    wanted = dict.fromkeys(auto if word == "auto" else word for word in config.page_cache)
    warnings = []
    if "cold" in wanted:
        warnings.append(
            "cold: before each block this machine forgot the names it kept, those of other programs as well"
        )
    if "warm" in wanted:
        why = f" ({refused})" if refused and "auto" in config.page_cache else ""
        warnings.append(
            f"warm: this client had just seen every name{why}; where it keeps names, sizes and times, the rates of "
            f"stat, open and list are its own and not the storage's"
        )
    return [State(word) for word in wanted], warnings


def _evidence(state: State, counter: CounterSet, config: MetadataConfig) -> RouteEvidence:
    """What the counters say of the small reads, whose bytes are known."""
    delivered = sum(block.count for block in state.blocks["small_read"]) * config.file_size
    found = judge(
        counter,
        engine="buffered",
        page_cache=state.page_cache,
        cache_fraction=None,
        delivered_bytes=delivered,
        payload_bytes=delivered,
        raw_device_bytes=_sum(state.device_bytes["small_read"]),
        background_bytes=0.0,
        process_bytes=_sum(state.process_bytes),
    )
    found.counters.update({f"{name}_device_bytes": _sum(state.device_bytes[name]) for name in ("stat", "open", "list")})
    return found


def _point(
    state: State,
    evidence: RouteEvidence,
    config: MetadataConfig,
    ceilings: dict[Operation, float],
    *,
    path: ReadPath,
    fill_s: float,
) -> Point:
    """One state of the cache in the record's form."""
    metrics = {f"{name}_per_s": _rate(name, state.blocks[name], ceilings) for name in OPERATIONS}
    metrics |= {f"{name}_p99_us": _p99(state.blocks[name]) for name in OPERATIONS if name != "list"}
    metrics["fill_s"] = Metric(value=fill_s, unit="s", n=1, samples=(fill_s,))
    flags = ["harness_limited"] if any(metric.reason == LIMITED for metric in metrics.values()) else []
    if state.page_cache == "warm" or _kept_names(evidence):
        flags.append("names_cached")
    params = {"stage": "metadata", "files": config.files, "file_bytes": config.file_size, "threads": config.threads}
    params |= {"page_cache": state.page_cache, "fsync": config.fsync}
    return Point(params=params, read_path=path, metrics=metrics, flags=tuple(flags))


def _kept_names(evidence: RouteEvidence) -> bool:
    """Whether an exact counter saw nothing read for all stats: the names came from memory all the same."""
    return evidence.counter_class == "exact" and evidence.counters["stat_device_bytes"] == 0


def _rate(operation: Operation, blocks: Sequence[Timed], ceilings: dict[Operation, float]) -> Metric:
    metric = summarise([block.per_s for block in blocks], unit=unit_of(operation))
    limited = metric.value is not None and metric.value > HARNESS_MARGIN * ceilings.get(operation, float("inf"))
    return metric.model_copy(update={"reason": LIMITED}) if limited else metric


def _p99(blocks: Sequence[Timed]) -> Metric:
    """The mean of the blocks' 99th percentiles."""
    samples = [value for block in blocks if (value := block.latencies.percentile_us(99)) is not None]
    return summarise(samples, unit="us", reason="no operation ended within a block")


def _ceilings(config: MetadataConfig) -> dict[Operation, float]:
    """What the same threads do with files in memory; nothing where there is no file system in memory."""
    number = max(8, min(CEILING_FILES, CEILING_BYTES // config.file_size))
    folder = memory_folder(number * config.file_size)
    if folder is None:
        return {}
    rates: dict[Operation, float] = {}
    with ScratchFolder(folder, purpose="ceiling") as scratch:
        files = SmallFiles(scratch.path, num_files=number, file_bytes=config.file_size, threads=config.threads)
        rates["create"] = number / files.fill()
        for name in ("stat", "open", "small_read"):
            rates[name] = files.run(getattr(files, name), files.names, seconds=CEILING_S, again=True).per_s
        rates["list"] = files.run(files.list, [str(scratch.path)], seconds=CEILING_S, again=True).per_s
        rates["remove"] = files.run(files.remove, files.names).per_s
    return rates


def _tell(tell: OnBlock, number: int, num_states: int, share: float, text: str) -> None:
    tell(FILL_SHARE + (1 - FILL_SHARE) * (number + share) / num_states, text)


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
