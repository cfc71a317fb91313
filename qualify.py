"""The main job, on one page: does this storage feed the accelerators, and would a local copy do better?

    data -> storage rate -> loader -> local copy -> ranks -> fed: predicted, measured -> copy or not -> verdict

Each part is a bench of its own; here they are put in a row, given their share of the time, and judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .loaders.index import RecordLayout
from .loaders.shards import ShardSet
from .results.environment import collect, public_path
from .results.record import Metric, Point, RunRecord, merge_warnings, new_run_id, not_measured, utc_now
from .results.verdict import (
    CopyChoice,
    Fed,
    choose_copy,
    compose_verdict,
    decide_fed,
    judge_requirement,
    missed_in_spite_of_few_steps,
    predict_fed,
    settles,
)
from .storage_bench.accelerators import Accelerator, resolve_accelerator
from .storage_bench.emulate import demand_bps
from .storage_bench.evidence import doubts
from .storage_bench.feeding import candidate_readers, measure_rates, pilot_rates, storage_point
from .storage_bench.generate import Generate, generate
from .storage_bench.launch import require_ranks
from .storage_bench.load import LoadConfig, LoadResult, measure_load
from .storage_bench.staging import StageResult, on_same_device, remove_stage, require_folder, room_for, stage
from .storage_bench.sweep import WARM_RAM_SHARE, choose_engine, ram_bytes
from .storage_bench.workload import Bytes, Engine, StorageConfig, data_files
from .training_bench.loop import Source
from .training_bench.summary import find_point
from .training_bench.train import TrainConfig, TrainRun, expected_seconds, fitting_ranks, train

LOAD_BLOCKS, LOAD_SECONDS = 8, 0.75
START_S = 8.0
CACHE_SHARE = 0.5  # of memory: a data set up to this size stays in the page cache from epoch to epoch
COPY_SHARE = 0.25
Show = Callable[[str, float, str], None]


class QualifyError(ValueError):
    """The job cannot be done with what is here."""

    exit_status: ClassVar[int] = 4


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Settings):
    """What is generated where PATH is empty."""

    num_images: Annotated[int, Field(ge=1)] = 6144
    images_per_shard: Annotated[int, Field(ge=1)] = 256
    size: Annotated[int, Field(ge=8, le=4096)] = 300
    seed: Annotated[int, Field(ge=0)] = 0


class RateConfig(_Settings):
    """Time blocks of the storage rate."""

    seconds: Annotated[float, Field(gt=0, le=600)] = 1.0
    blocks: Annotated[int, Field(ge=2, le=1000)] = 8


class CopyConfig(_Settings):
    """The question of the local copy: over how many epochs, and for how large a data set (default: this one)."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    streams: Annotated[int, Field(ge=1, le=64)] = 4
    dataset_bytes: Bytes | None = None


