"""What the terminal shows of points: a table for each stage, as wide as its heads."""

from pathlib import Path

import pytest

from iobench.cli.points import show_points
from iobench.results.record import Metric, Point, not_measured, read_record

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fio-2-cores", ("Storage rate", "block KiB", "p99 us", "host (exact)")),
        ("loaders-2-cores", ("Loaders side by side", "images/s", "ours/it")),
        ("learning-2-cores", ("Training on cpu", "right %", "optimiser", "100.0")),
    ],
)
def test_the_points_of_a_reference_run_are_a_table(name, words, capsys):
    show_points(read_record(REFERENCE / f"{name}.json").points)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [word for word in words if word not in shown.err] == []


def test_what_was_read_into_a_gpu_stands_beside_what_was_read_on_the_host(capsys):
    point = read_record(REFERENCE / "fio-2-cores.json").points[0]
    into = point.model_copy(update={"params": {**point.params, "engine": "kvikio", "destination": "gpu"}})
    show_points([point, into])
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.split()[0] == point.params["engine"]
    assert second.split()[:3] == ["kvikio", ">", "gpu"]


def test_ranks_are_a_table_and_what_was_not_measured_is_a_dash(capsys):
    names = ("step_time_s", "compute_s", "data_wait_s", "sync_wait_s", "overhead_s")
    metrics = {name: Metric(value=0.25, unit="s") for name in names} | {
        "images_per_s": Metric(value=1600.0, unit="images/s"),
        "au_mlperf": not_measured("1", "why"),
    }
    params = {"stage": "train", "source": "direct", "num_ranks": 2, "accelerator": "h100", "emulated": True}
    show_points([Point(params=params, metrics=metrics, flags=("noisy",))])
    title, heads, _, row, flag = capsys.readouterr().err.splitlines()
    assert title == "Ranks on h100 (emulated)"
    assert heads.split()[-2:] == ["images/s", "AU"]  # nothing was predicted
    assert row.split() == ["direct", "2", *["250.0"] * 5, "1600", "-", "noisy"]
    assert flag == "  noisy: the interval stayed wider than ±3 %"


def test_flags_are_words_that_are_explained_once(capsys):
    names = ("step_time_s", "compute_s", "data_wait_s", "sync_wait_s", "overhead_s")
    metrics = {name: Metric(value=0.25, unit="s") for name in names} | {
        "images_per_s": Metric(value=1600.0, unit="images/s"),
        "au_mlperf": Metric(value=0.9, unit="fraction"),
        "au_predicted": Metric(value=0.95, unit="fraction"),
    }
    params = {"stage": "train", "source": "direct", "num_ranks": 2, "accelerator": "h100", "emulated": True}
    flagged = Point(params=params, metrics=metrics, flags=("harness_limited", "insufficient"))
    show_points([flagged, flagged])
    _, heads, _, row, _, *flags = capsys.readouterr().err.splitlines()
    assert heads.split()[-2:] == ["AU", "predicted"]
    assert row.endswith("0.950  harness limited, insufficient")
    assert [line.split(":")[0].strip() for line in flags] == ["harness limited", "insufficient"]


def test_a_conversion_is_a_row_of_what_it_made_and_one_that_made_nothing_of_dashes(capsys):
    units = {"images_per_s": "images/s", "convert_time_s": "s", "write_gbps": "GB/s", "bytes_in": "B", "bytes_out": "B"}
    values = {
        "images_per_s": 812.4,
        "convert_time_s": 12.35,
        "write_gbps": 0.2154,
        "bytes_in": 3e9,
        "bytes_out": 2e9,
    }
    made = {name: Metric(value=values[name], unit=unit, n=1) for name, unit in units.items()}
    nothing = {name: not_measured(unit, "all was there") for name, unit in units.items()}
    params = {"stage": "convert", "format": "tensors", "images": 10000, "skipped": 2, "jobs": 4}
    show_points([Point(params=params, metrics=made), Point(params={**params, "images": 0}, metrics=nothing)])
    title, heads, _, *rows = capsys.readouterr().err.splitlines()
    assert title.startswith("Conversion")
    assert heads.split()[:2] == ["format", "images"]
    assert rows[0].split() == ["tensors", "10000", "2", "4", "12.3", "812", "3.000", "2.000", "0.215"]
    assert rows[1].split() == ["tensors", "0", "2", "4", *["-"] * 5]
