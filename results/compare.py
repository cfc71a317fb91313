"""What changed between two runs: metric by metric a ratio with its interval, and what the two machines differ in.

    base, candidate --require_alike--> metrics of the runs, metrics of points they share --unpaired_ratio--> Change

The runs were not interleaved, so that a change is whatever moved between them: a defect, an upgrade, other people's
load.  What the blocks do not tell apart is "no difference that this data shows", never "the same".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from .quantities import COUNTS
from .record import (
    Change,
    Comparison,
    Difference,
    Finding,
    Metric,
    Point,
    RecordError,
    RunRecord,
    read_record,
)
from .stats import StatisticsError, unpaired_ratio
from .wording import point_label, stage_of

# what makes two workloads one; what only one of the records names does not count
ALIKE = (
    "accelerator",
    "batch_size",
    "step_time_s",
    "record_bytes",
    "au_threshold",
    "model",
    "source",
    "access",
    "page_cache",
    "shuffle",
    "format",
)
HIGHER_IS_BETTER = ("read_", "write_", "images_per_s", "au_", "gpus_fed_", "scaling_efficiency", "hosts_fed_")
LOWER_IS_BETTER = (
    "latency_",
    "step_time_s",
    "data_wait_s",
    "gpu_data_wait_s",
    "sync_wait_s",
    "overhead_s",
    "data_stall_fraction",
    "stage_time_s",
    "break_even_epochs",
    "cpu_seconds_per_gb",
    "peak_rss_bytes",
    "joules_per_image",
)
OUTCOMES_OF_A_POINT = ("counted_steps",)  # parameters that say what came out, not what was asked
PASSING = ("free_bytes",)  # of the environment, and different in every run
HEADLINE = ("gpus_fed_measured", "gpus_fed_predicted")
HEADLINE_POINTS = (("storage", "read_gbps"), ("train", "images_per_s"), ("train", "au_mlperf"))
HISTORY_RUNS = 500  # as many records are looked through
UNSURE = ("insufficient", "harness_limited")


class CompareError(ValueError):
    """Two runs of different things have no ratio."""

    exit_status: ClassVar[int] = 2


def compare(base: RunRecord, candidate: RunRecord) -> Comparison:
    """Every metric that both runs have, candidate over base, and every one of the points they share.

    Raises CompareError where they are no runs of one kind and workload.
    """
    require_alike(base, candidate)
    changes = [
        change_of(name, metric, candidate.metrics[name])
        for name, metric in base.metrics.items()
        if name in candidate.metrics
    ]
    for ours, theirs in _shared_points(base, candidate):
        where = f"{stage_of(base, ours)}: {point_label(ours)}"
        changes += [
            change_of(name, metric, theirs.metrics[name], where=where)
            for name, metric in ours.metrics.items()
            if name in theirs.metrics
        ]
    return _comparison(base, candidate, changes)


def compare_headline(base: RunRecord, candidate: RunRecord) -> Comparison:
    """What a qualification is asked for, each at the largest size that both runs measured and that gives a verdict.

    Raises CompareError where they are no runs of one kind and workload.
    """
    require_alike(base, candidate)
    changes = [
        change_of(name, base.metrics[name], candidate.metrics[name])
        for name in HEADLINE
        if name in base.metrics and name in candidate.metrics
    ]
    shared = _shared_points(base, candidate)
    for stage, name in HEADLINE_POINTS:
        pairs = [pair for pair in shared if stage_of(base, pair[0]) == stage and _is_headline(pair, name)]
        if pairs:
            ours, theirs = max(pairs, key=lambda pair: _size(pair[0]))
            changes.append(change_of(name, ours.metrics[name], theirs.metrics[name], where=point_label(ours)))
    return _comparison(base, candidate, changes)


def require_alike(base: RunRecord, candidate: RunRecord) -> None:
    """Raise CompareError where two runs are of different kinds or workloads."""
    if base.kind != candidate.kind:
        raise CompareError(
            f"{base.run_id} is a run of `{base.kind}`, {candidate.run_id} one of `{candidate.kind}`; "
            f"only runs of one kind can be compared"
        )
    for name in ALIKE:
        pair = base.workload.get(name), candidate.workload.get(name)
        if None not in pair and pair[0] != pair[1]:
            raise CompareError(
                f"{name} is {pair[0]} in {base.run_id} and {pair[1]} in {candidate.run_id}; "
                f"runs of different workloads have no ratio: run one of them again with the other's {name}"
            )


def change_of(name: str, base: Metric, candidate: Metric, *, where: str = "") -> Change:
    """One metric of both runs, and what it shows."""

    def change(
        finding: Finding,
        *,
        ratio: float | None = None,
        ci95: tuple[float, float] | None = None,
        reason: str | None = None,
    ) -> Change:
        return Change(
            name=name,
            where=where,
            unit=base.unit,
            base=base.value,
            candidate=candidate.value,
            ratio=ratio,
            ci95=ci95,
            finding=finding,
            reason=reason,
        )

    if base.value is None or candidate.value is None:
        missing = "base" if base.value is None else "candidate"
        reason = (base if base.value is None else candidate).reason
        return change("not comparable", reason=f"not measured in the {missing} run: {reason}")
    if base.unit != candidate.unit:
        return change("not comparable", reason=f"{base.unit} in the base run, {candidate.unit} in the candidate")
    if base.unit in COUNTS:
        return change(_finding_of_counts(name, base, candidate))
    try:
        ratio, low, high = unpaired_ratio(candidate.samples, base.samples)
    except StatisticsError as error:
        return change("not comparable", reason=str(error))
    finding: Finding = "no difference" if low <= 1 <= high else _word(name, is_more=ratio > 1)
    return change(finding, ratio=ratio, ci95=(low, high))


def last_good(folder: Path, candidate: RunRecord, *, keys: Sequence[str]) -> tuple[RunRecord | None, list[str]]:
    """The newest earlier run in `folder` of the candidate's kind that has these keys of its workload and passed.

    Without a run that passed it is the newest that failed on valid measurements.  Second, what is to be said of
    records that cannot be read.
    """
    found: list[RunRecord] = []
    notes: list[str] = []
    for path in _record_files(folder):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
            if f'"{candidate.kind}"' not in text:  # most are of other commands: not worth reading whole
                continue
            record = read_record(path)
        except (OSError, RecordError) as error:
            notes.append(f"history: {error}")
            continue
        same = record.kind == candidate.kind and all(
            record.workload.get(key) == candidate.workload.get(key) for key in keys
        )
        if same and record.run_id != candidate.run_id and record.started_at <= candidate.started_at:
            found.append(record)
    for outcome in ("pass", "fail"):
        good = [record for record in found if record.verdict is not None and record.verdict.outcome == outcome]
        if good:
            return max(good, key=lambda record: (record.started_at, record.run_id)), notes
    return None, notes


def _record_files(folder: Path) -> list[Path]:
    """The newest records of the runs in a folder."""
    try:
        found = [(path.stat().st_mtime, path) for path in folder.glob("*/record.json")]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)[:HISTORY_RUNS]]


def differences(base: Mapping[str, Any], candidate: Mapping[str, Any], prefix: str = "") -> Iterator[Difference]:
    """Where two nested mappings differ, key by dotted key; what passes by itself is left out."""
    for key in dict.fromkeys([*base, *candidate]):
        ours, theirs = base.get(key), candidate.get(key)
        if key in PASSING or ours == theirs:
            continue
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from differences(ours, theirs, f"{prefix}{key}.")
        else:
            yield Difference(name=f"{prefix}{key}", base=_text(ours), candidate=_text(theirs))


def _comparison(base: RunRecord, candidate: RunRecord, changes: Sequence[Change]) -> Comparison:
    asked = {key: record.workload.get(key) for record in (base,) for key in ("engine", "dataset", "path")}
    asks = {key: candidate.workload.get(key) for key in asked}
    return Comparison(
        base_run_id=base.run_id,
        base_started_at=base.started_at,
        base_outcome=None if base.verdict is None else base.verdict.outcome,
        changes=tuple(changes),
        differences=(*differences(asked, asks), *differences(base.environment, candidate.environment)),
        sentence=_sentence(base, changes),
    )


def _sentence(base: RunRecord, changes: Sequence[Change]) -> str:
    moved = [_change_text(change) for change in changes if change.finding not in ("no difference", "not comparable")]
    since = f"Since {base.started_at} ({base.run_id})"
    if moved:
        return f"{since}: {'; '.join(moved)}."
    if any(change.finding == "no difference" for change in changes):
        return f"{since}: no difference that this data shows."
    return f"{since}: nothing that both runs measured can be compared."


def _change_text(change: Change) -> str:
    place = f" ({change.where})" if change.where else ""
    name = f"{change.name}{place} {change.finding}"
    if change.ratio is None or change.ci95 is None:
        return f"{name}: {change.base:g} -> {change.candidate:g}"
    return f"{name}: x {change.ratio:.3f} ({change.ci95[0]:.3f} to {change.ci95[1]:.3f})"


def _finding_of_counts(name: str, base: Metric, candidate: Metric) -> Finding:
    """Whole numbers differ where the ranges that their intervals allow do not touch."""
    (low, high), (other_low, other_high) = _range(base), _range(candidate)
    if other_low > high or other_high < low:
        return _word(name, is_more=other_low > high)
    return "no difference"


def _range(metric: Metric) -> tuple[float, float]:
    assert metric.value is not None  # asked before
    low, high = metric.ci95 or (metric.value, metric.value)
    return low, float("inf") if (metric.reason or "").startswith("at least") else high


def _word(name: str, *, is_more: bool) -> Finding:
    if name.startswith(LOWER_IS_BETTER):
        return "worse" if is_more else "better"
    if name.startswith(HIGHER_IS_BETTER):
        return "better" if is_more else "worse"
    return "higher" if is_more else "lower"


def _shared_points(base: RunRecord, candidate: RunRecord) -> list[tuple[Point, Point]]:
    """Points of the same parameters, once each."""
    theirs: dict[tuple[tuple[str, str], ...], Point] = {}
    for point in candidate.points:
        theirs.setdefault(_identity(point), point)
    ours = {_identity(point): point for point in reversed(base.points)}
    return [(point, theirs[key]) for key, point in reversed(ours.items()) if key in theirs]


def _identity(point: Point) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(value)) for name, value in point.params.items() if name not in OUTCOMES_OF_A_POINT))


def _is_headline(pair: tuple[Point, Point], name: str) -> bool:
    return all(
        point.params.get("source", "direct") == "direct"
        and name in point.metrics
        and point.metrics[name].value is not None
        and not set(point.flags) & set(UNSURE)
        for point in pair
    )


def _size(point: Point) -> int:
    size = point.params.get("num_ranks", point.params.get("threads"))
    return size if isinstance(size, int) else 0


def _text(value: object) -> str:
    return "not there" if value is None else str(value)
