"""What `iobench train` runs: one source under N ranks beside its control, or the search for the largest N fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from ..loaders.discovery import find_shards
from ..loaders.shards import ShardSet
from ..loaders.traced import MAX_SPANS
from ..results.fed import Fed
from ..results.quantities import counted
from ..results.record import Point, new_run_id
from ..results.wording import accelerator_name
from ..storage_bench.accelerators import Accelerator, resolve_accelerator
from ..storage_bench.choice import choose_engine
from .budget import check_time
from .fed import fed_by_ranks
from .hops import Ladder, plan_ladder, tell_hops
from .images import with_images
from .outcome import TrainOutcome
from .placed import told_of_places
from .places import Places
from .plan import Source
from .summary import find_point, find_straggler
from .train import TrainResult, train
from .train_run import Cell, FindMax, TrainConfig, TrainError, TrainRun

LEAST_SHARE = 0.01  # of a step: less is what schedulers do
STEPS = 10  # of one round, where nobody says otherwise


class TrainUsageError(TrainError):
    """A source or size that does not exist."""

    exit_status = 2


def run_train(
    path: Path,
    config: TrainConfig,
    *,
    num_ranks: int,
    accelerator: str,
    batch_size: int | None,
    steps: int | None,
    source: str,
    engine: str,
    local: Path,
    seconds: float,
    show: Callable[[str, float, str], None],
    find_max: float | None = None,
    hops: bool = False,
    model: str = "resnet50",
    places: Places | None = None,
    traced: bool = False,
) -> TrainOutcome:
    """Run `num_ranks` ranks on one source; a staged copy is made first and removed afterwards.

    With `find_max`, an AU, run as many of them as reach it, one less and one more.  With `hops` every rung between
    synthetic and the storage is run beside it, and the local copy where it is the source.
    """
    asked = _checked(source, find_max=find_max, hops=hops)
    places = places or Places()
    places.require(num_ranks)
    chosen = resolve_accelerator(accelerator, batch_size=batch_size, model=model)
    shards = ShardSet.open(path)
    if len(shards) < num_ranks:
        raise TrainError(f"{path}: {len(shards)} images do not give work to {num_ranks} ranks; use fewer, or more data")
    folder = local.absolute() / f"staged-{new_run_id('stage')}" if asked == "staged" else path
    with ExitStack() as stack:
        if asked == "staged":
            stack.enter_context(places.copies(path, folder, num_ranks=num_ranks, show=show))
        used, reason = choose_engine(engine, find_shards(folder if folder.exists() else path)[0])
        ladder = plan_ladder(shards.files, engine=used, staged=asked == "staged") if hops else None
        folders: dict[Source, Path] = {} if asked == "synthetic" else {asked: folder}
        if ladder is not None:
            folders["direct"] = path
        run = TrainRun(
            folders=folders,
            engines=dict.fromkeys(folders, used),
            cells=() if find_max is not None else _cells(asked, ladder, num_ranks),
            accelerator=chosen,
            config=config,
            budget_s=seconds,
            steps=STEPS if steps is None and find_max is None else steps,
            layout=shards.index.layout,
            find=None if find_max is None else FindMax(high=num_ranks, threshold=find_max),
            places=places,
            trace_spans=MAX_SPANS // num_ranks if traced else 0,
        )
        check_time(run)
        result = train(run, on_progress=lambda seen: show("ranks", seen["round"] / seen["rounds"], told(seen)))
    workload = {
        "model": model,
        **_described(chosen),
        "source": asked,
        "engine": used,
        "engine_reason": reason,
        "hosts": [host.name for host in places.of(num_ranks)],
        "record_bytes": sum(stamp.size_bytes for stamp in shards.index.stamps) // len(shards),
    }
    workload |= told_of_places(result.logs, path)
    if find_max is not None:
        outcome = _found(result, workload, threshold=find_max, label=chosen.label)
    else:
        outcome = _ran(result, workload, source=asked, num_ranks=num_ranks, ladder=ladder)
    return with_images(outcome, result.images.named({folder.resolve(): path}))


def _checked(source: str, *, find_max: float | None, hops: bool) -> Source:
    """The source, where it exists and goes with what else is asked for."""
    if source not in get_args(Source):
        raise TrainUsageError(f"--source {source}: choose {', '.join(get_args(Source))}")
    if find_max is not None and source != "direct":
        raise TrainUsageError(f"--find-max reads the storage in place; it does not go with --source {source}")
    if hops and (find_max is not None or source == "synthetic"):
        raise TrainUsageError("--hops goes from synthetic to --source direct or staged, without --find-max")
    asked: Source = source  # type: ignore[assignment]  # checked above
    return asked


def _described(chosen: Accelerator) -> dict[str, Any]:
    """What the record says of the accelerator."""
    return {
        "accelerator": chosen.name,
        "accelerator_source": chosen.source,
        "emulated": chosen.emulated,
        "scaled": chosen.scaled,
        "batch_size": chosen.batch_size,
        "step_time_s": chosen.step_time_s,
    }


def _ran(
    result: TrainResult, workload: dict[str, Any], *, source: Source, num_ranks: int, ladder: Ladder | None
) -> TrainOutcome:
    """What one source showed, and every hop to it where there is a ladder."""
    best = _there(find_point(result.points, source, num_ranks))
    lines = "\n".join(filter(None, (_rate_sentence(best), _of_straggler(best))))
    outcome = _outcome(result, best, workload, sentence=lines)
    if ladder is None:
        return outcome
    hops = tell_hops(result.points, ladder, num_ranks=num_ranks)
    return replace(
        outcome,
        points=[*outcome.points, *hops.points],
        warnings=(*outcome.warnings, *hops.warnings),
        sentence="\n".join(filter(None, (hops.lines, lines))),
    )


def _found(result: TrainResult, workload: dict[str, Any], *, threshold: float, label: str) -> TrainOutcome:
    """What the search for the largest number of ranks fed came to."""
    fed = fed_by_ranks(result.points, threshold=threshold)
    best = _there(_best(result, fed))
    searched = {**workload, "au_threshold": threshold, "search": list(result.trials)}
    outcome = _outcome(result, best, searched, sentence=_sentence(result, fed, threshold, label))
    measured = fed.as_metric(n=best.metrics["au_mlperf"].n)
    return replace(outcome, metrics={**outcome.metrics, "gpus_fed_measured": measured})


def _there(point: Point | None) -> Point:
    if point is None:
        raise TrainError("no block was run within the time allowed; raise --seconds")
    return point


def _outcome(result: TrainResult, best: Point, workload: dict[str, Any], *, sentence: str) -> TrainOutcome:
    return TrainOutcome(
        points=list(result.points),
        best=best,
        workload=workload,
        warnings=result.warnings,
        invalid=tuple(text for _, text in result.invalid),
        metrics=dict(best.metrics),
        sentence=sentence,
        logs=result.logs,
        block_labels=result.block_labels,
    )


def _cells(asked: Source, ladder: Ladder | None, num_ranks: int) -> tuple[Cell, ...]:
    """What is run where nothing is searched for: the source, or every rung of the ladder."""
    rungs = (asked,) if ladder is None else ladder.rungs
    return tuple((rung, num_ranks) for rung in rungs)


def _rate_sentence(point: Point) -> str:
    """`2 ranks on emulated H100, direct: 3,571 images/s at AU 0.987, 0.2% of the time waiting for data.`"""
    rate, used, stall = (point.metrics[name].value for name in ("images_per_s", "au_mlperf", "data_stall_fraction"))
    ranks = counted(int(point.params["num_ranks"] or 1), "rank")
    where = f"{ranks} on {accelerator_name(point.params)}, {point.params['source']}"
    if rate is None or used is None or stall is None:
        return f"{where}: no step was counted."
    return f"{where}: {rate:,.0f} images/s at AU {used:.3f}, {stall:.1%} of the time waiting for data."


def _of_straggler(point: Point) -> str:
    """Which rank the others waited for most, and how long; nothing for one rank."""
    late = find_straggler(point)
    if late is None:
        return ""
    cost = f"{late.cost_s * 1e3:.2f} ms a step each, {late.share:.1%} of it"
    if late.share < LEAST_SHARE:
        return f"No rank held the others up: they waited {cost} for rank {late.rank}, the slowest."
    return (
        f"The others waited most for rank {late.rank} on {late.host}: {cost}; of all that ranks waited for each other, "
        f"{late.for_data:.0%} was the last one's wait for data."
    )


def told(seen: Mapping[str, Any]) -> str:
    """How far the ranks are, in words."""
    return f"trying {seen['trying']} ranks" if "trying" in seen else f"round {seen['round']} of {seen['rounds']}"


def _best(result: TrainResult, fed: Fed) -> Point | None:
    """The point of the largest number that is fed; where none is, that of the fewest ranks that ran."""
    counts = sorted(
        int(point.params["num_ranks"] or 0) for point in result.points if point.params["source"] == "direct"
    )
    return find_point(result.points, "direct", fed.value or min(counts, default=0))


def _sentence(result: TrainResult, fed: Fed, threshold: float, label: str) -> str:
    """`4 emulated H100 are fed at AU 0.90: 3 ranks reached 0.98, 4 0.93, 5 0.75.`"""
    reached = {
        int(point.params["num_ranks"] or 0): rate.value
        for point in result.points
        if point.params["source"] == "direct" and (rate := point.metrics["au_mlperf"]).value is not None
    }
    seen = ", ".join(f"{count} reached {value:.3f}" for count, value in sorted(reached.items())) or "no counted step"
    if fed.value is None:
        return f"How many {label} are fed at AU {threshold:.2f} is not known ({fed.reason}); ranks: {seen}."
    least = "at least " if fed.is_at_least else ""
    note = f" ({fed.reason.replace('at least: ', '')})" if fed.reason else ""
    return f"Fed at AU {threshold:.2f}: {least}{fed.value} {label}{note}; ranks: {seen}."
