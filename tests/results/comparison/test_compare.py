"""Two runs against each other: ratios by hand, directions, what is refused, and which earlier run is the good one."""

import json

import pytest

from iobench.results.comparison.compare import CompareError, compare, compare_headline
from iobench.results.comparison.findings import change_of
from iobench.results.record import Metric, Point, RunRecord, Verdict, not_measured, write_record
from iobench.results.stats import summarise

QUIET = (0.99, 1.0, 1.01, 1.0, 0.99, 1.01)


def blocks(value, unit="GB/s"):
    return summarise([value * factor for factor in QUIET], unit=unit)


def fed(value, low=None, high=None, reason=None):
    interval = None if low is None else (float(low), float(high))
    return Metric(value=float(value), unit="accelerators", ci95=interval, n=4, reason=reason)


def ranks_point(num_ranks, utilisation, *, flags=(), source="direct", steps=20):
    return Point(
        params={"stage": "train", "source": source, "num_ranks": num_ranks, "counted_steps": steps},
        metrics={
            "au_mlperf": blocks(utilisation, "fraction"),
            "images_per_s": blocks(1000 * num_ranks * utilisation, "images/s"),
        },
        flags=flags,
    )


def storage_point(threads, gbps):
    params = {"stage": "storage", "engine": "direct", "access": "shard-replay", "threads": threads}
    return Point(params=params, metrics={"read_gbps": blocks(gbps)})


def run(name="base", *, kind="qualify", metrics=None, points=(), outcome="pass", environment=None, at="01", **workload):
    return RunRecord(
        run_id=name,
        kind=kind,
        started_at=f"2026-11-{at}T10:00:00+00:00",
        finished_at=f"2026-11-{at}T10:02:00+00:00",
        command=("iobench", "qualify"),
        workload={"target": "/mnt/set", "preset": "quick", "accelerator": "h100", "batch_size": 400, **workload},
        environment=environment or {"host": "a", "kernel": "6.1"},
        metrics=metrics or {},
        points=tuple(points),
        verdict=Verdict(outcome=outcome, passed=outcome == "pass", sentence="."),
    )


# --- one metric --------------------------------------------------------------------------------------------------


def test_a_figure_that_is_0_in_every_block_of_both_runs_did_not_change():
    """Zeros have no ratio, but nothing is wrong with them: nobody waited in either run."""
    nothing = summarise([0.0] * 8, unit="s")
    change = change_of("straggler_wait_s", nothing, nothing)
    assert (change.finding, change.ratio, change.reason) == ("no difference", None, None)
    assert change_of("straggler_wait_s", nothing, blocks(1.0, "s")).finding == "not comparable"


def test_a_figure_of_one_block_is_not_compared_and_says_why():
    change = change_of("peak_rss_bytes", Metric(value=5.0, unit="bytes", n=1), blocks(5.0, "bytes"))
    assert (change.finding, change.reason) == ("not comparable", "a figure of one block has no interval")


def test_a_ratio_that_is_far_from_the_one_of_the_means_beside_it_says_what_it_is_of():
    wild = summarise([2.0, 2.0, 2.0, 2.0, 2.0, 200.0, 2.0, 2.0], unit="s")
    assert "typical blocks" in change_of("step_time_s", blocks(2.0, "s"), wild).reason
    assert change_of("step_time_s", blocks(2.0, "s"), blocks(3.0, "s")).reason is None


def test_the_ratio_is_candidate_over_base_with_the_interval_of_both_runs_blocks():
    change = change_of("read_gbps", blocks(2.0), blocks(1.5))
    assert change.ratio == pytest.approx(0.75)
    assert change.ci95[0] < 0.75 < change.ci95[1]
    # six blocks a side, 4 degrees of freedom; their first four cosine sums (scipy.fft.dct) are
    # -0.00558, -0.00500, -0.01633 and 0.00866: a spread of sqrt(3.978e-4 / 4) = 0.997 %, and t(4) = 2.776;
    # neighbours correlate by (6 * -0.25 + 1) / 2 = -0.25, with the usual 0.2 of 12 blocks by 0.05, for which the
    # spectrum at rest is 1.084 times its mean at the sums' frequencies
    expected = 2 * 0.75 * 2.776 * (2 / 6 * 1.084) ** 0.5 * 0.00997
    assert change.ci95[1] - change.ci95[0] == pytest.approx(expected, rel=0.02)
    assert (change.base, change.candidate, change.finding) == (pytest.approx(2.0), pytest.approx(1.5), "worse")


