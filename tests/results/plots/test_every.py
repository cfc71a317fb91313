"""The pictures: what they find, what they show, and what they do not make up."""

import json
import xml.etree.ElementTree as ET

import pytest

from iobench.results.labels import labels_of
from iobench.results.plots.copies import chain_plot, copy_plot
from iobench.results.plots.drawing import distinct
from iobench.results.plots.every import all_plots
from iobench.results.plots.fed import supply_plot, utilisation_plot
from iobench.results.plots.loaders import loader_plots
from iobench.results.plots.steps import step_plot
from iobench.results.plots.svg import picture
from iobench.results.plots.sweeps import sweep_plots
from iobench.results.record import Metric, Point, not_measured
from iobench.results.report import render


def changed(record, *, metrics=None, workload=None, points=None):
    """The record with some of its metrics, workload or points replaced."""
    return record.model_copy(
        update={
            "metrics": {**record.metrics, **(metrics or {})},
            "workload": {**record.workload, **(workload or {})},
            "points": record.points if points is None else tuple(points),
        }
    )


def names(record):
    return [plot.name for plot in all_plots(record)]


def test_a_whole_record_has_every_picture(qualified):
    drawn = ["steps", "utilisation", "supply", "loader", "copy", "rates-size", "latencies-size", "ranks"]
    assert names(qualified) == drawn


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("storage", ["rates-size", "latencies-size", "rates-depth", "latencies-depth"]),
        ("load", ["loader"]),
        ("stage", []),
        ("train", ["steps", "utilisation", "ranks"]),
    ],
)
def test_a_single_bench_has_the_pictures_of_its_own_data(only, kind, expected):
    assert names(only(kind)) == expected


def test_every_picture_has_a_table_axes_with_units_and_data_for_json(qualified):
    for plot in all_plots(qualified):
        assert plot.table.rows, plot.name
        assert plot.title
        assert plot.layout["xaxis"]["title"]["text"], plot.name
        json.dumps([plot.traces, plot.layout], allow_nan=False)


def test_the_parts_of_every_bar_are_the_measured_parts_of_the_step(qualified):
    plot = step_plot(qualified)
    direct = next(p for p in qualified.points if (p.params.get("source"), p.params.get("num_ranks")) == ("direct", 4))
    shown = {trace["name"]: trace["x"][trace["y"].index("4 ranks, direct")] for trace in plot.traces}
    assert shown == pytest.approx(
        {
            "compute": direct.metrics["compute_s"].value * 1e3,
            "data wait": direct.metrics["data_wait_s"].value * 1e3,
            "sync wait": direct.metrics["sync_wait_s"].value * 1e3,
            "overhead": direct.metrics["overhead_s"].value * 1e3,
        }
    )


def test_a_part_that_was_not_measured_is_no_bar_of_length_zero(qualified):
    train = next(point for point in qualified.points if point.params["stage"] == "train")
    holed = train.model_copy(update={"metrics": {**train.metrics, "sync_wait_s": not_measured("s", "one rank")}})
    traces = {trace["name"]: trace for trace in step_plot(changed(qualified, points=[holed])).traces}
    assert traces["sync wait"]["x"] == [None]


def test_bars_of_one_label_are_told_apart():
    assert distinct(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]


def test_emulation_and_scaling_are_told_in_titles_and_axes(qualified):
    for plot in (step_plot(qualified), utilisation_plot(qualified), supply_plot(qualified)):
        assert "emulated H100" in plot.title
        assert "emulated H100" in plot.layout["xaxis"]["title"]["text"]
    scaled = changed(qualified, workload={"scaled": True})
    assert "scaled step time" in supply_plot(scaled).title


def test_a_real_accelerator_is_not_called_emulated(qualified):
    real = [
        point.model_copy(update={"params": {**point.params, "emulated": False, "accelerator": "cuda"}})
        for point in qualified.points
    ]
    record = changed(qualified, points=real, workload={"emulated": False, "accelerator": "cuda"})
    assert "emulated" not in json.dumps([(plot.title, plot.layout) for plot in all_plots(record)])


