"""The runs' own figures as OpenMetrics text, for a collector that reads text files.

    # HELP iobench_read_bytes_per_second read rate
    # TYPE iobench_read_bytes_per_second gauge
    # UNIT iobench_read_bytes_per_second bytes_per_second
    iobench_read_bytes_per_second{kind="storage",path="/mnt/set",...} 2.051e+09
    # EOF

Base units, as Prometheus asks for: seconds, bytes, ratios.  Everything is a gauge without a timestamp, so that
node_exporter's text-file collector, which refuses timestamps and newer types, takes it as well; when a run ended is a
figure of its own.  Of several runs with the same labels the newest is shown; what was not measured has no sample.
Format: https://github.com/prometheus/OpenMetrics, version 1.0.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, get_args

from .record import Outcome
from .wording import metric_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .record import Metric, RunRecord

UNITS = {  # of a record: what its names end in, the base unit, and how many of these it is
    "GB/s": ("_gbps", "bytes_per_second", 1e9),
    "us": ("_us", "seconds", 1e-6),
    "s": ("_s", "seconds", 1.0),
    "bytes": ("_bytes", "bytes", 1.0),
    "s/GB": ("_seconds_per_gb", "seconds_per_byte", 1e-9),
    "fraction": ("_fraction", "ratio", 1.0),
    "ratio": ("_ratio", "ratio", 1.0),
    "1": ("_fraction", "ratio", 1.0),
    "accelerators": ("", "accelerators", 1.0),
    "epochs": ("_epochs", "epochs", 1.0),
}
RATES = (("_iops", "_operations_per_second"), ("_per_s", "_per_second"))
LABELS = ("preset", "engine", "accelerator", "model", "batch_size", "source", "shuffle", "access", "page_cache")
Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    """One metric of the text: its words, its base unit, and a value for each set of labels."""

    words: str
    unit: str = ""
    samples: dict[Labels, float] = field(default_factory=dict)


def openmetrics_of(records: Sequence[RunRecord]) -> str:
    """The text of these records, ended by `# EOF`."""
    families: dict[str, Family] = {}
    for record in sorted(records, key=lambda record: record.started_at):
        labels = _labels(record)
        for name, family in _families(record, labels):
            families.setdefault(name, Family(family.words, family.unit)).samples.update(family.samples)
    lines = [line for name in sorted(families) for line in _lines(name, families[name])]
    return "\n".join([*lines, "# EOF"]) + "\n"


def _families(record: RunRecord, labels: Labels) -> Iterator[tuple[str, Family]]:
    yield "iobench_run", Family("a run; its name and version", "info", {(*labels, *_identity(record)): 1.0})
    with suppress(ValueError):  # a time that is no time is not known
        finished = datetime.fromisoformat(record.finished_at).timestamp()
        yield "iobench_run_finished_timestamp_seconds", Family("when the run ended", "seconds", {labels: finished})
    for name, metric in record.metrics.items():
        yield from _of_metric(name, metric, labels)
    if record.verdict is not None:
        states = {
            (*labels, ("outcome", outcome)): float(outcome == record.verdict.outcome) for outcome in get_args(Outcome)
        }
        yield "iobench_verdict", Family("1 for the outcome of the run's verdict", "", states)


def _of_metric(name: str, metric: Metric, labels: Labels) -> Iterator[tuple[str, Family]]:
    """The value, and the bounds of its interval as figures of their own."""
    if metric.value is None:
        return
    stem, unit, factor = base_unit(name, metric.unit)
    words = metric_label(name)
    low, high = metric.ci95 or (None, None)
    for part, value, told in (
        ("", metric.value, ""),
        ("_ci95_low", low, ", lower bound of the 95 % interval"),
        ("_ci95_high", high, ", upper bound of the 95 % interval"),
    ):
        if value is not None:
            family = f"iobench_{stem}{part}{f'_{unit}' if unit else ''}"
            yield family, Family(words + told, unit, {labels: value * factor})


def base_unit(name: str, unit: str) -> tuple[str, str, float]:
    """A metric's name without its unit, the base unit, and the factor to it: latency_p99_us -> latency_p99, seconds."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    for ending, spelled in RATES:
        if name.endswith(ending):
            whole = name.removesuffix(ending) + spelled
            return whole.removesuffix("_per_second"), "per_second", 1.0
    if unit not in UNITS:
        return name, "", 1.0
    ending, word, factor = UNITS[unit]
    return name.removesuffix(ending), word, factor


def _lines(name: str, family: Family) -> Iterator[str]:
    unit = family.unit if family.unit != "info" else ""
    sample = f"{name}_info" if family.unit == "info" else name
    yield f"# HELP {sample} {_escaped(family.words)}"
    yield f"# TYPE {sample} gauge"
    if unit:
        yield f"# UNIT {sample} {unit}"
    for labels, value in sorted(family.samples.items()):
        text = ",".join(f'{key}="{_escaped(word)}"' for key, word in labels)
        yield f"{sample}{{{text}}} {value!r}"


def _labels(record: RunRecord) -> Labels:
    """What tells this run's figures from those of other runs, but not from an earlier one of the same."""
    workload = record.workload
    told = {"host": record.environment.get("host"), "path": workload.get("path")}
    told |= {key: workload.get(key) for key in LABELS}
    pairs = ((key, _word(value)) for key, value in told.items() if value is not None)
    return (("kind", record.kind), *pairs)


def _identity(record: RunRecord) -> Labels:
    return (("run_id", record.run_id), ("version", str(record.environment.get("iobench", ""))))


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