class QualifyConfig(_Settings):
    """One qualification; presets are files of these keys."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # accelerator = 0.25

    accelerator: str = "h100"
    batch_size: Annotated[int, Field(ge=1)] | None = None
    engine: Engine = "auto"
    au_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.90
    required_gpus: Annotated[int, Field(ge=1)] = 1
    max_ranks: Annotated[int, Field(ge=1, le=256)] = 8
    measure_seconds: Annotated[float, Field(ge=10, le=86_400)] = 120.0
    disk_bytes: Bytes = 4 << 30
    data: DataConfig = DataConfig()
    storage: RateConfig = RateConfig()
    train: TrainConfig = TrainConfig()
    copy_: CopyConfig = Field(default=CopyConfig(), alias="copy")


@dataclass(slots=True)
class _Run:
    """A qualification on its way."""

    path: Path
    local: Path
    config: QualifyConfig
    accelerator: Accelerator
    show: Show
    engine: str = ""
    engine_reason: str = ""
    max_ranks: int = 1
    layout: RecordLayout | None = None
    record_bytes: int = 0
    num_images: int = 0
    num_shards: int = 0
    total_bytes: int = 0
    points: list[Point] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    measured_s: float = 0.0
    measured_bytes: int = 0
    peak_rss_bytes: int = 0
    rates: dict[int, float] = field(default_factory=dict)
    warm_rate: Metric | None = None
    copy_invalid: str | None = None

    @property
    def real_bytes(self) -> int:
        """Bytes of the data set that is asked about; the one here may be a sample of it."""
        return self.config.copy_.dataset_bytes or self.total_bytes

    @property
    def cache_holds(self) -> bool:
        """Whether later epochs of that data set come from this host's page cache."""
        return self.real_bytes <= CACHE_SHARE * ram_bytes()

    @property
    def demand_gbps(self) -> float:
        """What one accelerator asks for."""
        return demand_bps(self.accelerator.batch_size, self.record_bytes, self.accelerator.step_time_s) / 1e9

    @property
    def left_s(self) -> float:
        """Measuring time that is left."""
        return max(0.0, self.config.measure_seconds - self.measured_s)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Count the time of this block as measuring time."""
        begin = perf_counter()
        try:
            yield
        finally:
            self.measured_s += perf_counter() - begin


def qualify(
    path: Path, config: QualifyConfig, *, local: Path, preset: str | None, command: Sequence[str], show: Show
) -> RunRecord:
    """Run the whole job on the data in `path` (generated first where it is empty) and return its record.

    Raises the error of the part that failed; each names its way out.
    """
    started = utc_now()
    require_ranks(2)
    accelerator = resolve_accelerator(config.accelerator, batch_size=config.batch_size)
    run = _Run(path, local, config, accelerator, show)
    _ensure_data(run)
    _open_data(run)
    if not on_same_device(path, local):
        require_folder(local)
    show("plan", 1.0, announce(run))
    predicted = _predict(run)
    _measure_loader(run)
    staged, refused = _make_copy(run)
    try:
        measured = _run_ranks(run, predicted, staged)
        choice = _choose_copy(run, staged, refused)
    finally:
        if staged is not None:
            remove_stage(staged.target)
    if measured.contradicts(predicted):
        run.warnings.append(f"predicted {predicted.value} accelerators fed, measured {measured.value}")
    return _record(run, predicted, measured, choice, preset=preset, command=command, started=started)


def announce(run: _Run) -> str:
    """What the job will take, told before it begins."""
    disk = run.total_bytes if not on_same_device(run.path, run.local) else 0
    return (
        f"at most {run.config.measure_seconds:.0f} s of measuring on {run.num_images} images "
        f"({run.total_bytes / 1e9:.2f} GB) with {run.engine} reads ({run.engine_reason}); up to {run.max_ranks} ranks; "
        f"{min(disk, run.config.disk_bytes) / 1e9:.2f} GB for a local copy in {public_path(run.local)}"
    )


def _ensure_data(run: _Run) -> None:
    path, data = run.path, run.config.data
    if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        return
    if path.exists() and not path.is_dir():
        return
    wanted = Generate(
        num_images=data.num_images, images_per_shard=data.images_per_shard, size=data.size, seed=data.seed
    )
    generate(path, wanted, progress=lambda done, total: run.show("generate", done / total, f"{done / 1e9:.2f} GB"))


def _open_data(run: _Run) -> None:
    run.show("index", 0.0, "")
    shards = ShardSet.open(run.path)
    run.layout = shards.index.layout
    run.num_images = len(shards)
    run.num_shards = len(shards.paths)
    run.total_bytes = sum(stamp.size_bytes for stamp in shards.index.stamps)
    run.record_bytes = run.total_bytes // run.num_images
    run.engine, run.engine_reason = choose_engine(run.config.engine, shards.paths[0])
    batch_bytes = run.accelerator.batch_size * run.record_bytes
    run.max_ranks = fitting_ranks(run.config.max_ranks, batch_bytes, run.config.train.prefetch_depth)
    if run.max_ranks < 1:
        raise QualifyError(
            f"a batch of {batch_bytes / 1e6:.0f} MB does not fit into memory; use a smaller --batch-size"
        )
    if run.max_ranks < run.config.max_ranks:
        run.warnings.append(f"memory allows {run.max_ranks} ranks, not the {run.config.max_ranks} of max_ranks")
    if run.num_images < run.max_ranks:
        run.warnings.append(f"{run.num_images} images give work to as many ranks, not to {run.max_ranks}")
        run.max_ranks = run.num_images
    run.show("index", 1.0, shards.index.status)


def _predict(run: _Run) -> Fed:
    """The storage rate at the numbers of readers around the largest one it feeds."""
    config = run.config
    rates = StorageConfig(
        access="shard-replay",
        seconds=config.storage.seconds,
        blocks=config.storage.blocks,
        batch_size=run.accelerator.batch_size,
    )
    with run.measuring():
        run.show("storage", 0.0, "pilot")
        known = pilot_rates(
            run.path,
            rates,
            engine=run.engine,
            reads_in_flight=config.train.reader_threads,
            max_readers=run.max_ranks,
        )
    measured: dict[int, Metric] = {}
    while True:
        readers = candidate_readers(
            known, demand_gbps=run.demand_gbps, threshold=config.au_threshold, max_readers=run.max_ranks
        )
        points = _measure_readers(run, rates, [count for count in readers if count not in measured])
        measured |= {int(point.params["threads"] or 0): point.metrics["read_gbps"] for point in points}
        known |= {count: rate.value or 0.0 for count, rate in measured.items()}
        run.rates = dict(sorted(known.items()))
        fed = predict_fed(measured, demand_gbps=run.demand_gbps, threshold=config.au_threshold)
        bracketed = fed.value is not None and not fed.is_at_least
        if bracketed or not points or run.left_s < config.measure_seconds / 2:
            return fed


def _measure_readers(run: _Run, rates: StorageConfig, readers: Sequence[int]) -> list[Point]:
    """Blocks at these numbers of readers; notes what counters say against them."""
    if not readers:
        return []
    with run.measuring():
        results = measure_rates(
            run.path,
            rates,
            engine=run.engine,
            reason=run.engine_reason,
            reads_in_flight=run.config.train.reader_threads,
            readers=tuple(readers),
            on_block=lambda done, total, point, block: run.show(
                "storage", done / total, f"{point.threads} readers {block.gbps:.2f} GB/s"
            ),
        )
    for result in results:
        run.measured_bytes += sum(block.delivered_bytes for block in result.blocks)
        if result.evidence is not None:
            run.invalid += [f"storage: {text}" for text in [result.evidence.invalid_reason()] if text]
            run.warnings += [f"storage: {text}" for text in doubts(result.evidence)]
        if result.harness_limited:
            run.warnings.append(
                f"storage: {result.point.threads} readers came within 10 % of what this host reads from its page "
                f"cache; the storage may give more"
            )
    points = [storage_point(result, run.path) for result in results]
    run.points += points
    return points


def _measure_loader(run: _Run) -> None:
    def measure(page_cache: str, blocks: int) -> LoadResult:
        load = LoadConfig.model_validate(
            {
                "engine": "buffered" if page_cache == "warm" else run.engine,
                "batch_size": min(run.accelerator.batch_size, 64),
                "num_workers": run.config.train.reader_threads,
                "page_cache": page_cache,
                "blocks": blocks,
                "seconds": LOAD_SECONDS,
            }
        )
        with run.measuring():
            result = measure_load(
                run.path,
                load,
                on_block=lambda done, total, rate: run.show(
                    f"load, {page_cache}", done / total, f"{rate:.0f} images/s"
                ),
            )
        run.points.append(result.point)
        path = result.point.read_path
        run.measured_bytes += (path.delivered_bytes or 0) if path else 0
        run.warnings += [f"load: {text}" for text in result.warnings]
        return result

    if text := measure("cold", LOAD_BLOCKS).invalid:
        run.invalid.append(f"load: {text}")
    if run.cache_holds and not on_same_device(run.path, run.local) and run.total_bytes <= WARM_RAM_SHARE * ram_bytes():
        result = measure("warm", LOAD_BLOCKS // 2)
        if result.invalid:  # the verdict does not rest on it
            run.warnings.append(f"load: {result.invalid}")
        else:
            run.warm_rate = result.point.metrics["images_per_s"]


def _make_copy(run: _Run) -> tuple[StageResult | None, CopyChoice | None]:
    """The timed copy, or the outcome that makes one pointless."""
    if on_same_device(run.path, run.local):
        text = (
            f"A local copy in {public_path(run.local)} would lie on the same device as the data; name another --local."
        )
        return None, CopyChoice("same device: not applicable", text, None)
    where, sample = public_path(run.local), min(run.total_bytes, run.config.disk_bytes)
    if reason := room_for(max(run.real_bytes, sample), run.local):
        return None, CopyChoice("does not fit", f"{where}: {reason}", None)
    smallest = data_files(run.path)[0].size_bytes  # copies are of whole shards, from the first one on
    if smallest > sample:
        text = f"{where}: one shard takes {smallest / 1e9:.2f} GB, more than disk_bytes = {sample / 1e9:.2f} GB allow"
        return None, CopyChoice("does not fit", text, None)
    limit = min(sample, max(smallest, _affordable_bytes(run)))
    target = run.local / f"staged-{new_run_id('stage')}"
    try:
        with run.measuring():
            result = stage(
                run.path,
                target,
                streams=run.config.copy_.streams,
                limit_bytes=limit,
                progress=lambda done, total: run.show("stage", done / total, f"{done / 1e9:.2f} GB"),
            )
    except BaseException:  # half a copy in a folder of its own is of no use to the next run
        remove_stage(target)
        raise
    run.measured_bytes += result.copied_bytes
    run.points.append(stage_point(result))
    return result, None


def _affordable_bytes(run: _Run) -> int:
    """What can be copied, and read back, in its share of the time at the storage's rate."""
    rates = [point.metrics["read_gbps"].value or 0.0 for point in run.points if point.params["stage"] == "storage"]
    return round(max(rates, default=0.0) * 1e9 * COPY_SHARE * run.config.measure_seconds / 2)


