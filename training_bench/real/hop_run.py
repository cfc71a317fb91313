"""`iobench train --hops --accelerator cpu|cuda`: what each hop adds to the step of a network that really trains.

RealRun -> RealPlan, the rungs' blocks -> launch -> logs -> a point a rung, a point a hop, and what the meter says
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...loaders.evidence import background_rate
from ...results.record import Point, new_run_id
from ...storage_bench.accelerators import Accelerator
from ...storage_bench.choice import choose_engine
from ...storage_bench.encoded import images_of
from ...storage_bench.launching.launch import launch_ranks
from ...storage_bench.launching.placing import Placing
from ..budget import check_memory
from ..command import TrainUsageError
from ..energy import energy_counters, idle_watts
from ..hops import Ladder, plan_ladder, tell_hops
from ..images import told_of_images, with_images
from ..outcome import TrainOutcome
from ..placed import place_warnings, told_of_places
from ..places import Places, Show
from ..plan import Block, RankPlan, Rung, Source
from ..summary import find_point, summarise_ranks
from ..train_run import TrainError
from .asked import RealRun, check_places, make_plan
from .plan import CAPTURE_STEPS, RealHopsPlan, RealPlan
from .points import not_learned

RANK_MODULE = "iobench.training_bench.real.hop_ranks"
WARMUP_STEPS = CAPTURE_STEPS
OF_EMULATED = ("au_mlperf", "au_dlio")  # there is no nominal step time to hold a step against


def run_real_hops(run: RealRun, *, seconds: float, show: Show) -> TrainOutcome:
    """Train on every rung in interleaved blocks; a staged copy is made first and removed afterwards.

    `run.steps` are counted of each rung in each round; a round that would not end within `seconds` is not begun.
    Raises what `run_real` raises.
    """
    if run.source == "synthetic":
        raise TrainUsageError("--hops goes from synthetic to --source direct or staged")
    check_places(run)
    training = make_plan(run)
    files = run.config.open(run.path).files
    engine, reason = choose_engine(run.engine, files[0])
    staged = run.source == "staged"
    ladder = plan_ladder(files, engine=engine, staged=staged)
    with ExitStack() as stack:
        folders: dict[Source, Path] = {"direct": run.path}
        if staged:
            folders["staged"] = run.local.absolute() / f"staged-{new_run_id('stage')}"
            stack.enter_context(run.places.copies(run.path, folders["staged"], num_ranks=run.num_ranks, show=show))
        told = hops_plan(training, ladder, folders, engine, seconds=seconds)
        check_memory(told.launch.model_copy(update={"num_ranks": run.places.most_on_a_host(run.num_ranks)}))
        points, results, invalid = _measure(told, folders, run.places, show)
    best = find_point(points, run.source, run.num_ranks)
    if best is None or not best.metrics["step_time_s"].samples:
        raise TrainError("no step was counted; raise --steps")
    hops = tell_hops(points, ladder, num_ranks=run.num_ranks)
    outcome = TrainOutcome(
        points=[*points, *hops.points],
        best=best,
        workload=_workload(run, told, reason) | told_of_places(results, run.path),
        warnings=(*_fewer_rounds(results, told), *place_warnings(results), *hops.warnings),
        invalid=invalid,
        metrics=dict(best.metrics),
        sentence=hops.lines,
    )
    images = told_of_images(results, num_threads=training.reader_threads)
    return with_images(outcome, images.named({folder.resolve(): run.path for folder in folders.values()}))


def hops_plan(
    training: RealPlan, ladder: Ladder, folders: Mapping[Source, Path], engine: str, *, seconds: float
) -> RealHopsPlan:
    """What the ranks are told: the same steps on every rung, after those that fill its reader's queue."""
    depth = max(1, training.reader_threads * training.prefetch_factor)
    blocks = tuple(_block(rung, training, depth, seconds) for rung in ladder.rungs)
    launch = RankPlan(
        num_ranks=training.num_ranks,
        blocks=blocks,
        rounds=training.rounds,
        budget_s=seconds,
        folders={name: str(folder.resolve()) for name, folder in folders.items()},
        engines=dict.fromkeys(folders, engine),
        record_bytes=_image_bytes(training),
        image_shape=training.image_shape,
        accelerator=training.device,
        step_time_s=0.0,
        batch_size=training.batch_size,
        reader_threads=max(1, training.reader_threads),
        prefetch_depth=depth,
        shuffle=training.shuffle,
        seed=training.seed,
        images=images_of(training),
    )
    each = sum(block.drop_steps + block.count_steps for block in blocks)
    steps = WARMUP_STEPS + training.rounds * each
    return RealHopsPlan(
        training=training.model_copy(update={"steps": steps, "engine": engine}),
        launch=launch,
        warmup_steps=WARMUP_STEPS,
    )


