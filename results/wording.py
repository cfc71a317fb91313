"""What things in a record are called where people read them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from .quantities import DIMENSIONLESS, value_text
from .record import Point

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .record import Metric, RunRecord

KIND_TITLES = {
    "qualify": "Storage qualification",
    "doctor": "What this machine can do",
    "generate": "Generated data",
    "index": "Index of a data set",
    "convert": "Conversion of a data set",
    "storage": "Storage rates",
    "load": "Loader rates",
    "stage": "Copy to local storage",
    "train": "Training",
    "infer": "Inference",
    "scale": "Scaling",
    "compare": "Comparison",
}
METRIC_LABELS = {
    "read_gbps": "read rate",
    "client_read_gbps": "read by all ranks of a host through its one client",
    "read_iops": "read operations",
    "create_per_s": "files made",
    "remove_per_s": "files removed",
    "open_per_s": "files opened",
    "stat_per_s": "files asked for size and times",
    "list_per_s": "names listed",
    "small_read_per_s": "small files read",
    "fill_s": "time to fill the folder",
    "write_s": "time to write and sync",
    "fsync_s": "time to sync, of that",
    "restore_gbps": "restore rate",
    "restore_s": "time to restore",
    "read_during_restore_gbps": "read rate during a restore",
    "latency_p50_us": "latency, median",
    "latency_p90_us": "latency, 90th percentile",
    "latency_p99_us": "latency, 99th percentile",
    "latency_p99_9_us": "latency, 99.9th percentile",
    "latency_max_us": "latency, longest",
    "write_gbps": "write rate",
    "write_iops": "write operations",
    "first_done_s": "first thread done after the window",
    "last_done_s": "last thread done after the window",
    "slowest_thread_gbps": "rate of the slowest thread",
    "fastest_thread_gbps": "rate of the fastest thread",
    "images_per_s": "image rate",
    "step_time_s": "time per step",
    "compute_s": "compute per step",
    "data_wait_s": "data wait per step",
    "gpu_data_wait_s": "data wait per step on the GPU's timeline",
    "sync_wait_s": "sync wait per step",
    "optimizer_s": "optimiser per step",
    "overhead_s": "overhead per step",
    "data_stall_fraction": "share of time waiting for data",
    "latency_p50_s": "time from asking for a batch to its answer, median",
    "latency_p90_s": "time to a batch's answer, 90th percentile",
    "latency_p99_s": "time to a batch's answer, 99th percentile",
    "latency_max_s": "time to a batch's answer, longest",
    "queue_batches": "batches ready in the queue, mean over time",
    "queue_empty_fraction": "share of batches asked for before they were ready",
    "rate_within_bound_images_per_s": "highest rate of arrivals whose p99 keeps the bound",
    "arrival_latency_p50_s": "latency of arrivals at that rate, median",
    "arrival_latency_p90_s": "latency of arrivals at that rate, 90th percentile",
    "arrival_latency_p99_s": "latency of arrivals at that rate, 99th percentile",
    "arrival_latency_max_s": "latency of arrivals at that rate, longest",
    "top1_agreement": "share of images answered as in fp32",
    "train_loss": "loss of the last steps",
    "train_accuracy": "share right of the last steps",
    "validation_loss": "loss of the validation data",
    "validation_accuracy": "share right of the validation data",
    "au_mlperf": "accelerator utilisation (AU)",
    "au_dlio": "AU as DLIO computes it",
    "au_predicted": "AU predicted from the storage rate",
    "scaling_efficiency": "scaling efficiency",
    "gpus_fed_predicted": "accelerators fed, predicted",
    "gpus_fed_measured": "accelerators fed, measured",
    "stage_time_s": "time to copy",
    "drift_per_hour": "drift of the read rate",
    "last_part_gbps": "read rate, last quarter of the time",
    "verify_time_s": "time to read the copy back",
    "verify_gbps": "rate of reading the copy back",
    "peak_in_flight_bytes": "most bytes in flight",
    "first_batch_s": "time to the first batch",
    "until_first_batch_s": "from the start to the first batch",
    "until_first_epoch_s": "from the start to the end of the first epoch",
    "until_last_epoch_s": "from the start to the end of all epochs",
    "break_even_epochs": "epochs until a copy pays",
    "cpu_seconds_per_gb": "CPU time per GB",
    "peak_rss_bytes": "peak memory (RSS)",
    "joules_per_image": "energy per image",
    "idle_joules_per_image": "energy per image, idle share",
    "images_per_joule": "images per joule",
    "power_w": "power",
    "roof_rate": "rate of that part",
    "roof_reached_fraction": "share of the roof that was reached",
    "next_roof_ratio": "next roof, as a multiple of this one",
    "hop_cost_s": "added to a step",
    "hop_cost_fraction": "added, share of the step",
    "communication_s": "communication per step",
    "straggler_wait_s": "wait for the last rank per step",
    "straggler_data_s": "wait for the last rank's data per step",
    "straggler_cost_s": "time that others waited for this rank per step",
    "forward_backward_s": "forward and backward per step",
    "exposed_allreduce_s": "exposed allreduce per step",
    "of_synthetic": "share of the rate with synthetic batches",
    "source_images_per_s": "image rate that the source gives",
    "images_per_s_predicted": "image rate, predicted",
    "prediction_error": "prediction too high by",
    "copy_gbps": "copy rate",
    "of_bare_loop": "share of the bare loop's rate",
    "of_limit": "share of its limit",
    "wrong_steps": "steps on another batch, or with another loss",
    "loss_difference": "loss, away from the eager one's",
    "route_named_truly": "route named as another witness saw it",
    "meter_error": "stall meter, away from the injected delay",
    "stall_disagreement": "stall by the meter and by substitution, apart",
    "tests_passed": "tests that passed",
    "tests_failed": "tests that failed",
    "tests_skipped": "tests that were skipped",
}
SOURCES = ("synthetic", "host", "warm", "staged", "direct")
HOP_WORDS = {
    "synthetic": "batches that are there already",
    "host": "batches built in memory",
    "warm": "files in the page cache",
    "direct": "files on the storage",
    "staged": "files on the local copy",
}
FLAGS = {
    "harness_limited": "the benchmark itself was the limit",
    "names_cached": "names, sizes and times came from this client's memory",
    "noisy": "the interval stayed wider than ±3 %",
    "blocks_correlated": "blocks resemble the ones before them; measure more, or longer ones",
    "knee": "the smallest load within 3 % of the peak",
    "peak": "the load with the highest rate",
    "failed": "a read or write failed here",
    "decode_limited": "the storage gave enough bytes, decoding them on this host was the limit",
    "insufficient": "too few steps were counted for a verdict",
}
CURVE_MARKS = ("knee", "peak")
FLAG_WORDS = {"harness_limited": "harness limited", "decode_limited": "decode limited"}


def metric_label(name: str) -> str:
    """The words for a metric's name."""
    if name.endswith("_ratio") and name.removesuffix("_ratio") in METRIC_LABELS:
        return f"{METRIC_LABELS[name.removesuffix('_ratio')]}, ratio"
    operation = name.removesuffix("_p99_us") + "_per_s"
    if name.endswith("_p99_us") and operation in METRIC_LABELS:
        return f"{METRIC_LABELS[operation]}, 99th percentile"
    return METRIC_LABELS.get(name, name.replace("_", " "))