def stage_point(result: StageResult) -> Point:
    """A copy in the record's form; one copy is one sample and has no interval."""
    rate = result.copy_gbps
    metrics = {"verify_time_s": Metric(value=result.verify_s, unit="s", n=1)}
    if rate is None:
        nothing = "every shard was there already, nothing had to be copied"
        metrics |= {"stage_time_s": not_measured("s", nothing), "read_gbps": not_measured("GB/s", nothing)}
    else:
        metrics["stage_time_s"] = Metric(value=result.copy_s, unit="s", n=1, samples=(result.copy_s,))
        metrics["read_gbps"] = Metric(value=rate, unit="GB/s", n=1)
    return Point(
        params={"stage": "stage", "streams": result.streams, "bytes": result.copied_bytes, "files": result.num_files},
        metrics=metrics,
    )


def _run_ranks(run: _Run, predicted: Fed, staged: StageResult | None) -> Fed:
    """Really run N-1, N, N+1 ranks; once more around what was seen where that does not settle it."""
    config = run.config
    centre = max(1, (predicted.high or 2) - 1) if predicted.value is None else predicted.value
    seen: dict[int, Metric] = {}
    unusable: dict[int, str] = {}
    fed = Fed(None, reason="no ranks were run")
    for attempt in range(2):
        counts = [count for count in (centre - 1, centre, centre + 1) if 1 <= count <= run.max_ranks]
        counts = [count for count in counts if count not in seen]
        if not counts:
            break
        cells: list[tuple[Source, int]] = [("direct", count) for count in counts]
        if attempt == 0:
            asked = min(config.required_gpus, run.max_ranks)
            wanted = staged is not None or asked > max(counts)  # fewer than N-1 are fed if N-1 are
            cells += [("direct", asked)] if wanted and asked not in counts else []
            cells += [("staged", asked)] if staged is not None else []
        if attempt and not _enough_time(run, cells):
            break
        points = _launch(run, cells, staged)
        for count in {count for source, count in cells if source == "direct"}:
            _note(points, count, config.au_threshold, seen, unusable)
        fed = decide_fed(seen, threshold=config.au_threshold, unusable=unusable)
        if fed.value is not None and not fed.is_at_least:
            break
        centre = max(1, min(seen, default=2) - 2 if fed.value is None else fed.value + 1)
    return fed