def _block(rung: Source | Rung, training: RealPlan, depth: int, seconds: float) -> Block:
    reads = rung not in ("synthetic", "host")
    return Block(
        source=rung,
        num_ranks=training.num_ranks,
        drop_steps=max(training.drop_steps, depth + 1 if reads else 1),
        count_steps=training.steps,
        limit_s=seconds,
    )


def _image_bytes(training: RealPlan) -> int:
    height, width, channels = training.image_shape
    return height * width * channels


def _measure(
    told: RealHopsPlan, folders: Mapping[Source, Path], places: Places, show: Show
) -> tuple[list[Point], list[dict[str, Any]], tuple[str, ...]]:
    training, plan = told.training, told.launch
    counters = places.counters(folders)
    rates = {counter: background_rate(counter) or 0.0 for counter in set(counters.values())}
    idle = idle_watts(energy_counters())
    with TemporaryDirectory(prefix="iobench-ranks-") as folder:
        results = launch_ranks(
            RANK_MODULE,
            told.model_dump(mode="json"),
            num_ranks=plan.num_ranks,
            folder=Path(folder),
            timeout_s=training.max_seconds,
            emulated=False,
            placing=Placing(training.placement, training.device),
            environment=dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(training.threads)),
            hosts=places.hosts,
            ssh=places.ssh,
            on_progress=lambda seen: show(
                "rounds", seen["round"] / seen["rounds"], f"round {seen['round']} of {seen['rounds']}"
            ),
        )
    computes = Accelerator(training.device, 0.0, plan.batch_size, False, "computed here", emulated=False)
    background = {source: rates[counter] for source, counter in counters.items()}
    points, invalid = summarise_ranks(
        plan, computes, results, counters=counters, background_bps=background, idle_w=idle
    )
    return [_as_real(point, training) for point in points], results, tuple(text for _, text in invalid)


def _as_real(point: Point, training: RealPlan) -> Point:
    """A point of the shared meter with what real training has instead of a nominal step time."""
    params = {name: value for name, value in point.params.items() if name != "step_time_s"}
    params |= {"stage": "real", "model": training.model, "precision": training.precision, "labels": training.labels}
    metrics = {name: metric for name, metric in point.metrics.items() if name not in OF_EMULATED}
    return point.model_copy(
        update={
            "params": params,
            "metrics": metrics | not_learned("blocks on every source in turn are no training to learn from"),
            "flags": tuple(flag for flag in point.flags if flag != "harness_limited"),
        }
    )


def _workload(run: RealRun, told: RealHopsPlan, reason: str) -> dict[str, Any]:
    training = told.training
    exclude = {"data", "validate_on", "checkpoint_folder", "num_ranks", "threads", "resume"}
    return {
        **training.model_dump(mode="json", exclude=exclude),
        "accelerator": training.device,
        "emulated": False,
        "hosts": [host.name for host in run.places.of(run.num_ranks)],
        "scaling": run.scaling,
        "global_batch": training.global_batch,
        "engine_reason": reason,
        "hops": [block.source for block in told.launch.blocks],
        "steps_per_round": run.steps,
        "clock": "host" if training.device == "cpu" else "compute stream",
    }


def _fewer_rounds(results: Sequence[Mapping[str, Any]], told: RealHopsPlan) -> tuple[str, ...]:
    rounds = 1 + max((log["round"] for log in results[0]["blocks"]), default=-1)
    if rounds >= told.launch.rounds:
        return ()
    return (f"train: {rounds} of {told.launch.rounds} rounds fitted into {told.launch.budget_s:.0f} s",)
