"""The record on disk: whole or not at all, and damage is named."""

import json
import math
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from iobench.results.record import (
    SCHEMA_VERSION,
    UPGRADES,
    Metric,
    RecordError,
    RunRecord,
    merge_warnings,
    new_run_id,
    not_measured,
    read_record,
    upgraded,
    write_record,
    write_whole,
)


def test_what_is_no_regular_file_is_written_to_and_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", "some words")
    assert os.read(reader, 100) == b"some words"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "page").symlink_to("there/page")
    for words in ("new", "newer"):  # what is not there yet, too
        write_whole(tmp_path / "page", words)
        assert (tmp_path / "page").is_symlink()
        assert (tmp_path / "there" / "page").read_text() == words


def test_a_record_comes_back_as_it_was_written(qualified, tmp_path):
    path = write_record(qualified, tmp_path / "run")
    assert path == tmp_path / "run" / "record.json"
    assert read_record(path) == qualified
    assert read_record(path.parent) == qualified


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_whole(tmp_path / "page", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "page", "new \ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    assert (tmp_path / "page").read_text() == "old"


@pytest.mark.parametrize("text", ["", "{", "\xff", "[1, 2]", '{"schema_version": 99}', "null"])
def test_a_file_that_is_no_record_is_refused_by_name(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(RecordError, match=str(path)):
        read_record(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(RecordError, match="nothing-here"):
        read_record(tmp_path / "nothing-here")


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        (("kind",), "party", "kind"),
        (("metrics", "read_gbps", "n"), "many", "metrics.read_gbps.n"),
        (("points", 0, "read_path", "observed_route"), "magic", "points.0.read_path.observed_route"),
        (("points", 0, "metrics", "read_gbps", "value"), None, "points.0.metrics.read_gbps"),
        (("verdict", "colour"), "green", "verdict.colour"),
    ],
)
def test_a_damaged_record_is_refused_with_file_and_field(qualified, tmp_path, place, value, field):
    path = write_record(qualified, tmp_path)
    document = json.loads(path.read_text())
    inner = document
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert f"field {field}:" in str(caught.value)


def test_a_missing_field_is_named(qualified, tmp_path):
    path = write_record(qualified, tmp_path)
    document = json.loads(path.read_text())
    del document["command"]
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError, match=r"field command:"):
        read_record(path)


def test_a_metric_without_a_value_says_why():
    with pytest.raises(ValidationError, match="reason"):
        Metric(value=None, unit="s")
    metric = not_measured("s", "no GPU")
    assert (metric.value, metric.ci95, metric.n, metric.reason) == (None, None, 0, "no GPU")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_json_cannot_hold_is_refused_before_it_is_written(value):
    with pytest.raises(ValidationError):
        Metric(value=value, unit="s")


def test_run_ids_sort_by_time_and_name_their_kind():
    first = new_run_id("load")
    assert "-load-" in first
    assert first != new_run_id("load")


def test_warnings_are_merged_once_each_in_order():
    assert merge_warnings(["b", "a"], ["a", "c"]) == ("b", "a", "c")


def test_the_json_of_a_record_promises_every_key(qualified):
    document = json.loads(qualified.model_dump_json())
    assert set(RunRecord.model_fields) <= set(document)
    null = document["metrics"]["joules_per_image"]
    assert null == {"value": None, "unit": "J", "ci95": None, "n": 0, "samples": [], "reason": null["reason"]}
    assert Path(document["workload"]["path"]).name == "imagenet"


# --- versions ----------------------------------------------------------------------------------------------------


def test_a_record_as_the_first_version_wrote_it_is_read():
    record = read_record(Path(__file__).parent / "records" / "version-1.json")
    assert (record.kind, record.metrics["read_gbps"].unit, record.metrics["read_gbps"].n) == ("qualify", "GB/s", 8)
    assert [point.params["stage"] for point in record.points] == ["storage", "train"]
    assert record.metrics["joules_per_image"].value is None
    assert record.history is None


def test_an_older_document_is_brought_to_the_present_version_step_by_step():
    steps = {
        1: lambda document: {"name": document["nam"]},
        2: lambda document: {**document, "parts": document["name"].split()},
    }
    document = upgraded({"schema_version": 1, "nam": "a b"}, version=3, upgrades=steps)
    assert document == {"schema_version": 3, "name": "a b", "parts": ["a", "b"]}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"schema_version": 99}, r"is 99, this program reads up to \d+; take a newer iobench"),
        ({"schema_version": 0}, "is 0, this program reads"),
        ({"schema_version": "1"}, "is '1', this program reads"),
        ({"schema_version": True}, "is True, this program reads"),
        ({}, "is None, this program reads"),
        ([], "no JSON object"),
    ],
)
def test_a_version_that_is_not_known_is_refused_with_what_is(document, told):
    with pytest.raises(RecordError, match=told):
        upgraded(document)


def test_every_version_up_to_the_present_one_can_be_read():
    assert sorted(UPGRADES) == list(range(1, SCHEMA_VERSION))


def test_a_document_of_endless_brackets_is_damaged_and_no_defect_of_ours(tmp_path):
    (tmp_path / "record.json").write_text("[" * 100_000)
    with pytest.raises(RecordError, match="not readable as JSON"):
        read_record(tmp_path)
