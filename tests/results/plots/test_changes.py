"""The picture of a comparison: a dot at every ratio, what differs first."""

from iobench.results.plots.changes import MOST_CHANGES, change_plot
from iobench.results.record import Change, Comparison


def change(name, ratio, finding, *, spread=0.1, where=""):
    ci95 = None if ratio is None else (ratio - spread, ratio + spread)
    return Change(name=name, where=where, unit="1", base=1.0, candidate=ratio, ratio=ratio, ci95=ci95, finding=finding)


def comparison(*changes):
    return Comparison(base_run_id="b", base_started_at="t", base_outcome=None, changes=changes, sentence="s")


def test_every_ratio_has_a_dot_of_its_finding_and_what_differs_stands_first():
    plot = change_plot(
        comparison(
            change("read_gbps", 1.02, "no difference"),
            change("images_per_s", 1.5, "better"),
            change("latency_p99_us", 2.0, "worse"),
        )
    )
    assert {trace["name"]: (trace["y"], trace["x"]) for trace in plot.traces} == {
        "better": (["image rate"], [1.5]),
        "worse": (["latency, 99th percentile"], [2.0]),
        "no difference": (["read rate"], [1.02]),
    }
    assert plot.layout["yaxis"]["categoryarray"][-1] == "read rate"
    assert plot.title == "3 figures compared: 1 better, 1 worse, 1 with no difference that this data shows"


def test_an_interval_that_is_wild_does_not_flatten_the_others():
    plot = change_plot(
        comparison(
            change("read_gbps", 1.1, "better", spread=0.05), change("step_time_s", 1.0, "no difference", spread=500)
        )
    )
    low, high = plot.layout["xaxis"]["range"]
    assert 0.5 < low < 1 < high < 2


def test_many_changes_are_drawn_in_part_and_said_so():
    many = [change("read_gbps", 1.0 + k / 1000, "no difference", where=f"point {k}") for k in range(100)]
    plot = change_plot(comparison(*many, change("step_time_s", 2.0, "worse", where="point")))
    assert sum(len(trace["x"]) for trace in plot.traces) == MOST_CHANGES
    assert plot.traces[0]["name"] == "worse"
    assert plot.note == f"{MOST_CHANGES} figures of 101 are drawn."
    assert len(plot.table.rows) == 101


def test_without_a_ratio_there_is_no_picture():
    assert change_plot(comparison(change("read_gbps", None, "not comparable"))) is None
