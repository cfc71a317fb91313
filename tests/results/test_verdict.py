"""Verdicts: what passes or fails, and the sentence that says so."""

import pytest

from iobench.results.fed import Fed
from iobench.results.record import Requirement
from iobench.results.verdict import compose_verdict, judge_requirement


@pytest.mark.parametrize(
    ("fed", "required", "expected"),
    [
        (Fed(3, 3, 3), 3, "pass"),
        (Fed(3, 3, 3), 4, "fail"),
        (Fed(0, 0, 0), 1, "fail"),
        (Fed(3, 3, None, "at least: more than 3 ranks were not run"), 3, "pass"),
        (Fed(3, 3, None, "at least: more than 3 ranks were not run"), 8, "insufficient"),
        (Fed(2, 2, 3, "at least: 3 ranks gave no verdict (noisy)"), 3, "insufficient"),
        (Fed(2, 2, 3, "at least: 3 ranks gave no verdict (noisy)"), 4, "fail"),
        (Fed(None, reason="no ranks were run"), 1, "insufficient"),
        (Fed(None, high=3, reason="fewer than 4: ..."), 3, "insufficient"),
        (Fed(None, high=3, reason="fewer than 4: ..."), 4, "fail"),
    ],
)
def test_only_what_the_ranks_decide_passes_or_fails(fed, required, expected):
    outcome, requirement = judge_requirement(fed, required=required, what="emulated H100", invalid=[])
    assert outcome == expected
    assert requirement.passed is {"pass": True, "fail": False}.get(expected)
    assert requirement.measured == fed.value


def test_a_contradicting_counter_overrules_every_number():
    outcome, requirement = judge_requirement(Fed(9, 9, 9), required=1, what="emulated H100", invalid=["cached"])
    assert (outcome, requirement.passed) == ("invalid", None)


def compose(outcome, fed, reasons=()):
    requirement = Requirement(name="g", text="t", required=2, measured=fed.value, unit="accelerators", passed=None)
    return compose_verdict(
        outcome,
        requirement,
        subject="data",
        fed=fed,
        what="emulated H100",
        terms="Each asks for 0.5 GB/s.",
        reasons=reasons,
        measured_seconds=60.0,
        measured_bytes=10**9,
    )


def test_the_sentence_names_the_number_its_range_what_is_required_and_the_terms():
    said = compose("pass", Fed(3, 2, 4)).sentence
    assert said == "data feeds 3 emulated H100 (2 to 4 by the interval); 2 required. Each asks for 0.5 GB/s."
    assert "at least 3 emulated" in compose("pass", Fed(3, 3, None, "at least: more were not run")).sentence
    assert "feeds at most 1 emulated" in compose("fail", Fed(None, high=1, reason="fewer than 2: ...")).sentence


def test_a_sentence_without_a_verdict_says_why():
    assert "no ranks were run" in compose("insufficient", Fed(None, reason="no ranks were run")).sentence
    said = compose("invalid", Fed(3, 3, 3), ["storage: cached", "ranks: cached"]).sentence
    assert "not valid" in said
    assert "storage: cached (and 1 more" in said
