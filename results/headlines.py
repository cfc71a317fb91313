"""The head of a run: its answer, and three figures: the value, its interval, and what it is to be held against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from .break_even import Copying
from .labels import point_label
from .quantities import amount, interval_text, percent, scale_for, value_text
from .wording import accelerator_name, fed_text, metric_label, stage_of

if TYPE_CHECKING:
    from .record import Metric, RunRecord

OUTCOMES = {
    "pass": ("\N{CHECK MARK}", "PASS"),
    "fail": ("\N{MULTIPLICATION X}", "FAIL"),
    "insufficient": ("?", "INSUFFICIENT"),
    "invalid": ("!", "INVALID"),
    "stopped": ("!", "STOPPED"),
}
SHARES = ("data_stall_fraction", "scaling_efficiency")
HEADLINES = {
    "qualify": ("gpus_fed_measured", "read_gbps", "au_mlperf"),
    "storage": ("read_gbps", "write_gbps", "read_iops", "write_iops", "latency_p99_us"),
    "metadata": ("create_per_s", "stat_per_s", "small_read_per_s"),
    "checkpoint": ("write_gbps", "restore_gbps", "fsync_s"),
    "load": ("images_per_s", "read_gbps", "cpu_seconds_per_gb"),
    "stage": ("stage_time_s", "read_gbps", "break_even_epochs"),
    "train": ("images_per_s", "data_stall_fraction", "au_mlperf"),
    "infer": ("images_per_s", "data_stall_fraction", "au_mlperf"),
    "scale": ("images_per_s", "scaling_efficiency", "data_stall_fraction"),
}


@dataclass(frozen=True)
class Fact:
    """One figure behind the verdict: its words, value, interval, and what it is to be held against."""

    label: str
    value: str
    unit: str = ""
    interval: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a run comes to: its sentences, and the sign, the word and the tone of their badge, where there is one."""

    lines: tuple[str, ...] = ()
    sign: str = ""
    badge: str = ""
    tone: str = "none"


def answer_of(record: RunRecord) -> Answer:
    """The verdict; else that a measurement does not count, or stopped on its way, before what it found."""
    if record.verdict is not None:
        return Answer((record.verdict.sentence,), *OUTCOMES[record.verdict.outcome], tone=record.verdict.outcome)
    if (failed := record.workload.get("failed")) is not None:
        return Answer((f"Stopped before its end: {failed}",), *OUTCOMES["stopped"], tone="invalid")
    if wrong := record.why_invalid:
        more = f" (and {len(wrong) - 1} more, see the warnings)" if len(wrong) > 1 else ""
        return Answer((f"{wrong[0]}{more}", *record.summary), *OUTCOMES["invalid"], tone="invalid")
    return Answer(record.summary)


def headline_facts(record: RunRecord) -> list[Fact]:
    """The three figures behind the verdict, or behind the run where it has none."""
    stages = {stage_of(record, point) for point in record.points}
    names = HEADLINES.get(stages.pop() if len(stages) == 1 else record.kind, tuple(record.metrics)[:3])
    found = [_fact(record, name) for name in names if name in record.metrics][:3]
    best = [point for point in record.points if point.metrics == record.metrics]
    if len(record.points) > 1 and best and found:  # the record's own figures are those of its best point
        found[0] = replace(found[0], notes=(*found[0].notes, f"point: {point_label(best[0])}"))
    return found


def _fact(record: RunRecord, name: str) -> Fact:
    metric, label = _in_percent(name, record.metrics[name]), metric_label(name)
    notes = [*_against(record, name), metric.reason or ""]
    predicted = record.metrics.get("gpus_fed_predicted")
    if name == "gpus_fed_measured":
        label = f"{accelerator_name(record.workload)} fed, measured"
        if metric.value is None and predicted is not None and predicted.value is not None:
            notes = [f"not measured: {metric.reason}"]
            metric, label = predicted, f"{accelerator_name(record.workload)} fed, predicted only"
    if metric.value is None:
        return Fact(label, *_without_value(metric.reason or ""))
    interval = interval_text(metric)
    if interval:
        interval = f"{interval}, {metric.n} blocks"
    notes = [note for note in notes if note]
    if name.startswith("gpus_fed"):
        return Fact(label, fed_text(metric), interval=interval, notes=tuple(notes))
    unit = scale_for(metric.unit, [metric.value]).unit
    return Fact(label, value_text(metric), unit, interval, tuple(notes))


def _without_value(reason: str) -> tuple[str, str, str, tuple[str, ...]]:
    """What stands in a figure's place: that a copy never pays is an answer, where others were not measured."""
    answer, _, more = reason.partition(". ")
    if answer in get_args(Copying):
        return answer.rpartition(": ")[2], "", "", (more,)
    return "not measured", "", "", (reason,)


def _in_percent(name: str, metric: Metric) -> Metric:
    """A share as people say it; the AU stays what its rule says."""
    if name not in SHARES or metric.value is None:
        return metric
    ends = None if metric.ci95 is None else (metric.ci95[0] * 100, metric.ci95[1] * 100)
    return metric.model_copy(update={"value": metric.value * 100, "ci95": ends, "unit": "%"})


def _against(record: RunRecord, name: str) -> list[str]:
    """What a headline figure is to be held against."""
    workload, metrics = record.workload, record.metrics
    threshold, demand = workload.get("au_threshold"), workload.get("demand_gbps")
    if name == "gpus_fed_measured" and "gpus_fed_predicted" in metrics:
        predicted = metrics["gpus_fed_predicted"]
        span = f", {interval_text(predicted)} over the read rate's interval" if predicted.ci95 else ""
        return [f"predicted {fed_text(predicted)}{span}"]
    if name == "read_gbps" and isinstance(demand, int | float):
        return [f"each {accelerator_name(workload)} takes {amount(demand, 'GB/s')}"]
    if name == "au_mlperf" and isinstance(threshold, int | float):
        stall = metrics.get("data_stall_fraction")
        waiting = [f"{percent(stall.value)} of the time waits for data"] if stall and stall.value is not None else []
        return [f"threshold {threshold:.2f}", *waiting]
    return []
