"""Two records to one of kind compare: what changed, whether limits are kept, and what is to be said of either run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..environment import collect
from ..record import INVALID_MARK, Comparison, Metric, RunRecord, utc_now
from .compare import compare
from .limits import Limit, judge


def compare_record(
    base: RunRecord,
    candidate: RunRecord,
    *,
    limits: Sequence[Limit] = (),
    run_id: str,
    command: Sequence[str],
    started: str,
) -> RunRecord:
    """The comparison of two runs, judged by `limits`; its metrics are the ratios of the runs' own figures.

    Raises CompareError for unlike runs and LimitError for limits of what they do not measure.
    """
    comparison = compare(base, candidate)
    return RunRecord(
        run_id=run_id,
        kind="compare",
        started_at=started,
        finished_at=utc_now(),
        command=tuple(command),
        workload={
            "kind": base.kind,
            "base": _told(base),
            "candidate": _told(candidate),
            "fail_if": [limit.text for limit in limits],
        },
        environment=collect(),
        metrics=_ratios(comparison, base, candidate),
        verdict=judge(limits, comparison, (base, candidate)),
        history=comparison,
        warnings=(*_same(base, candidate), *_warnings(base, "base"), *_warnings(candidate, "candidate")),
    )


def _same(base: RunRecord, candidate: RunRecord) -> list[str]:
    """A run held against itself keeps every limit."""
    one = (base.run_id, base.started_at) == (candidate.run_id, candidate.started_at)
    return [f"base and candidate are one and the same run, {base.run_id}: give two runs"] if one else []


def _told(record: RunRecord) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "started_at": record.started_at,
        "path": record.workload.get("path"),
        "host": record.environment.get("host"),
    }


def _ratios(comparison: Comparison, base: RunRecord, candidate: RunRecord) -> dict[str, Metric]:
    return {
        f"{change.name}_ratio": Metric(
            value=change.ratio,
            unit="ratio",
            ci95=change.ci95,
            n=min(base.metrics[change.name].n, candidate.metrics[change.name].n),
            reason=change.reason or (None if change.ratio is not None else "whole numbers are compared as they are"),
        )
        for change in comparison.changes
        if not change.where
    }


def _warnings(record: RunRecord, side: str) -> list[str]:
    """Why a side's figures do not count, or only with care."""
    said = [f"the {side} run is {INVALID_MARK}{why}" for why in record.why_invalid]
    if record.verdict is not None and record.verdict.outcome in ("invalid", "insufficient"):
        said.append(f"the {side} run's own verdict is {record.verdict.outcome!r}")
    return said