def _note(
    points: Sequence[Point], count: int, threshold: float, seen: dict[int, Metric], unusable: dict[int, str]
) -> None:
    """Take over the AU that `count` ranks reached, or why it gives no verdict."""
    point, control = find_point(points, "direct", count), find_point(points, "synthetic", count)
    if point is None:
        unusable[count] = "not run"
        return
    rate = seen[count] = point.metrics["au_mlperf"]
    if rate.value is None:
        unusable[count] = rate.reason or "no AU"
    elif "insufficient" in point.flags and not missed_in_spite_of_few_steps(rate, threshold=threshold):
        unusable[count] = "insufficient"
    elif "harness_limited" in point.flags:
        reached = control.metrics["au_mlperf"].value if control else None
        if settles(rate.value, control=reached, threshold=threshold) is None:
            unusable[count] = "harness_limited"


def _make_run(run: _Run, cells: Sequence[tuple[Source, int]], staged: StageResult | None) -> TrainRun:
    folders: dict[Source, Path] = {"direct": run.path}
    engines: dict[Source, str] = {"direct": run.engine}
    if staged is not None and any(source == "staged" for source, _ in cells):
        folders["staged"] = staged.target
        engines["staged"] = choose_engine("auto", next(staged.target.glob("*.tfrecord*")))[0]
    assert run.layout is not None  # set when the data were opened
    return TrainRun(
        folders=folders,
        engines=engines,
        cells=tuple(cells),
        accelerator=run.accelerator,
        config=run.config.train,
        budget_s=run.left_s,
        layout=run.layout,
        expected_step_s={cell: _expected_step_s(run, cell[1]) for cell in cells if cell[0] == "direct"},
    )