@pytest.mark.parametrize(
    ("predicted", "measured", "words"),
    [
        (3, 3, "3 emulated H100 fed when measured, 3 predicted"),
        (4, 3, "3 emulated H100 fed when measured, 4 predicted"),
        (3, None, "3 emulated H100 fed as predicted, not confirmed by a run"),
        (0, 0, "0 emulated H100 fed when measured, 0 predicted"),
        (None, None, "Utilisation at each number of ranks (emulated H100)"),
    ],
)
def test_the_title_says_what_was_predicted_and_what_was_measured(qualified, predicted, measured, words):
    def metric(value):
        return not_measured("accelerators", "why") if value is None else Metric(value=value, unit="accelerators")

    record = changed(
        qualified, metrics={"gpus_fed_predicted": metric(predicted), "gpus_fed_measured": metric(measured)}
    )
    assert utilisation_plot(record).title == words


def test_a_lower_bound_is_called_one(qualified):
    bound = Metric(value=3, unit="accelerators", reason="at least: more than 3 ranks were not run")
    record = changed(qualified, metrics={"gpus_fed_measured": bound})
    assert utilisation_plot(record).title == "at least 3 emulated H100 fed when measured, 3 predicted"


def test_the_demand_lines_rise_by_one_accelerators_demand(qualified):
    demand = qualified.workload["demand_gbps"]
    full, needed = (trace for trace in supply_plot(qualified).traces if trace["mode"] == "lines")
    assert (full["x"], full["y"]) == ([0, 4], pytest.approx([0, 4 * demand]))
    assert needed["y"] == pytest.approx([0, 0.9 * 4 * demand])


def test_intervals_are_drawn_around_the_value(qualified):
    trace = supply_plot(qualified).traces[0]
    point = next(p for p in qualified.points if p.params.get("threads") == 1)
    low, high = point.metrics["read_gbps"].ci95
    value = point.metrics["read_gbps"].value
    assert trace["y"][0] - trace["error_y"]["arrayminus"][0] == pytest.approx(low)
    assert value + trace["error_y"]["array"][0] == pytest.approx(high)


def test_flagged_points_have_open_markers_and_a_note(qualified):
    plot = utilisation_plot(qualified)
    staged = next(trace for trace in plot.traces if trace["name"] == "staged")
    assert staged["marker"]["symbol"] == ["square", "square", "square-open"]
    assert "harness limited" in plot.note


def test_the_crossing_of_copy_or_not_is_marked_where_the_copy_is_first_ahead(qualified):
    case = {"sentence": "s", "epochs": [1, 2, 3], "direct_s": [10.0, 20.0, 30.0], "staged_s": [15.0, 20.0, 25.0]}
    plot = copy_plot(changed(qualified, workload={"copy_or_not": case}))
    assert [mark["x0"] for mark in plot.layout["shapes"]] == [3]
    assert "pays from epoch 3" in plot.layout["annotations"][0]["text"]


@pytest.mark.parametrize(
    "case",
    [
        None,
        {},
        {"outcome": "does not fit", "sentence": "s", "epochs": [], "direct_s": None, "staged_s": None},
        {"outcome": "never", "sentence": "s", "epochs": [1, 2], "direct_s": [1.0, 2.0], "staged_s": None},
    ],
)
def test_without_both_roads_there_is_no_picture_of_copy_or_not(qualified, case):
    assert copy_plot(changed(qualified, workload={"copy_or_not": case})) is None


def hop(number, copy_s, verify_s=1.0):
    nothing = not_measured("s", "was there already")
    metrics = {
        "stage_time_s": nothing if copy_s is None else Metric(value=copy_s, unit="s"),
        "read_gbps": nothing if copy_s is None else Metric(value=10 / copy_s, unit="GB/s"),
        "verify_time_s": Metric(value=verify_s, unit="s"),
    }
    params = {"stage": "stage", "hop": number, "source": f"/disk{number}", "target": f"/disk{number + 1}"}
    return Point(params=params, metrics=metrics)


def test_a_chain_of_copies_is_a_bar_a_hop_whose_title_names_the_slowest(qualified):
    chained = changed(qualified, points=(hop(1, 20.0), hop(2, 5.0), hop(3, None)))
    plot = chain_plot(chained)
    assert plot.title == "The slowest hop copies 500 MB/s: hop 1, /disk1 to /disk2"
    copying, reading_back = plot.traces
    assert copying["x"] == [20.0, 5.0, None]
    assert reading_back["x"] == [1.0, 1.0, 1.0]
    beside = [note["text"] for note in plot.layout["annotations"]]
    assert beside == ["500 MB/s", "2 GB/s", "was there already"]
    one = changed(qualified, points=(hop(1, 20.0),))
    assert chain_plot(one) is None
    assert "Copy, hop by hop" in render([one])
    assert render([chained]).count("Copy, hop by hop") == 1  # the picture's own table


