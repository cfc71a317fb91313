"""`iobench convert`, end to end: exit status, one JSON document, the record with its page, and what it says."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from iobench.cli import run
from iobench.loaders import ShardSet


@pytest.fixture
def iobench(tmp_path, monkeypatch, capfd):
    """Runs a command in this process, in a folder of its own, with --json."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*words: object) -> SimpleNamespace:
        capfd.readouterr()
        arguments = [*map(str, words), "--json"]
        monkeypatch.setattr("sys.argv", ["iobench", *arguments])  # what the record's command is taken from
        status = run(arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return SimpleNamespace(status=status, document=json.loads(out), err=err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_conversion_ends_with_a_record_and_a_page_and_the_other_commands_take_what_it_made(iobench, page_set):
    done = iobench("convert", page_set.folder, "made", "--format", "tensors", "--images-per-shard", "50")
    assert done.status == 0, done.err
    record = done.document
    assert record["kind"] == "convert"
    (point,) = record["points"]
    assert point["params"]["stage"] == "convert"
    assert point["params"]["images"] == 130
    assert record["metrics"]["images_per_s"]["value"] > 0
    assert record["metrics"]["bytes_in"]["value"] == page_set.images.nbytes
    assert record["metrics"]["bytes_out"]["value"] == 130 * 4096
    assert record["workload"]["dataset"] == {
        "format": "tensors",
        "shape": [35, 35, 3],
        "num_images": 130,
        "num_parts": 3,
        "bytes": 130 * 4096,
    }
    assert "Conversion of a data set" in next(Path("iobench-runs").glob("*/report.html")).read_text()
    assert "130 of 130 images" in done.err
    assert "130 images in 3 shards" in done.err
    assert iobench("index", "made", "--verify").status == 0
    again = iobench("convert", page_set.folder, "made", "--format", "tensors", "--images-per-shard", "50")
    assert again.status == 0
    assert again.document["metrics"]["images_per_s"]["value"] is None
    assert "there already" in again.document["metrics"]["images_per_s"]["reason"]


def test_what_was_left_out_is_a_warning_and_in_the_record(iobench, images, jpeg_records, tmp_path):
    source = jpeg_records(tmp_path / "data", [images[0], b"bad", images[2]], [1, 2, 3])
    done = iobench("convert", source, "made", "--format", "folder", "--on-error", "skip", "--relabel")
    assert done.status == 4  # label 2 has no image left
    done = iobench("convert", source, "tars", "--format", "webdataset", "--on-error", "skip")
    assert done.status == 0
    assert done.document["workload"]["num_skipped"] == 1
    assert "record 1 (byte" in done.document["workload"]["skipped"][0]
    assert any("1 broken image" in text for text in done.document["warnings"])
    assert len(ShardSet.open("tars")) == 2


def test_labels_that_became_others_are_told(iobench, images, jpeg_records, tmp_path):
    source = jpeg_records(tmp_path / "data", images[:3], [1, 2, 3])
    done = iobench("convert", source, "made", "--format", "folder", "--relabel")
    assert done.document["warnings"] == ["labels 1 to 3 became 0 to 2, in their order"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--format", "zip"), "'tfrecord-jpeg'"),
        ((), "format"),
        (("--format", "tensors", "--size", "0"), "size"),
        (("--format", "tensors", "--quality", "50"), "quality"),
        (("--format", "tensors", "--fit", "stretch"), "fit stretch needs a size"),
        (("--format", "tensors", "--jobs", "0"), "jobs"),
        (("--format", "tensors", "--images-per-shard", "0"), "images_per_shard"),
        (("--format", "tensors", "--on-error", "ignore"), "on_error"),
        (("--format", "tensors", "--set", "sise=3"), "'size'"),
    ],
)
def test_wrong_usage_is_exit_2_names_the_word_and_makes_nothing(iobench, page_set, words, named):
    done = iobench("convert", page_set.folder, "made", *words)
    assert done.status == 2
    assert named in done.document["error"]["message"]
    assert not list(Path().iterdir())


def test_a_target_on_a_server_is_refused(iobench, page_set):
    done = iobench("convert", page_set.folder, "s3://bucket/made", "--format", "tensors")
    assert done.status == 2
    assert "into a folder" in done.document["error"]["message"]
    assert not list(Path().iterdir())


def test_a_missing_source_is_exit_4_and_makes_nothing(iobench):
    done = iobench("convert", "nowhere", "made", "--format", "tensors")
    assert done.status == 4
    assert "nowhere" in done.document["error"]["message"]
    assert not list(Path().iterdir())


def test_a_target_that_is_a_file_and_a_run_among_the_data_are_refused(iobench, page_set):
    Path("made").write_text("mine")
    done = iobench("convert", page_set.folder, "made", "--format", "tensors")
    assert done.status == 2
    assert "is a file" in done.document["error"]["message"]
    done = iobench("convert", page_set.folder, "other", "--format", "tensors", "--out", "other/run")
    assert done.status == 2
    assert "among the data" in done.document["error"]["message"]
    assert [path.name for path in Path().iterdir()] == ["made"]
