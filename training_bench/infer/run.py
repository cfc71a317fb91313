"""`iobench infer`: large-batch validation inference, its sources beside each other in interleaved blocks.

InferConfig, a path -> InferPlan -> launch (one for each network) -> logs -> points
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...loaders.evidence import background_rate
from ...loaders.shards import ShardSet
from ...results.record import Metric, Point, new_run_id
from ...storage_bench.choice import choose_engine
from ...storage_bench.decoded import together
from ...storage_bench.launching.launch import launch_ranks
from ...storage_bench.launching.placing import Placing
from .. import saved
from ..budget import check_memory
from ..images import ImagesTold, told_of_images, with_images
from ..models import ModelName
from ..outcome import Outcome
from ..placed import place_warnings, told_of_places
from ..plan import Source
from ..train import START_S
from .plan import InferConfig, InferError, InferPlan, InferUsageError
from .points import infer_points
from .search import agreement_metric, rate_metrics
from .sentences import infer_sentences
from .setup import InferRun, check_run, make_plan, resolve

RANK_MODULE = "iobench.training_bench.infer.ranks"
SLACK_S = 60.0

Show = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class _Data:
    """Where each source lies, how it is read, and what an image is."""

    folders: dict[Source, Path]
    engines: dict[Source, str]
    reason: str
    shards: ShardSet


def run_infer(run: InferRun, *, show: Show) -> Outcome:
    """Answer batches of every network, batch size and source; a staged copy is made first and removed afterwards.

    Raises InferUsageError or ModelError before any rank starts, InferError where memory is short, LaunchError where a
    rank fails.
    """
    config = run.config
    run.places.require(config.num_ranks)
    shards = config.open(run.path)
    check_run(run, shards)
    folder = run.local.absolute() / f"staged-{new_run_id('stage')}"
    with ExitStack() as stack:
        if "staged" in config.sources:
            stack.enter_context(run.places.copies(run.path, folder, num_ranks=config.num_ranks, show=show))
        places: dict[Source, Path] = {"direct": run.path, "staged": folder}
        folders = {source: place for source, place in places.items() if source in config.sources}
        engine, reason = choose_engine(config.engine, shards.files[0])
        data = _Data(folders, dict.fromkeys(folders, engine), reason, shards)
        found = [_run_model(run, name, data, show) for name in config.models]
    return _outcome(run, data, found)


@dataclass(frozen=True, slots=True)
class _Found:
    """What one network's launch came to."""

    points: list[Point]
    plan: InferPlan
    invalid: tuple[str, ...]
    num_rounds: int
    peak_rss_bytes: int
    told: Mapping[str, Any]
    images: ImagesTold
    moved: tuple[str, ...]
    searches: list[dict[str, Any]]


def checkpoint_of(path: Path) -> Path:
    """The file of the weights: itself, or the last checkpoint of a folder; InferUsageError where there is none."""
    found = saved.found(path)[-1:] if path.is_dir() else [path] if path.is_file() else []
    if not found:
        raise InferUsageError(f"--weights {path}: there is no checkpoint; name one of iobench train, or its folder")
    return found[0]


def _run_model(run: InferRun, name: ModelName, data: _Data, show: Show) -> _Found:
    plan, accelerators = make_plan(run, name, data.folders, data.engines, data.shards)
    for size in plan.sizes:
        check_memory(size.model_copy(update={"num_ranks": run.places.most_on_a_host(size.num_ranks)}))
    counters = run.places.counters(data.folders)
    rates = {counter: background_rate(counter) or 0.0 for counter in set(counters.values())}

    def on_progress(seen: Mapping[str, Any]) -> None:
        told = f"{seen['rate']:.3g} batches/s" if "rate" in seen else f"round {seen['round']} of {seen['rounds']}"
        show(name, seen["round"] / seen["rounds"], told)

    with TemporaryDirectory(prefix="iobench-ranks-") as folder:
        results = launch_ranks(
            RANK_MODULE,
            plan.model_dump(mode="json"),
            num_ranks=run.config.num_ranks,
            folder=Path(folder),
            timeout_s=_limit_s(run.config, plan),
            emulated=plan.network is None,
            placing=Placing(run.config.placement, "emulated" if plan.network is None else plan.network.device),
            environment=_threads(plan),
            hosts=run.places.hosts,
            ssh=run.places.ssh,
            on_progress=on_progress,
        )
    points, invalid = infer_points(
        plan,
        accelerators,
        results,
        counters=counters,
        background_bps={source: rates[counter] for source, counter in counters.items()},
    )
    points = [_finished(point, name, run, plan, results) for point in points]
    return _Found(
        points=points,
        plan=plan,
        invalid=tuple(f"{name}, {text}" for text in invalid),
        num_rounds=1 + max((log["round"] for log in results[0]["logs"]), default=-1),
        peak_rss_bytes=sum(result["peak_rss_bytes"] for result in results),
        told=told_of_places(results, run.path),
        images=told_of_images(results, num_threads=run.config.prefetch_threads).named(
            {folder.resolve(): run.path for folder in data.folders.values()}
        ),
        moved=place_warnings(results),
        searches=results[0]["rates"],
    )