@pytest.mark.parametrize(
    ("name", "factor", "finding"),
    [
        ("read_gbps", 1.2, "better"),
        ("images_per_s", 0.8, "worse"),
        ("latency_p99_us", 1.2, "worse"),
        ("data_wait_s", 0.8, "better"),
        ("au_mlperf", 1.2, "better"),
        ("write_gbps", 1.2, "better"),
        ("write_s", 1.2, "worse"),
        ("create_per_s", 1.2, "better"),
        ("restore_s", 0.8, "better"),
        ("train_loss", 0.8, "better"),
        ("peak_in_flight_bytes", 1.2, "worse"),
        ("idle_joules_per_image", 1.2, "worse"),
        ("demand_gbps", 1.2, "higher"),
        ("some_new_figure", 1.2, "higher"),
        ("some_new_figure", 0.8, "lower"),
        ("read_gbps", 1.001, "no difference"),
    ],
)
def test_what_a_change_means_depends_on_the_metric(name, factor, finding):
    assert change_of(name, blocks(10.0), blocks(10.0 * factor)).finding == finding


@pytest.mark.parametrize(
    ("base", "candidate", "finding"),
    [
        (fed(4), fed(3), "worse"),
        (fed(3), fed(4), "better"),
        (fed(4), fed(4), "no difference"),
        (fed(4, 3, 4), fed(3), "no difference"),
        (fed(4, 4, 5), fed(6, 6, 7), "better"),
        (fed(3, reason="at least: more than 3 ranks were not run"), fed(8), "no difference"),
        (fed(3, reason="at least: more than 3 ranks were not run"), fed(2), "worse"),
    ],
)
def test_numbers_of_accelerators_differ_where_their_ranges_do_not_touch(base, candidate, finding):
    change = change_of("gpus_fed_measured", base, candidate)
    assert change.finding == finding
    assert change.ratio is None


def test_what_one_run_did_not_measure_is_not_compared_and_says_why():
    change = change_of("read_gbps", blocks(1.0), not_measured("GB/s", "no exact counter"))
    assert (change.finding, change.ratio) == ("not comparable", None)
    assert "candidate" in change.reason
    assert "no exact counter" in change.reason
    assert change_of("stage_time_s", blocks(3, "s"), Metric(value=3.0, unit="s", n=1)).finding == "not comparable"


# --- two runs ----------------------------------------------------------------------------------------------------


def test_every_metric_both_have_and_every_point_they_share_is_compared():
    base = run(
        metrics={"read_gbps": blocks(2.0), "only_here": blocks(1)},
        points=[storage_point(2, 2.0), storage_point(3, 2.1)],
    )
    candidate = run("now", metrics={"read_gbps": blocks(1.0)}, points=[storage_point(3, 1.0), storage_point(4, 1.0)])
    comparison = compare(base, candidate)
    assert [(change.name, change.where, change.finding) for change in comparison.changes] == [
        ("read_gbps", "", "worse"),
        ("read_gbps", "storage: shard-replay, 3 threads", "worse"),
    ]
    assert (comparison.base_run_id, comparison.base_outcome) == ("base", "pass")


def test_the_best_point_of_both_runs_is_told_of_once():
    base, candidate = storage_point(2, 2.0), storage_point(2, 1.0)
    comparison = compare(
        run(metrics=base.metrics, points=[base]), run("now", metrics=candidate.metrics, points=[candidate])
    )
    assert [(change.name, change.where) for change in comparison.changes] == [("read_gbps", "")]


def test_a_sweep_that_went_further_is_compared_where_both_went():
    near, far = storage_point(2, 2.0), storage_point(8, 4.0)
    base = run(points=[near], access=["shard-replay"], page_cache="cold")
    comparison = compare(base, run("now", points=[near, far], access=["random", "shard-replay"], page_cache="cold"))
    assert [change.where for change in comparison.changes] == ["storage: shard-replay, 2 threads"]
    with pytest.raises(CompareError, match="access is"):
        compare(base, run("now", points=[near], access=["random"]))
    with pytest.raises(CompareError, match="share no metric and no point"):
        compare(base, run("now", points=[far], access=["shard-replay"]))


