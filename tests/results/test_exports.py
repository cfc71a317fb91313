"""Records in other tools' formats, read back by those tools."""

import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.results.exports import export
from iobench.results.openmetrics import base_unit, openmetrics_of
from iobench.results.record import Metric, RunRecord, Verdict, not_measured
from iobench.results.report import ReportError
from iobench.results.rows import COLUMNS, csv_of, parquet_of, rows_of


def tiny(run_id="r1", *, metrics=None, at="2026-11-01T10:00:00+00:00", **workload):
    return RunRecord(
        run_id=run_id,
        kind="storage",
        started_at=at,
        finished_at=at,
        command=(),
        workload={"path": "/mnt/set", **workload},
        environment={"host": "a", "iobench": "0.1.0"},
        metrics=metrics or {"read_gbps": Metric(value=2.0, unit="GB/s", ci95=(1.9, 2.1), n=8)},
    )


# --- rows --------------------------------------------------------------------------------------------------------


def test_there_is_one_row_a_figure_of_the_run_its_points_and_their_ranks(qualified):
    rows = list(rows_of([qualified]))
    expected = len(qualified.metrics) + sum(len(point.metrics) for point in qualified.points)
    expected += sum(len(rank.metrics) for point in (qualified, *qualified.points) for rank in point.ranks)
    assert len(rows) == expected
    assert {row["scope"] for row in rows} == {"run", "point", "rank"}
    assert all(tuple(row) == COLUMNS for row in rows)


def test_csv_comes_back_with_every_figure_and_its_interval(qualified):
    rows = list(csv.DictReader(io.StringIO(csv_of([qualified]), newline="")))
    (rate,) = [row for row in rows if (row["scope"], row["metric"]) == ("run", "read_gbps")]
    metric = qualified.metrics["read_gbps"]
    assert float(rate["value"]) == metric.value
    assert (float(rate["ci95_low"]), float(rate["ci95_high"])) == metric.ci95
    assert tuple(map(float, rate["samples"].split())) == metric.samples
    (null,) = [row for row in rows if (row["scope"], row["metric"]) == ("run", "joules_per_image")]
    assert (null["value"], null["reason"]) == ("", "no energy counter is readable")
    point = next(row for row in rows if row["scope"] == "point")
    assert json.loads(point["params"])["access"] == "shard-replay"


def test_parquet_holds_the_same_rows_with_types(qualified):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = parquet.read_table(io.BytesIO(parquet_of([qualified])))
    assert table.to_pylist() == list(rows_of([qualified]))
    assert [str(table.schema.field(name).type) for name in ("value", "n", "unit")] == ["double", "int64", "string"]


# --- OpenMetrics -------------------------------------------------------------------------------------------------


def parsed(text):
    parser = pytest.importorskip("prometheus_client.openmetrics.parser", reason="prometheus_client is not installed")
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def test_the_text_is_read_by_prometheus_own_parser_with_units(qualified):
    families = parsed(openmetrics_of([qualified]))
    rate = families["iobench_read_bytes_per_second"]
    assert (rate.type, rate.unit, rate.documentation) == ("gauge", "bytes_per_second", "read rate")
    (sample,) = rate.samples
    assert sample.value == pytest.approx(qualified.metrics["read_gbps"].value * 1e9)
    assert sample.labels["path"] == "~/data/imagenet"
    assert sample.labels["batch_size"] == "400"
    assert families["iobench_read_ci95_low_bytes_per_second"].samples[0].value < sample.value
    assert families["iobench_latency_p99_seconds"].samples[0].value == pytest.approx(
        qualified.metrics["latency_p99_us"].value / 1e6
    )
    outcomes = {sample.labels["outcome"]: sample.value for sample in families["iobench_verdict"].samples}
    assert outcomes == {"pass": 1.0, "fail": 0.0, "insufficient": 0.0, "invalid": 0.0}


def test_the_text_is_read_by_the_older_parser_of_text_file_collectors_too(qualified):
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not installed")
    families = {family.name: family for family in parser.text_string_to_metric_families(openmetrics_of([qualified]))}
    assert families["iobench_read_bytes_per_second"].type == "gauge"
    assert all(sample.timestamp is None for family in families.values() for sample in family.samples)
    assert {family.type for family in families.values()} == {"gauge"}


def test_what_was_not_measured_has_no_sample():
    text = openmetrics_of([tiny(metrics={"joules_per_image": not_measured("J/image", "no counter")})])
    assert "joules" not in text
    assert text.endswith("# EOF\n")


def test_of_runs_with_the_same_labels_the_newest_is_shown():
    older = tiny("old", metrics={"read_gbps": Metric(value=1.0, unit="GB/s", n=1)})
    newer = tiny("new", at="2026-11-02T10:00:00+00:00")
    other = tiny("other", engine="direct")
    families = parsed(openmetrics_of([newer, older, other]))
    values = {sample.labels.get("engine"): sample.value for sample in families["iobench_read_bytes_per_second"].samples}
    assert values == {None: 2e9, "direct": 2e9}


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("read_gbps", "GB/s", ("read", "bytes_per_second", 1e9)),
        ("latency_p99_us", "us", ("latency_p99", "seconds", 1e-6)),
        ("images_per_s", "images/s", ("images", "per_second", 1.0)),
        ("read_iops", "reads/s", ("read_operations", "per_second", 1.0)),
        ("data_stall_fraction", "fraction", ("data_stall", "ratio", 1.0)),
        ("au_mlperf", "1", ("au_mlperf", "ratio", 1.0)),
        ("peak_rss_bytes", "bytes", ("peak_rss", "bytes", 1.0)),
        ("gpus_fed_measured", "accelerators", ("gpus_fed_measured", "accelerators", 1.0)),
        ("cpu_seconds_per_gb", "s/GB", ("cpu", "seconds_per_byte", 1e-9)),
        ("drift_per_hour", "1/h", ("drift_per_hour", "", 1.0)),
    ],
)
def test_figures_are_given_in_base_units(name, unit, expected):
    assert base_unit(name, unit) == expected


@given(st.text(max_size=30), st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False))
def test_no_string_of_a_record_breaks_the_text(path, name, value):
    record = tiny(metrics={name: Metric(value=value, unit="s", n=1)}, engine=path)
    families = parsed(openmetrics_of([record.model_copy(update={"workload": {"path": path}})]))
    labels = [sample.labels for family in families.values() for sample in family.samples]
    assert all(each.get("path", "") == path for each in labels)
    assert any(math.isclose(sample.value, value) for family in families.values() for sample in family.samples)


# --- all of them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["html", "md", "csv", "parquet", "openmetrics", "json"])
def test_without_records_there_is_nothing_to_report(format_):
    with pytest.raises(ReportError, match="at least one run"):
        export([], format_)


def test_a_verdict_that_did_not_pass_is_shown_as_such():
    record = tiny().model_copy(update={"verdict": Verdict(outcome="invalid", passed=None, sentence=".")})
    samples = parsed(openmetrics_of([record]))["iobench_verdict"].samples
    assert {sample.labels["outcome"] for sample in samples if sample.value} == {"invalid"}
