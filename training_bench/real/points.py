"""From every rank's marks and losses to one point: where a step's time went, and what the network learned.

A sample is one time block: a stretch of counted steps, averaged over the ranks.  On the host and, on CUDA, on the
compute stream the parts of a step add up to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...results.record import Metric, Point, RankReport, ReadPath, not_measured
from ...results.stats import summarise
from ..energy import block_energy, energy_metrics
from ..images import added_up, hop_metrics, told_of_images
from ..models import model_info
from ..placed import CLIENT_RATE, RANK_RATE, Read, client_rate, rank_rates
from ..summary import find_straggler
from ..timeline import TRAINING_PARTS, Times, Waiting, step_parts, waiting
from .plan import RealPlan

BLOCKS = 8
CURVE_POINTS = 1000
FINAL_SHARE = 0.1
UNITS = {
    "step_time_s": "s",
    **dict.fromkeys(TRAINING_PARTS, "s"),
    "overhead_s": "s",
    "communication_s": "s",
    "straggler_wait_s": "s",
    "straggler_data_s": "s",
    "straggler_cost_s": "s",
    "data_stall_fraction": "fraction",
    "images_per_s": "images/s",
}
STREAM_UNITS = {f"gpu_{name}": "s" for name in ("step_time_s", *TRAINING_PARTS, "overhead_s")}
_TOO_FEW = "no step is left to count; raise --steps, or lower drop_steps"
_NO_STREAM = "there is no compute stream of its own on a CPU"


def summarise_real(plan: RealPlan, results: Sequence[Mapping[str, Any]], path: ReadPath | None) -> Point:
    """The one point of a training; `results` are those of all ranks, in order."""
    counted = [np.array(result["steps_ns"], dtype=np.int64)[plan.drop_steps :] for result in results]
    streams = [_stream(result, plan) for result in results]
    met = waiting(counted)
    per_rank = [_blocks(rows, streams[rank], met, rank, plan) for rank, rows in enumerate(counted)]
    metrics = {name: _metric(name, np.array([rows[name] for rows in per_rank])) for name in (*UNITS, *STREAM_UNITS)}
    reads = [{result["rank"]: Read(result["delivered_bytes"], result["read_s"]) for result in results}]
    own_rates = rank_rates(reads)
    metrics |= hop_metrics(
        added_up(result.get("hop_s", {}) for result in results),
        told_of_images(results, num_threads=plan.reader_threads),
        wall_s=sum(result["steps_ns"][-1][1] - result["steps_ns"][0][0] for result in results) / 1e9,
        waited=metrics["data_stall_fraction"],
        to_gpu=plan.device == "cuda",
    )
    metrics[CLIENT_RATE] = client_rate(reads, {result["rank"]: result["machine"] for result in results})
    return Point(
        params={
            "stage": "real",
            "source": plan.source,
            "num_ranks": plan.num_ranks,
            "accelerator": plan.device,
            "emulated": False,
            "model": plan.model,
            "precision": plan.precision,
            "batch_size": plan.batch_size,
            "labels": plan.labels,
            "counted_steps": len(counted[0]),
        },
        read_path=path,
        metrics={**metrics, **_energy(plan, results), **_learned(plan, results[0])},
        ranks=tuple(
            _report(result, rows, own_rates[result["rank"]]) for result, rows in zip(results, per_rank, strict=True)
        ),
    )


def _energy(plan: RealPlan, results: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
    """Of the whole loop as one block, dropped steps included: counters are too coarse for a step."""
    images = plan.batch_size * sum(len(result["steps_ns"]) for result in results)
    taken, reason = block_energy([result.get("energy") for result in results], images=images)
    return energy_metrics([taken], idle_w=None, reason=reason)


def _stream(result: Mapping[str, Any], plan: RealPlan) -> Times | None:
    stream = result.get("stream_ns")
    return None if stream is None else np.array(stream, dtype=np.int64)[plan.drop_steps :]


def _blocks(rows: Times, stream: Times | None, met: Waiting, rank: int, plan: RealPlan) -> dict[str, list[float]]:
    """One rank's figures by time block."""
    found: dict[str, list[float]] = {name: [] for name in (*UNITS, *STREAM_UNITS)}
    for piece in np.array_split(np.arange(len(rows)), min(BLOCKS, max(1, len(rows) // 2))):
        if not len(piece):
            continue
        parts = step_parts(rows[piece], TRAINING_PARTS)
        waits = {
            "communication_s": met.communication,
            "straggler_wait_s": met.for_others,
            "straggler_data_s": met.for_data,
            "straggler_cost_s": met.cost,
        }
        figures = {
            **parts,
            **{name: float(table[rank, piece].mean()) / 1e9 for name, table in waits.items()},
            "data_stall_fraction": parts["data_wait_s"] / parts["step_time_s"],
            "images_per_s": plan.batch_size / parts["step_time_s"],
        }
        if stream is not None:
            figures |= {f"gpu_{name}": value for name, value in step_parts(stream[piece], TRAINING_PARTS).items()}
        for name, value in figures.items():
            found[name].append(value)
    return found


def _metric(name: str, table: np.ndarray[Any, np.dtype[np.float64]]) -> Metric:
    """Of (ranks, blocks): images of all ranks together, everything else as the ranks' mean."""
    samples = table.sum(axis=0) if name == "images_per_s" else table.mean(axis=0)
    if name in STREAM_UNITS:
        return summarise(samples.tolist(), unit=STREAM_UNITS[name], reason=_NO_STREAM)
    return summarise(samples.tolist(), unit=UNITS[name], reason=_TOO_FEW)


def _report(result: Mapping[str, Any], rows: Mapping[str, Sequence[float]], read: Metric) -> RankReport:
    metrics = {name: _metric(name, np.array([rows[name]])) for name in (*UNITS, *STREAM_UNITS)} | {RANK_RATE: read}
    return RankReport(
        rank=result["rank"], local_rank=result["local_rank"], pid=result["pid"], host=result["host"], metrics=metrics
    )


def _learned(plan: RealPlan, result: Mapping[str, Any]) -> dict[str, Metric]:
    """Loss and accuracy of the last tenth of the steps, and of the validation data."""
    last = max(1, round(FINAL_SHARE * plan.steps))
    loss, right = (float(np.mean(result[name][-last:])) for name in ("losses", "accuracies"))
    if not np.isfinite(loss):
        lost = not_measured("nats", "the loss is no number any more; lower the learning rate")
    else:
        lost = summarise([loss], unit="nats")
    learned = {"train_loss": lost, "train_accuracy": summarise([right], unit="fraction")}
    return learned | _validated(result["validation"])


def not_learned(reason: str) -> dict[str, Metric]:
    """What a training learned, where its steps are nobody's training."""
    units = {"train_loss": "nats", "train_accuracy": "fraction"}
    units |= {"validation_loss": "nats", "validation_accuracy": "fraction"}
    return {name: not_measured(unit, reason) for name, unit in units.items()}


def _validated(seen: Mapping[str, float] | None) -> dict[str, Metric]:
    units = {"loss": "nats", "accuracy": "fraction"}
    reason = "no validation data were given (--validate)" if seen is None else "it is no number any more"
    return {
        f"validation_{name}": (
            not_measured(unit, reason)
            if seen is None or not np.isfinite(seen[name])
            else summarise([seen[name]], unit=unit)
        )
        for name, unit in units.items()
    }


def loss_curve(losses: Sequence[float]) -> dict[str, Any]:
    """Mean losses of every `steps_per_point` steps, at most CURVE_POINTS of them; None where one is no number."""
    stride = -(-len(losses) // CURVE_POINTS)
    means = [float(np.mean(losses[start : start + stride])) for start in range(0, len(losses), stride)]
    return {"steps_per_point": stride, "losses": [mean if np.isfinite(mean) else None for mean in means]}


def sentence_of(plan: RealPlan, point: Point, result: Mapping[str, Any]) -> str:
    """What was trained, what it learned, and who kept whom waiting."""
    ranks = f"{plan.num_ranks} {plan.device} rank{'s' if plan.num_ranks > 1 else ''}"
    loss, seen = point.metrics["train_loss"].value, result["validation"]
    ended = "no number" if loss is None else f"{loss:.3f}"
    text = (
        f"{model_info(plan.model).title} on {ranks}, {plan.steps} steps of {plan.global_batch} images: loss "
        f"{result['losses'][0]:.3f} -> {ended}, {point.metrics['train_accuracy'].value:.1%} of the last images right"
    )
    if seen:
        text += f"; {seen['accuracy']:.1%} of {seen['num_images']:.0f} validation images"
    late = find_straggler(point)
    if late is None:
        return f"{text}."
    return f"{text}. Rank {late.rank} on {late.host} cost each other rank {late.share:.1%} of its time."