def test_a_point_at_its_benchmarks_limit_says_so_beside_its_ratio():
    limited = ranks_point(3, 0.9, flags=("harness_limited",))
    changes = compare(run(points=[ranks_point(3, 0.9)]), run("now", points=[limited])).changes
    assert all("candidate point is harness limited" in change.reason for change in changes)


def test_so_many_figures_that_some_differ_by_chance_are_said_to():
    points = [storage_point(threads, 2.0) for threads in range(1, 26)]
    slower = [storage_point(threads, 1.0) for threads in range(1, 26)]
    sentence = compare(run(points=points), run("now", points=slower)).sentence
    assert "and 19 more" in sentence
    assert "25 of 25 figures differ; up to 1 would by chance" in sentence


def test_steps_that_were_counted_do_not_make_another_point():
    comparison = compare(
        run(points=[ranks_point(3, 0.9, steps=20)]), run("now", points=[ranks_point(3, 0.9, steps=12)])
    )
    assert len(comparison.changes) == 2


def test_the_headline_is_taken_where_most_ranks_and_readers_ran_in_both():
    base = run(
        metrics={"gpus_fed_measured": fed(4), "gpus_fed_predicted": fed(4)},
        points=[
            storage_point(3, 2.0),
            storage_point(4, 2.0),
            *(ranks_point(n, u) for n, u in ((3, 0.98), (4, 0.95), (5, 0.8))),
        ],
    )
    candidate = run(
        "now",
        metrics={"gpus_fed_measured": fed(3), "gpus_fed_predicted": fed(4)},
        points=[
            storage_point(4, 2.0),
            storage_point(5, 2.0),
            ranks_point(3, 0.98),
            ranks_point(4, 0.85),
            ranks_point(5, 0.7, flags=("insufficient",)),
            ranks_point(6, 0.5, source="staged"),
        ],
    )
    comparison = compare_headline(base, candidate)
    assert [(change.name, change.where, change.finding) for change in comparison.changes] == [
        ("gpus_fed_measured", "", "worse"),
        ("gpus_fed_predicted", "", "no difference"),
        ("read_gbps", "shard-replay, 4 threads", "no difference"),
        ("images_per_s", "4 ranks, direct", "worse"),
        ("au_mlperf", "4 ranks, direct", "worse"),
    ]
    assert "gpus_fed_measured worse: 4 -> 3" in comparison.sentence
    assert "x 0.895" in comparison.sentence


def test_runs_that_agree_say_so_with_the_limit_of_what_they_know():
    base = run(metrics={"gpus_fed_measured": fed(4)}, points=[storage_point(3, 2.0)])
    assert "no difference that this data shows" in compare_headline(base, base).sentence
    assert "nothing that both runs measured" in compare_headline(run(), run("now")).sentence


def test_what_differs_in_the_machine_and_in_what_was_asked_is_listed():
    base = run(
        metrics={"read_gbps": blocks(2.0)},
        environment={"host": "a", "cpu": {"cores": 8}, "storage": {"free_bytes": 1, "options": ["rw"]}},
        engine="direct",
    )
    now = {"host": "b", "cpu": {"cores": 16}, "storage": {"free_bytes": 2, "options": ["rw"]}, "gpus": ["H100"]}
    comparison = compare(base, run("now", metrics=base.metrics, environment=now, engine="buffered"))
    assert [(item.name, item.base, item.candidate) for item in comparison.differences] == [
        ("engine", "direct", "buffered"),
        ("host", "a", "b"),
        ("cpu.cores", "8", "16"),
        ("gpus", "not there", "['H100']"),
    ]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"batch_size": 64}, "batch_size is 400 in base and 64 in now"),
        ({"accelerator": "a100"}, "accelerator is h100 in base and a100 in now"),
        ({"kind": "train"}, "`qualify`, now one of `train`"),
    ],
)
def test_unlike_workloads_are_refused_with_what_differs(other, told):
    with pytest.raises(CompareError, match=told) as caught:
        compare(run(), run("now", **other))
    assert caught.value.exit_status == 2


def test_a_comparison_is_part_of_the_record_and_comes_back(tmp_path):
    base = run(metrics={"read_gbps": blocks(2.0)})
    record = run("now", metrics={"read_gbps": blocks(1.0)}).model_copy(update={"history": compare(base, base)})
    path = write_record(record, tmp_path)
    assert RunRecord.model_validate(json.loads(path.read_text())) == record