def _expected_step_s(run: _Run, num_ranks: int) -> float:
    """A step of N ranks at the rate that N readers had."""
    rate = float(np.interp(num_ranks, list(run.rates), list(run.rates.values())))
    return num_ranks * run.accelerator.batch_size * run.record_bytes / 1e9 / rate if rate else 0.0


def _enough_time(run: _Run, cells: Sequence[tuple[Source, int]]) -> bool:
    return expected_seconds(_make_run(run, cells, None)) + START_S < run.left_s


def _launch(run: _Run, cells: Sequence[tuple[Source, int]], staged: StageResult | None) -> list[Point]:
    most = max(count for _, count in cells)
    run.show("ranks", 0.0, f"starting {most} ranks")
    result = train(
        _make_run(run, cells, staged),
        on_progress=lambda seen: run.show(
            "ranks", seen["round"] / seen["rounds"], f"{most} ranks, round {seen['round']} of {seen['rounds']}"
        ),
    )
    run.measured_s += result.wall_s
    run.measured_bytes += result.read_bytes
    run.peak_rss_bytes = max(run.peak_rss_bytes, result.peak_rss_bytes)
    run.warnings += result.warnings
    for source, text in result.invalid:
        told = f"ranks: {text}"
        if source == "staged":  # the verdict does not rest on the copy
            run.copy_invalid = told
            run.warnings.append(told)
        else:
            run.invalid.append(told)
    run.points += result.points
    return result.points


