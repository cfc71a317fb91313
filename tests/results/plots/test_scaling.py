"""Pictures of grids: the linear line, efficiency, stalls and bandwidth of every cell, of one system or several."""

import pytest

from iobench.results.plots.scaling import scaling_plots
from iobench.results.record import Metric
from iobench.results.report import render


def drawn(*records):
    return {plot.name: plot for plot in scaling_plots(records)}


def trace_of(plot, name):
    (trace,) = [trace for trace in plot.traces if trace["name"] == name]
    return trace


def test_a_grid_has_its_four_pictures(grid):
    assert list(drawn(grid())) == ["throughput", "efficiency", "stalls", "bandwidth"]


def test_a_record_without_a_grid_has_none_of_them(qualified):
    assert scaling_plots([qualified]) == []


def test_the_linear_line_goes_through_the_smallest_synthetic_cell(grid):
    record = grid()
    line = trace_of(drawn(record)["throughput"], "linear")
    base = record.points[0].metrics["images_per_s"].value
    assert (line["x"], line["y"]) == ([1, 4], [base, pytest.approx(4 * base)])


def test_the_map_of_stalls_has_a_field_for_every_cell_that_read_and_none_for_a_cell_that_is_missing(grid):
    record = grid()
    kept = [p for p in record.points if (p.params["nodes"], p.params["gpus_per_node"]) != (2, 1)]
    plot = drawn(record.model_copy(update={"points": tuple(kept)}))["stalls"]
    assert [trace["name"] for trace in plot.traces] == ["1", "2"]
    fields = [[float(text.removesuffix(" %")) if text else None for text in trace["text"]] for trace in plot.traces]
    assert fields == [[pytest.approx(5, rel=0.05), None], [pytest.approx(10, rel=0.05), pytest.approx(20, rel=0.05)]]
    assert plot.traces[0]["marker"]["color"][1] == "rgba(0,0,0,0)"


def test_simulated_nodes_and_emulated_accelerators_are_told_in_the_picture(grid):
    for plot in drawn(grid()).values():
        axis = plot.layout["xaxis"]["title"]["text"]
        if plot.name in ("throughput", "stalls", "bandwidth", "efficiency"):
            assert "emulated H100" in axis
            assert "nodes simulated on one machine" in axis


def test_two_systems_share_axes_and_are_told_apart_by_host(grid):
    plot = drawn(grid("old"), grid("new", 2.0))["throughput"]
    names = [trace["name"] for trace in plot.traces]
    assert names == ["old, linear", "new, linear", "old, synthetic", "old, direct", "new, synthetic", "new, direct"]
    assert "new, 2×2, direct" in plot.title
    heads = [column.head for column in plot.table.columns]
    assert heads[0] == "system"


def test_two_runs_of_one_host_are_told_apart_by_their_names(grid):
    first, second = grid("same"), grid("same").model_copy(update={"run_id": "later"})
    names = [trace["name"] for trace in drawn(first, second)["throughput"].traces]
    assert "run-same, direct" in names
    assert "later, direct" in names


def test_the_page_of_two_grids_begins_with_both_in_the_same_axes(grid):
    text = render([grid("old"), grid("new", 2.0)])
    assert text.index("Systems beside each other") < text.index('id="run0"')
    assert 'id="all-together-throughput"' in text
    assert "Systems beside each other" not in render([grid("old")])


def test_an_interval_far_wider_than_its_value_does_not_flatten_the_others(grid):
    record = grid()
    wild = Metric(value=400.0, unit="images/s", ci95=(-1500.0, 2300.0), n=2)
    last = record.points[-1].model_copy(update={"metrics": record.points[-1].metrics | {"images_per_s": wild}})
    plot = drawn(record.model_copy(update={"points": (*record.points[:-1], last)}))["throughput"]
    assert plot.layout["yaxis"]["range"] == [0, pytest.approx(1.25 * max(max(t["y"]) for t in plot.traces))]
    assert "in the table" in plot.note
