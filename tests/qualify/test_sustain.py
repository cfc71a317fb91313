"""Whether a rate lasts: slopes as people read them, and a real row of blocks on small data."""

import pytest

from iobench.qualify import QualifyConfig
from iobench.qualify.data import open_data
from iobench.qualify.run import Run
from iobench.qualify.sustain import drift_per_hour, sustain
from iobench.results.fed import Fed
from iobench.results.lasting import judge_lasting
from iobench.results.record import Metric, Requirement
from iobench.results.verdict import compose_verdict
from iobench.storage_bench.accelerators import resolve_accelerator


def rate(value, half=0.01):
    return Metric(value=value, unit="GB/s", ci95=(value - half, value + half), n=45)


def drift(value, half):
    return Metric(value=value, unit="1/h", ci95=(value - half, value + half), n=180)


def lasting(change, last, needed=1.0):
    return judge_lasting(change, last=last, seconds=1800, needed_gbps=needed, readers=4)


def test_a_slope_is_told_as_a_share_of_the_rate_per_hour():
    # from 2.0 to 1.0 GB/s within an hour: two thirds of the mean of 1.5
    ends = [36.0 * block for block in range(101)]
    metric = drift_per_hour(ends, [2.0 - end / 3600 for end in ends])
    assert metric.value == pytest.approx(-2 / 3)
    assert (metric.unit, metric.n) == ("1/h", 101)
    assert drift_per_hour([1.0, 2.0], [1.0, 1.0]).value is None
    assert "at least 20" in drift_per_hour([1.0, 2.0], [1.0, 1.0]).reason


def test_a_rate_that_falls_names_what_may_be_behind_it():
    sentence = lasting(drift(-0.2, 0.05), rate(1.2)).sentence
    assert "fell by 20.0 % per hour (15.0 to 25.0)" in sentence
    for cause in ("burst credits", "cache", "thermal throttling"):
        assert cause in sentence


def test_a_slope_whose_interval_holds_zero_is_no_drift_and_names_nothing():
    sentence = lasting(drift(-0.02, 0.05), rate(1.2)).sentence
    assert "no drift (-7.0 to +3.0 % per hour)" in sentence
    assert "credits" not in sentence


def test_a_rate_that_rises_is_no_sign_of_credits():
    assert "rose by 20.0 %" in lasting(drift(0.2, 0.05), rate(1.2)).sentence
    assert "credits" not in lasting(drift(0.2, 0.05), rate(1.2)).sentence


@pytest.mark.parametrize(
    ("last", "passed", "outcome"),
    [
        (rate(1.2), True, "pass"),
        (rate(0.8), False, "fail"),
        (Metric(value=None, unit="GB/s", reason="none"), None, "pass"),
    ],
)
def test_a_rate_that_is_too_low_in_the_end_makes_a_pass_a_fail(last, passed, outcome):
    found = lasting(drift(-0.2, 0.05), last)
    assert found.requirement.passed is passed
    verdict = compose_verdict(
        "pass",
        Requirement(name="gpus", text="feeds 4", required=4, measured=4, unit="accelerators", passed=True),
        subject="set",
        fed=Fed(4, 4, 4),
        what="H100",
        terms="Terms.",
        reasons=[],
        measured_seconds=1.0,
        measured_bytes=1,
        lasting=found,
    )
    assert (verdict.outcome, verdict.passed) == (outcome, outcome == "pass")
    assert found.sentence in verdict.sentence
    assert len(verdict.requirements) == 2


def test_a_row_of_blocks_is_a_point_of_its_own_and_outside_the_budget(page_set):
    config = QualifyConfig.model_validate(
        {"accelerator": "0.1", "batch_size": 4, "sustain": {"seconds": 2.0, "block_seconds": 0.1}}
    )
    run = Run(page_set.folder, page_set.folder, config, resolve_accelerator("0.1", batch_size=4), lambda *_: None)
    open_data(run)
    found = sustain(run)
    (point,) = run.points
    assert point.params["stage"] == "sustain"
    assert point.metrics["drift_per_hour"].n == point.metrics["read_gbps"].n == 20
    assert point.metrics["last_part_gbps"].n == 5
    assert point.read_path.page_cache == "cold"
    assert found.requirement.passed is True
    assert run.measured_s > 2.0
    assert run.left_s == pytest.approx(config.measure_seconds)


def test_without_a_time_nothing_is_read(page_set):
    config = QualifyConfig.model_validate({"accelerator": "0.1"})
    run = Run(page_set.folder, page_set.folder, config, resolve_accelerator("0.1"), lambda *_: None)
    assert sustain(run) is None
    assert run.points == []


def test_who_interrupts_a_row_of_blocks_keeps_those_that_are_measured(page_set):
    config = QualifyConfig.model_validate(
        {"accelerator": "0.1", "batch_size": 4, "sustain": {"seconds": 1.0, "block_seconds": 0.05}}
    )

    def show(part, share, _detail):
        if part == "sustain" and share >= 0.3:
            raise KeyboardInterrupt

    run = Run(page_set.folder, page_set.folder, config, resolve_accelerator("0.1", batch_size=4), show)
    open_data(run)
    with pytest.raises(KeyboardInterrupt):
        sustain(run)
    (point,) = run.points
    assert point.params["stage"] == "sustain"
    assert point.metrics["read_gbps"].n == 6  # of 20
    assert "at least 20" in point.metrics["drift_per_hour"].reason
    assert point.metrics["last_part_gbps"].n == 2