def _choose_copy(run: _Run, staged: StageResult | None, refused: CopyChoice | None) -> CopyChoice:
    """Whether a copy pays, from epochs at the rates that the required number of ranks had."""
    if refused is not None or staged is None:
        return refused or CopyChoice("not distinguishable", "No copy was made.", None)
    asked = min(run.config.required_gpus, run.max_ranks)
    if run.copy_invalid or staged.copy_gbps is None:
        return CopyChoice("not distinguishable", f"The copy was not measured: {run.copy_invalid or 'no bytes'}", None)
    images = run.real_bytes / run.record_bytes
    first = {source: _epoch_s(images, find_point(run.points, source, asked)) for source in ("direct", "staged")}
    direct, copied = first["direct"], first["staged"]
    if direct is None or copied is None:
        text = f"Too few steps were made by {asked} ranks within the time allowed to compare the two sources."
        return CopyChoice("not distinguishable", text, None)
    later = direct, copied
    if run.cache_holds:
        cached = _cached_epoch_s(run, images, asked)
        if cached is None:
            text = "Later epochs would come from the page cache, whose rate was not measured."
            return CopyChoice("not distinguishable", text, None)
        later = cached, cached
    return choose_copy(
        copy_s=run.real_bytes / 1e9 / staged.copy_gbps,
        direct_first_s=direct,
        direct_later_s=later[0],
        staged_first_s=copied,
        staged_later_s=later[1],
        epochs=run.config.copy_.epochs,
    )


def _epoch_s(images: float, point: Point | None) -> tuple[float, float, float] | None:
    """Seconds of an epoch at a point's rate, with its interval; None where there is none that means something."""
    rate = None if point is None or "insufficient" in point.flags else point.metrics["images_per_s"]
    if rate is None or not rate.value or rate.ci95 is None or rate.ci95[0] <= 0:
        return None
    low, high = rate.ci95
    return images / rate.value, images / high, images / low


def _cached_epoch_s(run: _Run, images: float, num_ranks: int) -> tuple[float, float, float] | None:
    """Seconds of an epoch from the page cache: as fast as the loader reads, or as the accelerators compute.

    It costs the same whichever way the first epoch was read, so that its uncertainty cancels and is left out.
    """
    control = find_point(run.points, "synthetic", num_ranks)
    if run.warm_rate is None or not run.warm_rate.value or control is None:
        return None
    computed = control.metrics["images_per_s"].value
    if not computed:
        return None
    seconds = images / min(run.warm_rate.value * num_ranks, computed)
    return seconds, seconds, seconds


def _record(
    run: _Run,
    predicted: Fed,
    measured: Fed,
    choice: CopyChoice,
    *,
    preset: str | None,
    command: Sequence[str],
    started: str,
) -> RunRecord:
    config, accelerator = run.config, run.accelerator
    what = f"{accelerator.label} training ResNet-50"
    outcome, requirement = judge_requirement(measured, required=config.required_gpus, what=what, invalid=run.invalid)
    best = find_point(run.points, "direct", measured.value or min(config.required_gpus, run.max_ranks))
    storage = _storage_at(run.points, predicted.value)
    paths = [None if point is None else point.read_path for point in (storage, best)]
    proven = all(path is not None and path.observed_route != "unknown" for path in paths)
    terms = (
        f"Each asks for {run.demand_gbps:.3f} GB/s: a batch of {accelerator.batch_size} images of "
        f"{run.record_bytes} bytes every {accelerator.step_time_s:g} s, AU at least {config.au_threshold:.2f}. "
        + ("Route proven by counters." if proven else "Route not proven.")
    )
    verdict = compose_verdict(
        outcome,
        requirement,
        subject=public_path(run.path),
        fed=measured,
        what=what,
        terms=terms,
        reasons=run.invalid,
        measured_seconds=run.measured_s,
        measured_bytes=run.measured_bytes,
    )
    return RunRecord(
        run_id=new_run_id("qualify"),
        kind="qualify",
        started_at=started,
        finished_at=utc_now(),
        command=tuple(command),
        workload=_workload(run, choice, preset),
        environment=collect(run.path),
        read_path=None if storage is None else storage.read_path,
        metrics=_metrics(run, predicted, measured, choice, storage, best),
        ranks=() if best is None else best.ranks,
        points=tuple(run.points),
        verdict=verdict,
        warnings=merge_warnings(
            [f"not valid: {text}" for text in run.invalid],
            run.warnings,
            [] if proven else ["route not proven: no exact counter here"],
        ),
    )