def unit_text(unit: str) -> str:
    """A unit as it is printed; nothing for plain numbers."""
    return "" if unit in DIMENSIONLESS else "µs" if unit == "us" else unit


def flag_text(flags: Sequence[str]) -> str:
    """A point's flags in words."""
    return ", ".join(FLAG_WORDS.get(flag, flag.replace("_", " ")) for flag in flags)


def title_of(record: RunRecord) -> str:
    """What a run was, and on which data."""
    path = record.workload.get("path")
    return f"{KIND_TITLES[record.kind]} of {path}" if isinstance(path, str) and path else KIND_TITLES[record.kind]


def points_of(record: RunRecord, stage: str) -> list[Point]:
    """The points of one stage; a record without points counts as one point of its own kind."""
    if not record.points and record.kind == stage and record.metrics:
        params = {name: value for name, value in record.workload.items() if isinstance(value, str | int | float | bool)}
        return [Point(params=params, read_path=record.read_path, metrics=record.metrics, ranks=record.ranks)]
    return [point for point in record.points if stage_of(record, point) == stage]


def trained(record: RunRecord) -> list[Point]:
    """The points that ran ranks, by number of ranks, the control first."""

    def order(point: Point) -> tuple[int, int]:
        return ranks_of(point), SOURCES.index(source_of(point)) if source_of(point) in SOURCES else 0

    ran = (point for stage in ("train", "real", "infer", "scale") for point in points_of(record, stage))
    return sorted(ran, key=order)


def stage_of(record: RunRecord, point: Point) -> str:
    """The bench that measured a point."""
    return str(point.params.get("stage", record.kind))


def doubts(point: Point) -> tuple[str, ...]:
    """The flags that take something away from a point's figures: all but those that mark a place on a curve."""
    return tuple(flag for flag in point.flags if flag not in CURVE_MARKS)


def whole(value: object) -> int:
    """A number of things from a parameter; 1 where it is not told."""
    return int(value) if isinstance(value, int | float) and value else 1


def source_of(point: Point) -> str:
    """Where a point's batches came from."""
    return str(point.params.get("source", "direct"))


def ranks_of(point: Point) -> int:
    """How many ranks a point ran."""
    return whole(point.params.get("num_ranks"))


def about(record: RunRecord, point: Point) -> dict[str, Any]:
    """What is known of the accelerator: the point's own word before the workload's."""
    return {**record.workload, **{name: value for name, value in point.params.items() if value is not None}}


def accelerator_name(params: Mapping[str, Any]) -> str:
    """The accelerator, which says by itself when it is emulated and when its step time is scaled."""
    name = str(params.get("accelerator") or "accelerator")
    shown = name.upper() if name.isalnum() and name.isascii() and not name.isdigit() else name
    words = [shown if name != "accelerator" else name]
    if params.get("emulated"):
        words.insert(0, "emulated")
    if params.get("scaled"):
        words.append("(scaled step time)")
    return " ".join(words)


def scaled_words(record: RunRecord) -> str:
    """What the axes of a run say whose data or ranks were scaled down to fit; its warnings say how."""
    return ", scaled down" if record.workload.get("scaled_to_fit") else ""


def fed_text(metric: Metric) -> str:
    """A number of accelerators fed; "at least" where the metric's reason says that it is a lower bound."""
    bound = metric.value is not None and (metric.reason or "").startswith("at least")
    return f"at least {value_text(metric)}" if bound else value_text(metric)


def shell_line(command: Sequence[str]) -> str:
    """A command to paste into a shell; a leading ~/ and $USER keep their meaning there."""
    return " ".join(_shell_word(word) for word in command)


def _shell_word(word: str) -> str:
    home, rest = ("~/", word[2:]) if word.startswith("~/") else ("", word)
    quoted = '"$USER"'.join(shlex.quote(part) if part else "" for part in rest.split("$USER"))
    return home + quoted or "''"
