"""What is asked of a GPU and of what feeds it: each figure, the part that measures it, and what becomes of it.

    Asked.judge(metric)   the whole interval on the right side    met
                          the whole interval on the wrong side    missed
                          the bound is within, or no interval     not distinguishable
    rows(outcomes)        every figure, also those that nobody measured, and why

Figures that are counted, as tests that fail, have no interval and need none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..results.record import Metric, Requirement
from .part import Bench

MET, MISSED, OPEN, ABSENT = "met", "missed", "not distinguishable", "not measured"


@dataclass(frozen=True, slots=True)
class Asked:
    """One figure: what `part` measures must be at least, or else at most, `required`; `counted` needs no interval."""

    name: str
    part: str
    text: str
    required: float
    above: bool = True
    counted: bool = False

    def judge(self, measured: Metric, bench: Bench) -> tuple[Requirement, ...]:
        """The requirement, by the whole interval; of the twin nothing is required."""
        if not bench.judged:
            return ()
        unit = "" if measured.unit in ("fraction", "ours/theirs", "true") else measured.unit
        found = Requirement(
            name=self.name,
            text=self.text,
            required=self.required,
            measured=measured.value,
            unit=unit,
            passed=self._passed(measured),
            ci95=measured.ci95,
            reason=measured.reason,
        )
        return (found,)

    def _passed(self, measured: Metric) -> bool | None:
        if measured.value is None or (measured.ci95 is None and not self.counted):
            return None
        low, high = measured.ci95 or (measured.value, measured.value)
        met, missed = (
            (low >= self.required, high < self.required) if self.above else (high <= self.required, low > self.required)
        )
        return True if met else False if missed else None


ASKED: tuple[Asked, ...] = (
    Asked("tests", "tests", "tests that failed", 0, above=False, counted=True),
    Asked(
        "storage_to_gpu",
        "storage",
        "warm storage to the GPU, over a bare loop of preadv and asynchronous copies with the same threads",
        0.95,
    ),
    Asked("route_buffered", "storage", "the route of buffered reads, named as another witness saw it", 1, counted=True),
    Asked("raw_over_torch", "peers", "raw loader, images/s over torch's DataLoader with pinned memory", 4.0),
    Asked("raw_over_dali", "peers", "raw loader, images/s over DALI's TFRecord road into the GPU", 2.0),
    Asked("warm_of_synthetic", "train", "training in bf16 on warm data, images/s over synthetic batches", 0.98),
    Asked(
        "stall_agreement_warm", "train", "stall of warm data, by events and by substitution: points apart", 0.02, False
    ),
    Asked(
        "stall_agreement_cold", "train", "stall of cold data, by events and by substitution: points apart", 0.02, False
    ),
    Asked("stall_of_injected_delay", "stall", "the meter's wait, away from the injected one", 0.02, False),
    Asked("jpeg_over_dali", "jpeg", "JPEG loader, images/s over DALI's", 1.0),
    Asked("graph_steps", "graphs", "steps of a CUDA graph that saw another batch, or lost otherwise", 0, False, True),
    Asked("compiled_steps", "graphs", "compiled steps that saw another batch, or lost otherwise", 0, False, True),
    Asked("route_direct", "direct", "the route of direct reads, named as another witness saw it", 1, counted=True),
    Asked("route_kvikio", "kvikio", "the route of kvikio's reads, named as another witness saw it", 1, counted=True),
)
_BY_NAME = {asked.name: asked for asked in ASKED}


def asked(name: str) -> Asked:
    """The figure of this name; KeyError for one that nobody asks for."""
    return _BY_NAME[name]


def outcome_of(requirement: Requirement) -> str:
    """What became of it, in words."""
    if requirement.measured is None:
        return ABSENT
    return OPEN if requirement.passed is None else MET if requirement.passed else MISSED


class Outcome(Protocol):
    """What is needed of a part's outcome."""

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """What it was held to."""

    @property
    def unmeasured(self) -> Mapping[str, str]:
        """Names of figures that it could not measure, and why."""

    @property
    def why_not(self) -> str:
        """Why there is nothing of it, where that is so."""


def rows(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """Every figure that is asked for, in JSON: what was measured of it, by the outcomes of parts by their names."""
    return [_row(each, outcomes.get(each.part)) for each in ASKED]


def _row(figure: Asked, outcome: Outcome | None) -> dict[str, Any]:
    required = {"name": figure.name, "part": figure.part, "text": figure.text, "required": figure.required}
    bound = {"bound": "at least" if figure.above else "at most"}
    if outcome is None:
        why = f"part {figure.part} was not asked for"
        return {**required, **bound, "measured": None, "ci95": None, "outcome": ABSENT, "reason": why}
    found = _named(figure.name, outcome.requirements)
    if found is None:
        why = outcome.unmeasured.get(figure.name) or outcome.why_not
        return {**required, **bound, "measured": None, "ci95": None, "outcome": ABSENT, "reason": why}
    interval = None if found.ci95 is None else list(found.ci95)
    told = {"measured": found.measured, "ci95": interval, "outcome": outcome_of(found), "reason": found.reason}
    return {**required, **bound, **told}


def _named(name: str, requirements: Sequence[Requirement]) -> Requirement | None:
    return next((each for each in requirements if each.name == name), None)
