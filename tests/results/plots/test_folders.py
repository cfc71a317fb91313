"""Small files and checkpoints: every operation has its dot or bar, and what was not measured has none."""

import pytest

from iobench.results.plots.folders import checkpoint_plot, names_plot
from iobench.results.record import Metric, Point, not_measured


def names_point(page_cache="cold", *, flags=(), **rates):
    metrics = {f"{name}_per_s": Metric(value=rate, unit="files/s") for name, rate in rates.items()}
    metrics["create_p99_us"] = Metric(value=2500.0, unit="us")
    params = {"stage": "metadata", "files": 1000, "file_bytes": 4096, "threads": 4, "page_cache": page_cache}
    return Point(params=params, metrics=metrics, flags=flags)


def checkpoint_point(beside, write, *, ratio=None, **more):
    metrics = {"write_gbps": Metric(value=write, unit="GB/s"), "restore_gbps": Metric(value=2.0, unit="GB/s")} | more
    if ratio:
        metrics["read_gbps_ratio"] = Metric(value=ratio, unit="ratio", ci95=(ratio - 0.1, ratio + 0.1), n=4)
    return Point(params={"stage": "checkpoint", "beside": beside, "checkpoint_bytes": 10**9}, metrics=metrics)


def having(record, *points):
    return record.model_copy(update={"points": points})


def test_every_operation_has_a_dot_at_its_rate_and_the_slowest_is_named(qualified):
    plot = names_plot(having(qualified, names_point(create=400.0, stat=90_000.0)))
    (trace,) = plot.traces
    assert dict(zip(trace["y"], trace["x"], strict=True)) == {
        "files made": 400.0,
        "files asked for size and times": 90_000.0,
    }
    assert plot.title.startswith("files made: 400 files/s, the least of all operations, one in a hundred takes over")
    assert "4 KiB" in plot.title


def test_an_operation_that_was_not_measured_has_no_dot_but_its_reason(qualified):
    point = names_point(create=400.0, stat=900.0)
    missing = point.model_copy(update={"metrics": point.metrics | {"stat_per_s": not_measured("files/s", "no time")}})
    plot = names_plot(having(qualified, point, missing))
    assert [len(trace["y"]) for trace in plot.traces] == [2, 1]
    assert "no time" in plot.table.notes


def test_two_states_of_the_cache_are_two_series_and_flagged_ones_are_open(qualified):
    warm = names_point("warm", create=500.0, flags=("names_cached",))
    plot = names_plot(having(qualified, names_point(create=400.0), warm))
    assert [(trace["name"], trace["marker"]["symbol"]) for trace in plot.traces] == [
        ("cold", "circle"),
        ("warm", "square-open"),
    ]
    assert "names, sizes and times came from this client's memory" in plot.note


def test_checkpoints_alone_stand_beside_those_with_readers(qualified):
    read = Metric(value=0.9, unit="GB/s")
    points = checkpoint_point("nothing", 1.5), checkpoint_point("reads", 1.2, ratio=0.6, read_gbps=read)
    plot = checkpoint_plot(having(qualified, *points))
    assert [(trace["name"], trace["x"]) for trace in plot.traces] == [
        ("alone", [1.5, 2.0, None]),
        ("while others read", [1.2, 2.0, 0.9]),
    ]
    assert plot.title == (
        "A checkpoint of 1.00 GB is written at 1.500 GB/s; "
        "readers beside it keep 60.0\N{NO-BREAK SPACE}% of their rate (ratio 0.50 to 0.70)"
    )


@pytest.mark.parametrize("draw", [names_plot, checkpoint_plot])
def test_other_records_have_neither(draw, qualified):
    assert draw(qualified) is None
