"""Percentiles, roofs, energy; and that a long record is thinned, not cut."""

import re

import pytest

from iobench.results.plots.limits import energy_plot, percentile_plot, roofline_plot
from iobench.results.plots.sweeps import sweep_plots
from iobench.results.record_tables import stage_tables
from iobench.results.tables import thinned


def test_percentiles_stand_in_order_and_in_milliseconds(everything):
    plot = percentile_plot(everything)
    (trace,) = plot.traces
    assert trace["x"] == ["median", "90 %", "99 %", "99.9 %", "longest"]
    assert trace["y"] == pytest.approx([0.9, 1.4, 2.9, 8.0, 9.1], rel=0.05)
    assert re.search(r", 3\.[123] times the median", plot.title)


def test_the_lowest_roof_is_named(everything):
    plot = roofline_plot(everything)
    assert plot.title.startswith("The lowest roof is resnet50, storage bandwidth")
    assert [trace["name"] for trace in plot.traces] == ["roof", "measured"]


def test_energy_is_shown_beside_what_idle_takes(everything, qualified):
    plot = energy_plot(everything)
    assert [trace["x"][0] for trace in plot.traces] == pytest.approx([0.21, 0.05], rel=0.05)
    assert energy_plot(qualified) is None


def test_a_knee_is_written_at_its_point_and_takes_nothing_from_it(qualified):
    points = list(qualified.points)
    place = next(k for k, p in enumerate(points) if p.params.get("access") == "sequential")
    points[place] = points[place].model_copy(update={"flags": ("knee",)})
    plot = sweep_plots(qualified.model_copy(update={"points": tuple(points)}))[0]
    assert [mark["text"] for mark in plot.layout["annotations"]].count("knee") == 1
    assert "the knee is at sequential" in plot.title
    assert "knee" not in plot.note
    assert all("open" not in symbol for symbol in plot.traces[0]["marker"]["symbol"])


def test_lines_of_demand_stand_around_the_best_rate(qualified):
    marks = [mark["text"] for mark in sweep_plots(qualified)[0].layout["annotations"]]
    assert marks == ["3 emulated H100: 553 MB/s", "4 emulated H100: 737 MB/s"]  # 0.9 x 204.75 MB/s each


def test_thinning_keeps_both_ends_and_the_distance():
    assert thinned(range(10), 20) == list(range(10))
    assert thinned(range(101), 5) == [0, 25, 50, 75, 100]


def test_a_long_table_says_how_many_rows_it_left_out(qualified):
    point = next(point for point in qualified.points if point.params["stage"] == "load")
    (table,) = stage_tables(qualified.model_copy(update={"points": (point,) * 1000}))
    assert len(table.rows) + table.left_out == 1000
    assert table.title == "All 1,000 load points"
    assert len(table.rows) == 200
