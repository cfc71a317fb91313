"""`iobench train --accelerator cpu|cuda`: a network that really trains on the data, and where its time went.

RealRun (asked.py) -> RealPlan -> launch -> every rank's clock of steps and losses -> one point
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...loaders.evidence import CounterSet, RouteEvidence, background_rate, counter_for, judge, total
from ...loaders.page_cache import cache_fraction
from ...loaders.shards import ShardSet
from ...results.record import new_run_id
from ...storage_bench.choice import choose_engine
from ...storage_bench.evidence import cold_scope_of, doubts, read_path
from ...storage_bench.launching.launch import launch_ranks
from ...storage_bench.launching.placing import Placing
from ..images import told_of_images, with_images
from ..outcome import TrainOutcome
from ..placed import place_warnings, told_of_places
from ..places import Places
from .asked import RealRun, check_checkpoint, check_places, cores_shared, make_plan
from .plan import RealPlan
from .points import loss_curve, sentence_of, summarise_real

RANK_MODULE = "iobench.training_bench.real.ranks"


def run_real(run: RealRun, *, show: Callable[[str, float, str], None]) -> TrainOutcome:
    """Train; a staged copy is made first and removed afterwards.

    Raises TrainUsageError, ModelError or FeedError before any rank is started, SavedError for a checkpoint that cannot
    be gone on from, LaunchError where a rank fails or dies.
    """
    check_places(run)
    plan = make_plan(run)
    changed = check_checkpoint(plan, run.checkpoint) if run.checkpoint is not None else ()
    folder = run.local.absolute() / f"staged-{new_run_id('stage')}" if plan.source == "staged" else run.path
    with ExitStack() as stack:
        if plan.source == "staged":
            stack.enter_context(run.places.copies(run.path, folder, num_ranks=run.num_ranks, show=show))
        here = plan.source != "synthetic" and folder.exists()  # copies may be on other hosts only
        files = ShardSet.open(folder).files if here else []
        engine, reason = _engine(run, plan, files)
        plan = plan.model_copy(update={"data": str(folder.resolve()), "engine": engine})
        watch = _Watch(files)
        results = _launch(plan, run.places, show)
        evidence = watch.judge(plan, results)
    path = None if evidence is None else read_path(evidence, cold_scope=cold_scope_of(folder))
    point = summarise_real(plan, results, path)
    first = results[0]
    workload = {
        **plan.model_dump(
            mode="json", exclude={"data", "validate_on", "checkpoint_folder", "num_ranks", "threads", "trace_spans"}
        ),
        "accelerator": plan.device,
        "emulated": False,
        "hosts": [host.name for host in run.places.of(run.num_ranks)],
        "scaling": run.scaling,
        "global_batch": plan.global_batch,
        "engine_reason": reason,
        "parameters": first["parameters"],
        "first_step": first["first_step"],
        **told_of_places(results, run.path),
        "loss_curve": loss_curve(first["losses"]),
    }
    invalid = evidence.invalid_reason() if evidence is not None else None
    outcome = TrainOutcome(
        points=[point],
        best=point,
        workload=workload,
        warnings=(
            *changed,
            *(doubts(evidence) if evidence is not None else ()),
            *cores_shared(plan),
            *place_warnings(results),
        ),
        invalid=(invalid,) if invalid else (),
        metrics=dict(point.metrics),
        sentence=sentence_of(plan, point, first),
        logs=tuple(results),
    )
    told = told_of_images(results, num_threads=plan.reader_threads)
    return with_images(outcome, told.named({folder.resolve(): run.path}))


def _engine(run: RealRun, plan: RealPlan, files: Sequence[Path]) -> tuple[str, str]:
    """The engine that reads the files, chosen by those of the data where the copies are on other hosts only."""
    if plan.source == "synthetic":
        return "auto", "nothing is read"
    return choose_engine(run.engine, (files or ShardSet.open(run.path).files)[0])


def _launch(plan: RealPlan, places: Places, show: Callable[[str, float, str], None]) -> list[dict[str, Any]]:
    def on_progress(seen: dict[str, Any]) -> None:
        if "validated" in seen:
            show("validation", seen["validated"] / seen["batches"], f"batch {seen['validated']} of {seen['batches']}")
        else:
            show("steps", seen["step"] / seen["steps"], f"step {seen['step']} of {seen['steps']}")

    with TemporaryDirectory(prefix="iobench-ranks-") as folder:
        return launch_ranks(
            RANK_MODULE,
            plan.model_dump(mode="json"),
            num_ranks=plan.num_ranks,
            folder=Path(folder),
            timeout_s=plan.max_seconds,
            emulated=False,
            placing=Placing(plan.placement, plan.device),
            environment={"OMP_NUM_THREADS": str(plan.threads), "MKL_NUM_THREADS": str(plan.threads)},
            hosts=places.hosts,
            ssh=places.ssh,
            on_progress=on_progress,
        )


class _Watch:
    """What decides about the way the bytes took, and what others read just before the ranks start."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._counter: CounterSet | None = counter_for(files) if files else None
        if self._counter is not None:
            self._background = background_rate(self._counter) or 0.0
            self._resident = cache_fraction(files)

    def judge(self, plan: RealPlan, results: Sequence[Mapping[str, Any]]) -> RouteEvidence | None:
        """The way the bytes took of all epochs together; those after the first may come from memory."""
        if self._counter is None:
            return None
        went = total({result["machine"]: result["counters"] for result in reversed(results)}.values())
        own = [result["process_bytes"] for result in results]
        seconds = max(result["steps_ns"][-1][-1] - result["steps_ns"][0][0] for result in results) / 1e9
        return judge(
            self._counter,
            engine=plan.engine,
            page_cache=None,
            cache_fraction=self._resident,
            cache_fraction_after=cache_fraction(self._files),
            delivered_bytes=sum(result["delivered_bytes"] for result in results),
            payload_bytes=sum(result["payload_bytes"] for result in results),
            raw_device_bytes=went.pop(self._counter.name, None),
            process_bytes=None if None in own else sum(own),
            background_bytes=self._background * seconds,
            beside=went,
        )
