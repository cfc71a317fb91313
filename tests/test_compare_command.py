"""`iobench compare`, `iobench report --format` and `iobench schema`, as a user or a CI job calls them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from iobench.cli import run
from iobench.results.record import Metric, Point, RunRecord, read_record, write_record
from iobench.results.stats import summarise

BLOCKS = (0.99, 1.01, 1.0, 0.995, 1.005, 1.0, 0.99, 1.01)


def keep(name, factor=1.0, *, kind="load", warnings=(), spread=1.0, **workload):
    rates = [1000 * factor * (1 + (block - 1) * spread) for block in BLOCKS]
    metrics = {
        "images_per_s": summarise(rates, unit="images/s"),
        "peak_rss_bytes": Metric(value=5e8, unit="bytes", n=1),
    }
    params = {"stage": "load", "engine": "direct", "batch_size": 32, "shuffle": "off", "num_workers": 2}
    record = RunRecord(
        run_id=name,
        kind=kind,
        started_at="2026-11-01T10:00:00+00:00",
        finished_at="2026-11-01T10:01:00+00:00",
        command=("iobench", "load", "~/data"),
        workload={"path": "~/data", "batch_size": 32, **workload},
        environment={"host": "node1"},
        metrics=metrics,
        points=(Point(params=params, metrics=metrics),),
        warnings=warnings,
    )
    write_record(record, Path(name))


@pytest.fixture
def iobench(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*words):
        capfd.readouterr()
        status = run([str(word) for word in words])
        said = capfd.readouterr()
        return status, said.out, said.err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_comparison_writes_a_record_and_a_page_and_says_what_changed(iobench):
    keep("base")
    keep("now", 0.8)
    status, out, err = iobench("compare", "base", "now", "--out", "compared", "--json")
    assert status == 0
    assert "worse" in err
    record = read_record(Path("compared"))
    assert json.loads(out) == record.model_dump(mode="json")
    assert (record.kind, record.verdict, record.workload["base"]["run_id"]) == ("compare", None, "base")
    assert record.history.changes[0].finding == "worse"
    assert "x 0.800" in record.history.sentence
    assert "0.800 (" in Path("compared/report.html").read_text()


@pytest.mark.parametrize(
    ("factor", "spread", "limit", "status", "word"),
    [
        (0.90, 1.0, "images_per_s < -5%", 1, "FAIL"),
        (0.97, 1.0, "images_per_s < -5%", 0, "PASS"),
        (0.93, 9.0, "images_per_s < -5%", 3, "INSUFFICIENT"),  # noise may be all of it, or none
        (1.20, 1.0, "images_per_s > +10%", 1, "FAIL"),
        (1.00, 1.0, "peak_rss_bytes > +10%", 3, "INVALID"),  # one sample has no interval
    ],
)
def test_a_limit_makes_the_exit_status(iobench, factor, spread, limit, status, word):
    keep("base", spread=spread)
    keep("now", factor, spread=spread)
    done = iobench("compare", "base", "now", "--fail-if", limit)
    assert done[0] == status
    assert f"{word}: " in done[2]


def test_a_run_that_is_held_against_itself_is_told(iobench):
    keep("base")
    status, _, err = iobench("compare", "base", "base/record.json", "--out", "compared")
    assert status == 0
    assert "warning: base and candidate are one and the same run, base: give two runs" in err
    keep("now")
    assert "one and the same" not in iobench("compare", "base", "now")[2]


def test_several_limits_are_all_judged(iobench):
    keep("base")
    keep("now", 0.9)
    limits = ("--fail-if", "images_per_s > +5%", "--fail-if", "images_per_s < -5%")
    status, out, _ = iobench("compare", "base", "now", *limits, "--json")
    assert status == 1
    verdict = json.loads(out)["verdict"]
    assert [item["passed"] for item in verdict["requirements"]] == [True, False]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--fail-if", "images_per_s < 5%"), "is no limit"),
        (("--fail-if", "image_per_s < -5%"), "images_per_s"),
        (("-o", "it.pdf"), "--format md"),
        (("-o", "-", "--format", "md", "--json"), "stdout"),
        (("--format", "csv"), "csv"),
    ],
)
def test_wrong_usage_is_exit_2_and_leaves_nothing(iobench, words, told):
    keep("base")
    keep("now")
    status, out, err = iobench("compare", "base", "now", *words, *(() if "--json" in words else ("--json",)))
    assert status == 2
    assert told in json.loads(out)["error"]["message"]
    assert "Traceback" not in err
    assert sorted(path.name for path in Path().iterdir()) == ["base", "now"]


@pytest.mark.parametrize(
    ("other", "told"),
    [({"batch_size": 64}, "batch_size is 32 in base and 64 in now"), ({"kind": "train"}, "only runs of one kind")],
)
def test_unlike_workloads_are_exit_2_with_what_differs(iobench, other, told):
    keep("base")
    keep("now", **other)
    status, _, err = iobench("compare", "base", "now")
    assert status == 2
    assert told in err


def test_a_run_whose_measurement_does_not_count_cannot_pass_a_limit(iobench):
    keep("base")
    keep("now", 0.5, warnings=("not valid: read from the page cache",))
    assert iobench("compare", "base", "now")[0] == 0
    status, _, err = iobench("compare", "base", "now", "--fail-if", "images_per_s < -5%")
    assert status == 3
    assert "read from the page cache" in err


def test_a_damaged_record_is_exit_4_and_named(iobench):
    keep("base")
    Path("now").mkdir()
    Path("now/record.json").write_text('{"schema_version": 1, "run_id": "x"}')
    status, _, err = iobench("compare", "base", "now")
    assert status == 4
    assert "now/record.json: field kind" in err


def test_a_comparison_goes_to_a_file_or_to_stdout_in_the_format_asked_for(iobench):
    keep("base")
    keep("now", 0.8)
    for name in ("it.md", "it.json", "it.html"):
        assert iobench("compare", "base", "now", "-o", name)[0] == 0
    assert Path("it.md").read_text().startswith("## Comparison")
    assert json.loads(Path("it.json").read_text())["kind"] == "compare"
    assert Path("it.html").read_text().startswith("<!DOCTYPE html>")
    status, out, _ = iobench("compare", "base", "now", "--format", "md", "-o", "-")
    assert status == 0
    assert out.startswith("## Comparison")


@pytest.mark.parametrize(
    ("format_", "start"),
    [("md", b"## "), ("csv", b"run_id,"), ("parquet", b"PAR1"), ("openmetrics", b"# HELP"), ("html", b"<!DOCTYPE")],
)
def test_a_report_is_written_in_the_format_asked_for(iobench, format_, start):
    if format_ == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    keep("one")
    keep("two", 0.9)
    status, out, _ = iobench("report", "one", "two", "--format", format_, "--json")
    assert (status, json.loads(out)) == (0, {"report": f"report.{format_}"})
    assert Path(f"report.{format_}").read_bytes().startswith(start)
    assert iobench("report", "one", "-o", f"named.{format_}")[0] == 0
    assert Path(f"named.{format_}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("one", "-o", "it.pdf"), 2, "add --format html, md, csv"),
        (("one", "-o", "folder"), 4, "folder: it is a folder; name another place"),
        (("one", "-o", "missing/it.html"), 4, "name another place to write to"),
        ((".",), 4, "no record, but 1 run in folders of its own; name ./*/"),
        (("folder",), 4, "give a run's folder or its record.json"),
    ],
)
def test_a_report_that_cannot_be_written_as_asked_says_what_to_ask_for(iobench, words, status, told):
    keep("one")
    Path("folder").mkdir()
    done = iobench("report", *words, "--json")
    assert done[0] == status
    assert told in json.loads(done[1])["error"]["message"]
    assert sorted(path.name for path in Path().iterdir()) == ["folder", "one"]


def test_a_report_on_stdout_is_nothing_but_itself(iobench):
    keep("one")
    status, out, err = iobench("report", "one", "--format", "csv", "-o", "-")
    assert (status, err) == (0, "")
    assert out.startswith("run_id,")


def test_parquet_without_its_library_names_it(tmp_path):
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')\n")
    code = (
        "import sys; sys.path.insert(0, '.'); from iobench.cli import run; "
        "sys.exit(run(['report', 'one', '--format', 'parquet']))"
    )
    record = RunRecord(
        run_id="one", kind="load", started_at="", finished_at="", command=(), workload={}, environment={}
    )
    write_record(record, tmp_path / "one")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "pip install" in done.stderr
    assert "pyarrow" in done.stderr


def test_the_schema_is_printed(iobench):
    status, out, _ = iobench("schema")
    assert status == 0
    assert json.loads(out)["title"] == "iobench record"