def test_a_sweep_is_drawn_over_the_parameter_that_was_swept(only):
    plots = {plot.name: plot for plot in sweep_plots(only("storage"))}
    assert plots["rates-size"].layout["xaxis"]["ticktext"] == ["64 KiB", "1 MiB", "4 MiB", "16 MiB"]
    assert plots["rates-depth"].layout["xaxis"]["ticktext"] == ["4", "8", "12", "16"]


def test_reads_into_a_gpu_are_a_line_of_their_own(only):
    record = only("storage")
    names = {"destination": "gpu"}
    into = [point.model_copy(update={"params": {**point.params, **names}}) for point in record.points]
    (before, *_), (after, *_) = sweep_plots(record), sweep_plots(changed(record, points=[*record.points, *into]))
    labels = [trace["name"] for trace in after.traces]
    assert len(labels) == 2 * len(before.traces)
    assert sum("into the GPU" in label for label in labels) == len(before.traces)


def test_points_that_sweep_nothing_are_bars(only):
    record = only("storage")
    same = [point for point in record.points if point.params["block_size_bytes"] == 1 << 20]
    (plot,) = sweep_plots(changed(record, points=same))
    assert plot.traces[0]["y"] == ["direct, access sequential", "direct, access random *"]
    assert plot.traces[0]["x"] == [point.metrics["read_gbps"].value for point in same]


def test_markup_in_a_record_is_text_in_a_picture(qualified):
    evil = "<b>x</b><a href='http://example.org'>y</a>"
    points = [
        point.model_copy(update={"params": {**point.params, "source": evil, "access": evil, "engine": evil}})
        for point in qualified.points
    ]
    shown = 0
    for plot in all_plots(changed(qualified, points=points)):
        drawn = ET.fromstring(picture(plot.traces, plot.layout))
        assert {each.tag for each in drawn.iter()} <= {"svg", "path", "rect", "text", "tspan", "title"}
        shown += sum("<b>x</b>" in "".join(each.itertext()) for each in drawn.iter("text"))
    assert shown > 10


def test_points_of_one_label_say_in_what_they_differ(qualified):
    train = next(point for point in qualified.points if point.params["stage"] == "train")
    twins = [train.model_copy(update={"params": {**train.params, "labels": word}}) for word in ("given", "shuffled")]
    assert labels_of(twins) == ["2 ranks, synthetic, given labels", "2 ranks, synthetic, shuffled labels"]


def test_what_was_written_is_drawn_apart_from_what_was_read(only):
    record = only("storage")
    written = []
    for point in record.points:
        metrics = {name.replace("read_", "write_"): metric for name, metric in point.metrics.items()}
        written.append(point.model_copy(update={"params": point.params | {"operation": "write"}, "metrics": metrics}))
    drawn = {plot.name: plot for plot in sweep_plots(changed(record, points=[*record.points, *written]))}
    assert drawn.keys() == {
        f"{what}-{swept}"
        for what in ("rates", "latencies", "write-rates", "write-latencies")
        for swept in ("size", "depth")
    }
    assert drawn["write-rates-size"].title.startswith("Fastest write: ")
    assert drawn["write-latencies-size"].title.startswith("One write in a hundred takes over")
    assert drawn["write-rates-size"].layout["yaxis"]["title"]["text"] == "write rate, GB/s"


def test_heats_of_a_contest_are_pictures_of_their_own(only):
    record = only("load")
    heats = [
        point.model_copy(update={"params": {**point.params, "heat": heat, "label": f"{heat} {place}"}})
        for place, point in enumerate(record.points)
        for heat in ("warm", "cold")
    ]
    plots = loader_plots(changed(record, points=heats))
    assert [(plot.name, len(plot.traces[0]["y"])) for plot in plots] == [("loader", 3), ("loader-1", 3)]
    assert "cold" in plots[1].layout["xaxis"]["title"]["text"]


def test_what_was_scaled_down_to_fit_is_told_in_the_axes(qualified):
    scaled = changed(qualified, workload={"scaled_to_fit": ["data: 0.03 of its samples"]})
    for plot in (step_plot(scaled), utilisation_plot(scaled), supply_plot(scaled), copy_plot(scaled)):
        assert "scaled down" in plot.layout["xaxis"]["title"]["text"]
    assert "scaled down" not in step_plot(qualified).layout["xaxis"]["title"]["text"]
    assert "computed" in copy_plot(qualified).layout["xaxis"]["title"]["text"]