def _limit_s(config: InferConfig, plan: InferPlan) -> float:
    """The longest that a launch may take; who hangs is told.  Rounds and searches have `seconds` each."""
    searches = len(plan.bounds) * len(plan.sizes)
    return 2 * (1 + searches) * config.seconds + START_S + SLACK_S


def _threads(plan: InferPlan) -> dict[str, str]:
    if plan.network is None:
        return {}
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(plan.network.threads))


def _finished(
    point: Point, name: ModelName, run: InferRun, plan: InferPlan, results: Sequence[Mapping[str, Any]]
) -> Point:
    """The point with the network, the rate within the bound, and the agreement with fp32."""
    size = next(n for n, each in enumerate(plan.sizes) if each.batch_size == point.params["batch_size"])
    config = run.config
    block = next(block for block in plan.sizes[size].blocks if block.source == point.params["source"])
    params = {
        **point.params,
        "model": name,
        "precision": config.precision,
        "queue_depth_asked": config.queue_depth,
        "prefetch_threads": config.prefetch_threads,
        "dropped_steps": block.drop_steps,
        "mode": "offline" if config.latency_bound_s is None else "latency",
        "latency_bound_s": config.latency_bound_s,
    }
    metrics = dict(point.metrics)
    if config.latency_bound_s is not None and point.params["source"] in config.sources:
        metrics |= rate_metrics(results[0]["rates"], size, str(point.params["source"]), plan, config)
    if config.real:
        metrics["top1_agreement"] = agreement_metric([result["agreement"] for result in results], config.precision)
    return point.model_copy(update={"params": params, "metrics": metrics})


def _outcome(run: InferRun, data: _Data, found: Sequence[_Found]) -> Outcome:
    config = run.config
    points = [point for each in found for point in each.points]
    asked = [point for point in points if point.params["source"] in config.sources]
    known = [point for point in asked if point.metrics["images_per_s"].value is not None]
    if not known:
        raise InferError(f"no batch was counted within {config.seconds:g} s; raise --seconds, or lower --batch-size")
    best = max(known, key=lambda point: point.metrics["images_per_s"].value or 0.0)
    shards = data.shards
    shape = config.sample_shape(shards.index.layout)
    workload = {
        **config.model_dump(mode="json", exclude={"about"}),
        "emulated": not config.real,
        "hosts": [host.name for host in run.places.of(config.num_ranks)],
        "accelerator_source": resolve(config, config.models[0], config.batch_sizes[0]).source,
        "weights": "random" if run.weights is None else "checkpoint",
        "queue_depths": {str(size.batch_size): size.prefetch_depth for size in found[0].plan.sizes},
        "engine": next(iter(data.engines.values()), None),
        "engine_reason": data.reason,
        "num_images": len(shards),
        "images_per_file": max(shards.index.shard_sizes),
        "scaled_down": config.scaled_down(
            images_per_file=max(shards.index.shard_sizes), side=min(shape[:2], default=0)
        ),
        "image_shape": list(shape),
        "codec": shards.index.layout.codec,
        "record_bytes": sum(stamp.size_bytes for stamp in shards.index.stamps) // len(shards),
        **found[0].told,
        "searches": [search for each in found for search in each.searches],
    }
    peak = max(each.peak_rss_bytes for each in found)
    images = ImagesTold(together(each.images.decoded for each in found), config.prefetch_threads)
    outcome = Outcome(
        points=points,
        best=best,
        workload=workload,
        warnings=tuple(_warnings(run, found)),
        invalid=tuple(text for each in found for text in each.invalid),
        metrics={**best.metrics, "peak_rss_bytes": Metric(value=float(peak), unit="bytes", n=1)},
        sentence="\n".join([*infer_sentences(config, asked, images), *_smaller(workload["scaled_down"])]),
    )
    return with_images(outcome, images, lines=())


def _warnings(run: InferRun, found: Sequence[_Found]) -> list[str]:
    config, warnings = run.config, []
    for size in found[0].plan.sizes:
        if size.prefetch_depth < config.queue_depth:
            held = f"{config.queue_memory_share:.0%} of memory holds no more"
            asked = f"{size.prefetch_depth} batches of {size.batch_size} instead of {config.queue_depth}"
            warnings.append(f"queue: {asked}: {held}")
    warnings += [text for each in found for text in each.moved]
    for name, each in zip(config.models, found, strict=True):
        if each.num_rounds < config.rounds:
            warnings.append(f"{name}: {each.num_rounds} of {config.rounds} rounds fitted into {config.seconds:.0f} s")
    accelerator = resolve(config, config.models[0], config.batch_sizes[0])
    if accelerator.source.startswith("MLPerf"):
        warnings.append(
            "the step time was published of training, which takes longer than inference: give one that you measured, "
            "as --accelerator SECONDS"
        )
    if config.real and config.precision != "fp32" and run.weights is None:
        warnings.append("the weights are random: agreement with fp32 is that of an untrained network; give --weights")
    return warnings


def _smaller(less: Mapping[str, tuple[int, int]]) -> list[str]:
    """What is less than in the study whose settings are the defaults, figure by figure."""
    if not less:
        return []
    told = (f"{name.replace('_', ' ')} {here} instead of {there}" for name, (here, there) in less.items())
    return [f"Scaled down from the study whose settings are the defaults: {', '.join(told)}."]