def _workload(run: _Run, choice: CopyChoice, preset: str | None) -> dict[str, Any]:
    accelerator = run.accelerator
    return {
        "path": public_path(run.path),
        "preset": preset,
        "accelerator": accelerator.name,
        "accelerator_source": accelerator.source,
        "emulated": accelerator.emulated,
        "scaled": accelerator.scaled,
        "batch_size": accelerator.batch_size,
        "step_time_s": accelerator.step_time_s,
        "record_bytes": run.record_bytes,
        "demand_gbps": run.demand_gbps,
        "au_threshold": run.config.au_threshold,
        "engine": run.engine,
        "engine_reason": run.engine_reason,
        "local": public_path(run.local),
        "dataset": {
            "num_images": run.num_images,
            "num_shards": run.num_shards,
            "bytes": run.total_bytes,
            "shape": None if run.layout is None else list(run.layout.shape),
        },
        "copy_or_not": {
            "outcome": choice.outcome,
            "sentence": choice.sentence,
            "epochs": list(choice.epochs),
            "direct_s": list(choice.direct_s) or None,
            "staged_s": list(choice.staged_s) or None,
        },
        "config": run.config.model_dump(mode="json", by_alias=True),
    }


def _storage_at(points: Sequence[Point], readers: int | None) -> Point | None:
    rows = [point for point in points if point.params["stage"] == "storage"]
    exact = [point for point in rows if point.params["threads"] == readers]
    return next(iter(exact or rows[-1:]), None)


def _metrics(
    run: _Run, predicted: Fed, measured: Fed, choice: CopyChoice, storage: Point | None, best: Point | None
) -> dict[str, Metric]:
    """The promised figures; what was not measured is null with its reason."""
    load = next((point for point in run.points if point.params["stage"] == "load"), None)
    copied = next((point for point in run.points if point.params["stage"] == "stage"), None)
    blocks = storage.metrics["read_gbps"].n if storage else 0
    steps = best.metrics["au_mlperf"].n if best else 0

    def take(point: Point | None, name: str, unit: str, why: str) -> Metric:
        return not_measured(unit, why) if point is None else point.metrics[name]

    no_ranks = "no valid point of that many ranks"
    metrics = {
        "read_gbps": take(storage, "read_gbps", "GB/s", "no storage point"),
        "read_iops": take(storage, "read_iops", "reads/s", "no storage point"),
        "latency_p50_us": take(storage, "latency_p50_us", "us", "no storage point"),
        "latency_p99_us": take(storage, "latency_p99_us", "us", "no storage point"),
    }
    for name, unit in (
        ("images_per_s", "images/s"),
        ("step_time_s", "s"),
        ("data_wait_s", "s"),
        ("sync_wait_s", "s"),
        ("data_stall_fraction", "fraction"),
        ("au_mlperf", "fraction"),
    ):
        metrics[name] = take(best, name, unit, no_ranks)
    metrics["gpus_fed_predicted"] = predicted.as_metric(n=blocks)
    metrics["gpus_fed_measured"] = measured.as_metric(n=steps)
    metrics["stage_time_s"] = take(copied, "stage_time_s", "s", choice.sentence)
    metrics["break_even_epochs"] = (
        not_measured("epochs", f"{choice.outcome}. {choice.sentence}")
        if choice.break_even_epochs is None
        else Metric(value=float(choice.break_even_epochs), unit="epochs", ci95=choice.break_even_range, n=steps)
    )
    metrics["cpu_seconds_per_gb"] = take(load, "cpu_seconds_per_gb", "s/GB", "no loader point")
    metrics["peak_rss_bytes"] = (
        Metric(value=float(run.peak_rss_bytes), unit="bytes", n=1, reason="sum over the ranks of the largest launch")
        if run.peak_rss_bytes
        else not_measured("bytes", "no ranks were run")
    )
    metrics["gpu_data_wait_s"] = not_measured("s", "no GPU: accelerators are emulated")
    metrics["scaling_efficiency"] = not_measured("fraction", "qualify does not run the scaling grid")
    metrics["joules_per_image"] = not_measured("J/image", "energy is not measured yet")
    return metrics
