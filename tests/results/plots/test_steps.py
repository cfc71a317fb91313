"""Pictures of a step: what a hop adds, and the rank that the others waited for."""

import pytest

from iobench.results.plots.ranks import rank_plot
from iobench.results.plots.steps import hop_plot
from iobench.results.record import Metric, RankReport


def ranks_with(*own_s, wait="data_wait_s"):
    """Ranks that compute 0.1 s and more, the rest of a 0.5 s step waiting for each other."""
    metrics = [
        {"compute_s": 0.1, "data_wait_s": 0.0, "sync_wait_s": 0.4 - more} | {wait: more + 0.1 * (wait == "compute_s")}
        for more in own_s
    ]
    return tuple(
        RankReport(
            rank=rank,
            local_rank=rank,
            pid=rank + 1,
            host=f"node{rank}",
            metrics={name: Metric(value=value, unit="s") for name, value in each.items()},
        )
        for rank, each in enumerate(metrics)
    )


def with_ranks(record, ranks):
    return record.model_copy(update={"points": (), "ranks": ranks})


def test_a_hops_bar_is_as_long_as_its_step_and_red_is_what_it_added(everything):
    plot = hop_plot(everything)
    before, added = (trace["x"] for trace in plot.traces)
    assert added[0] is None
    assert added[2] == pytest.approx(70, rel=0.05)
    assert before[2] + added[2] == pytest.approx(300, rel=0.05)
    assert "files on the storage" in plot.title


def test_a_rung_that_was_not_run_has_no_bar_but_its_reason_in_the_table(everything):
    plot = hop_plot(everything)
    assert all("page cache" not in label for label in plot.traces[0]["y"])
    (row,) = [row for row in plot.table.rows if row[0].text == "files in the page cache"]
    assert row[1].text == "not measured"
    assert "no page cache" in plot.table.notes


def test_a_step_with_hops_that_cost_nothing_says_so(everything):
    free = [p for p in everything.points if p.params["stage"] == "hop" and p.params["hop"] == "synthetic"]
    assert hop_plot(everything.model_copy(update={"points": tuple(free)})).title.startswith("No hop adds")


def test_the_last_rank_is_named_with_its_host_and_what_kept_it(qualified):
    title = rank_plot(with_ranks(qualified, ranks_with(0.0, 0.01, 0.2))).title
    last = "Rank 2 on node2 is the last on average"
    assert title == f"{last}: 190 ms of a step later than the middle one, waiting for data (the run)"
    title = rank_plot(with_ranks(qualified, ranks_with(0.0, 0.2, wait="compute_s"))).title
    assert "Rank 1 on node1" in title
    assert "200 ms of a step later than the other, computing" in title


def test_ranks_that_take_the_same_time_have_no_last_one(qualified):
    assert rank_plot(with_ranks(qualified, ranks_with(0.1, 0.1, 0.1005))).title.startswith("No rank holds")


def test_one_rank_is_no_strip(qualified):
    assert rank_plot(with_ranks(qualified, ranks_with(0.1))) is None


def test_every_rank_has_its_column_and_a_wait_that_was_not_measured_has_no_height(qualified):
    ranks = list(ranks_with(0.0, 0.1, 0.2))
    hole = {name: metric for name, metric in ranks[1].metrics.items() if name != "sync_wait_s"}
    ranks[1] = ranks[1].model_copy(update={"metrics": hole})
    plot = rank_plot(with_ranks(qualified, tuple(ranks)))
    waits = next(trace for trace in plot.traces if trace["name"] == "waits for others")
    assert waits["x"] == [0, 1, 2]
    assert waits["y"] == [pytest.approx(400), None, pytest.approx(200)]
