"""What changed between two runs: metric by metric a ratio with its interval, and what the two machines differ in.

    base, candidate --require_alike--> metrics of the runs, metrics of points they share --unpaired_ratio--> Change

The runs were not interleaved, so that a change is whatever moved between them: a defect, an upgrade, other people's
load.  What the blocks do not tell apart is "no difference that this data shows", never "the same".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from ..labels import point_label
from ..record import (
    Change,
    Comparison,
    Difference,
    Metric,
    Point,
    RunRecord,
)
from ..wording import flag_text, stage_of
from .findings import change_of, sentence_of

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
    "operation",
    "destination",
)
OUTCOMES_OF_A_POINT = ("counted_steps", "version")  # parameters that say what came out, not what was asked
PASSING = ("free_bytes",)  # of the environment, and different in every run
HEADLINE = ("gpus_fed_measured", "gpus_fed_predicted")
HEADLINE_POINTS = (("storage", "read_gbps"), ("train", "images_per_s"), ("train", "au_mlperf"))
UNSURE = ("insufficient", "harness_limited")


class CompareError(ValueError):
    """Two runs of different things have no ratio."""

    exit_status: ClassVar[int] = 2


def compare(base: RunRecord, candidate: RunRecord) -> Comparison:
    """Every metric that both runs have, candidate over base, and every one of the points they share.

    Raises CompareError where they are no runs of one kind and workload.
    """
    require_alike(base, candidate)
    changes = _changes(base.metrics, candidate.metrics)
    for ours, theirs in _shared_points(base, candidate):
        if (ours.metrics, theirs.metrics) == (base.metrics, candidate.metrics):
            continue  # the best point of both runs, whose figures are the runs' own
        where = f"{stage_of(base, ours)}: {point_label(ours)}"
        found = _changes(ours.metrics, theirs.metrics, where=where)
        doubt = ", ".join(_doubts(ours, "base") + _doubts(theirs, "candidate"))
        changes += [change.model_copy(update={"reason": change.reason or doubt or None}) for change in found]
    if not changes:
        raise CompareError(
            f"{base.run_id} and {candidate.run_id} share no metric and no point; run one of them again as the other was"
        )
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
        if None not in pair and not _is_alike(*pair):
            raise CompareError(
                f"{name} is {pair[0]} in {base.run_id} and {pair[1]} in {candidate.run_id}; "
                f"runs of different workloads have no ratio: run one of them again with the other's {name}"
            )


def _is_alike(base: object, candidate: object) -> bool:
    """Whether two settings are one; of what was swept over, one value in common is enough for points in common."""
    if isinstance(base, list | tuple) and isinstance(candidate, list | tuple):
        return base == candidate or any(value in candidate for value in base)
    return base == candidate


def _changes(base: Mapping[str, Metric], candidate: Mapping[str, Metric], *, where: str = "") -> list[Change]:
    """What both sides name and one of them measured, in the base's order."""
    return [
        change_of(name, metric, candidate[name], where=where)
        for name, metric in base.items()
        if name in candidate and not (metric.value is None and candidate[name].value is None)
    ]


def _doubts(point: Point, side: str) -> list[str]:
    return [f"the {side} point is {flag_text([flag])}" for flag in point.flags if flag in UNSURE]


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
    asked, asks = _asked(base), _asked(candidate)
    return Comparison(
        base_run_id=base.run_id,
        base_started_at=base.started_at,
        base_outcome=None if base.verdict is None else base.verdict.outcome,
        changes=tuple(changes),
        differences=(*differences(asked, asks), *differences(base.environment, candidate.environment)),
        sentence=sentence_of(base, changes),
    )


def _asked(record: RunRecord) -> dict[str, Any]:
    """What two runs of one workload may still differ in; the best point among it, whose metrics are the run's."""
    best = next((point for point in record.points if record.metrics and point.metrics == record.metrics), None)
    asked = {key: record.workload.get(key) for key in ("engine", "dataset", "path")}
    return asked if best is None else {**asked, "best point": point_label(best)}


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
