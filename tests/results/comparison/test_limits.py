"""Limits of a comparison: what they may say, and that only a whole interval beyond one breaks it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.results.comparison.limits import Limit, LimitError, judge, parse_limit
from iobench.results.record import Change, Comparison, RunRecord


def change(name="images_per_s", ratio=1.0, ci95=(0.99, 1.01), *, where="", finding="no difference", **of):
    values = {"base": 100.0, "candidate": None if ratio is None else 100.0 * ratio, "unit": "images/s", **of}
    return Change(name=name, where=where, ratio=ratio, ci95=ci95, finding=finding, **values)


def comparison(*changes):
    return Comparison(base_run_id="a", base_started_at="2026-11-01", base_outcome=None, changes=changes, sentence=".")


def verdict(limit, *changes, runs=()):
    return judge([parse_limit(limit)], comparison(*changes), runs)


def run(*warnings):
    return RunRecord(
        run_id="now",
        kind="load",
        started_at="2026-11-01T10:00:00+00:00",
        finished_at="2026-11-01T10:00:00+00:00",
        command=(),
        workload={},
        environment={},
        warnings=warnings,
    )


# --- the words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("images_per_s < -5%", Limit("images_per_s", "<", -5.0)),
        ("  latency_p99_us>+12.5 % ", Limit("latency_p99_us", ">", 12.5)),
        ("read_gbps < 0%", Limit("read_gbps", "<", 0.0)),
        ("read_gbps < +3%", Limit("read_gbps", "<", 3.0)),
    ],
)
def test_a_limit_is_a_metric_a_side_and_a_signed_percentage(text, limit):
    assert parse_limit(text) == limit
    assert parse_limit(limit.text) == limit


@pytest.mark.parametrize(
    "text",
    [
        "",
        "images_per_s",
        "images_per_s < 5%",  # without a sign it could mean either
        "images_per_s < -5",
        "images_per_s <= -5%",
        "images_per_s = -5%",
        "images_per_s < -5% or so",
        "images per s < -5%",
        "images_per_s < -1e3%",
        "images_per_s < -100%",
        "images_per_s < -٥%",
        "< -5%",
    ],
)
def test_everything_else_is_refused_with_how_it_is_written(text):
    with pytest.raises(LimitError, match=r"-N%|above -100") as caught:
        parse_limit(text)
    assert caught.value.exit_status == 2


@given(st.text(max_size=40))
def test_no_text_is_more_than_refused(text):
    with suppress(LimitError):
        assert parse_limit(text).percent > -100


# --- the judgement -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "ratio", "ci95", "outcome"),
    [
        ("images_per_s < -5%", 0.90, (0.88, 0.92), "fail"),
        ("images_per_s < -5%", 0.90, (0.84, 0.96), "insufficient"),  # 0.95 is inside: noise may be all of it
        ("images_per_s < -5%", 0.94, (0.93, 0.95), "insufficient"),  # on the line
        ("images_per_s < -5%", 0.96, (0.95, 0.97), "pass"),
        ("images_per_s < -5%", 1.50, (1.40, 1.60), "pass"),
        ("images_per_s > +10%", 1.20, (1.11, 1.30), "fail"),
        ("images_per_s > +10%", 1.20, (1.05, 1.35), "insufficient"),
        ("images_per_s > +10%", 0.50, (0.40, 0.60), "pass"),
        ("images_per_s < +3%", 1.00, (0.99, 1.01), "fail"),  # asked to be faster, and it is not
    ],
)
def test_a_limit_is_broken_by_a_whole_interval_beyond_it(limit, ratio, ci95, outcome):
    found = verdict(limit, change(ratio=ratio, ci95=ci95))
    assert found.outcome == outcome
    assert found.passed is {"pass": True, "fail": False}.get(outcome)
    (requirement,) = found.requirements
    assert requirement.measured == pytest.approx((ratio - 1) * 100)
    assert requirement.passed is found.passed


def test_without_limits_there_is_no_verdict():
    assert judge([], comparison(change()), ()) is None


def test_one_broken_limit_of_several_fails():
    limits = [parse_limit("images_per_s < -5%"), parse_limit("latency_p99_us > +5%")]
    changes = change(), change("latency_p99_us", 1.2, (1.1, 1.3), finding="worse", unit="us")
    found = judge(limits, comparison(*changes), ())
    assert found.outcome == "fail"
    assert "1 of 2" in found.sentence
    assert "latency_p99_us +20.0 %" in found.sentence


@pytest.mark.parametrize(
    ("base", "candidate", "finding", "outcome"),
    [(4, 3, "worse", "fail"), (4, 3, "no difference", "pass"), (3, 4, "better", "pass"), (0, 2, "better", "pass")],
)
def test_counts_break_a_limit_only_where_they_differ_for_certain(base, candidate, finding, outcome):
    fed = change("gpus_fed_measured", None, None, finding=finding, unit="accelerators", base=base, candidate=candidate)
    assert verdict("gpus_fed_measured < -5%", fed).outcome == outcome


def test_what_is_0_in_both_runs_keeps_every_limit():
    still = change("straggler_wait_s", None, None, base=0.0, candidate=0.0, unit="s")
    assert verdict("straggler_wait_s > +10%", still).outcome == "pass"


def test_the_runs_own_figure_is_meant_where_there_is_one_else_every_point():
    slow = change(ratio=0.5, ci95=(0.49, 0.51), where="load: 2 threads", finding="worse")
    assert verdict("images_per_s < -5%", change(), slow).outcome == "pass"
    found = verdict("images_per_s < -5%", slow, change(where="load: 4 threads"))
    assert found.outcome == "fail"
    assert [item.passed for item in found.requirements] == [False, True]
    assert "load: 2 threads" in found.sentence


def test_a_metric_that_is_not_in_both_runs_is_refused_with_the_nearest_names():
    with pytest.raises(LimitError, match="near it: images_per_s"):
        verdict("image_per_s < -5%", change(), change("read_gbps"))


def test_what_was_not_measured_is_no_pass():
    gone = change(ratio=None, ci95=None, finding="not comparable", reason="not measured in the candidate run: broken")
    found = verdict("images_per_s < -5%", gone)
    assert (found.outcome, found.passed) == ("invalid", None)
    assert "broken" in found.sentence


def test_a_run_whose_measurement_does_not_count_gives_no_verdict():
    found = verdict("images_per_s < -5%", change(), runs=(run("a remark"), run("not valid: warm instead of cold")))
    assert (found.outcome, found.passed) == ("invalid", None)
    assert "warm instead of cold" in found.sentence
    assert verdict("images_per_s < -5%", change(), runs=(run("a remark"),)).outcome == "pass"
