"""`iobench stage`, end to end: exit status, one JSON document, the record with its page, and no credential in them."""

import json
import os
import signal
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from iobench.cli import run


@pytest.fixture
def stage(tmp_path, monkeypatch, capfd):
    """Runs the command in this process, in a folder of its own, with --json."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*words: object) -> SimpleNamespace:
        capfd.readouterr()
        arguments = ["stage", *map(str, words), "--json"]
        monkeypatch.setattr("sys.argv", ["iobench", *arguments])  # what the record's command is taken from
        status = run(arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return SimpleNamespace(status=status, document=json.loads(out), out=out, err=err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_chain_ends_with_a_record_of_every_hop_and_both_readings(stage, page_set, new_disk, tmp_path):
    disk = new_disk(128 << 20)
    done = stage(page_set.folder, tmp_path / "shared", disk / "local", "--seconds", "0.5", "--epochs", "4")
    assert done.status == 0, done.err
    record = done.document
    points = [
        (point["params"]["stage"], point["params"].get("hop", point["params"]["source"])) for point in record["points"]
    ]
    assert points == [("stage", 1), ("stage", 2), ("load", "in place"), ("load", "copy")]
    assert record["metrics"]["stage_time_s"]["value"] > 0
    assert record["workload"]["copy_or_not"]["outcome"] in ("copy after E", "never", "not distinguishable")
    assert record["workload"]["file_systems"][-1] == "ext4"
    page = next(Path("iobench-runs").glob("*/report.html")).read_text()
    for words in (
        "Copy, hop by hop",
        "In place, and by way of the copy",
        "from the start to the end of the first epoch",
    ):
        assert words in page
    assert "copy 2/2" in done.err
    assert "s left" in done.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("only",), "DST"),
        (("s3://bucket/set",), "DST"),
        (("s3://bucket/set", "s3://bucket/copy"), "DST"),
        (("a", "b", "--epochs", "0"), "epochs"),
        (("a", "b", "--streams", "0"), "streams"),
        (("a", "b", "--dataset-bytes", "much"), "dataset_bytes"),
        (("a", "b", "--set", "stream=3"), "'streams'"),
    ],
)
def test_wrong_usage_is_exit_2_and_names_the_word(stage, words, named):
    done = stage(*words)
    assert done.status == 2
    assert named in done.document["error"]["message"]
    assert not list(Path().iterdir())


def test_a_run_is_not_written_among_the_copies(stage, page_set, tmp_path):
    done = stage(page_set.folder, tmp_path / "copy", "--out", tmp_path / "copy" / "run", "--no-compare")
    assert done.status == 2
    assert "among the data" in done.document["error"]["message"]
    assert not (tmp_path / "copy").exists()


def test_where_another_set_or_images_are_nothing_is_copied_and_images_are_not_staged_that_is_wrong_usage(
    stage, page_set, odd_set, tmp_path
):
    (tmp_path / "images" / "cats").mkdir(parents=True)
    (tmp_path / "images" / "cats" / "1.jpg").write_bytes(b"a cat")
    for source, target in ((page_set.folder, odd_set.folder), (page_set.folder, tmp_path / "images")):
        done = stage(source, target, "--no-compare")
        assert done.status == 2
        assert "name another folder" in done.document["error"]["message"]
    done = stage(tmp_path / "images", tmp_path / "copy", "--no-compare")
    assert done.status == 2
    assert "iobench convert" in done.document["error"]["message"]
    assert not (tmp_path / "copy").exists()


def test_a_real_set_that_would_not_fit_is_told(stage, page_set, new_disk):
    done = stage(page_set.folder, new_disk(128 << 20) / "copy", "--dataset-bytes", "1T")
    assert done.status == 0
    assert done.document["workload"]["copy_or_not"]["outcome"] == "does not fit"
    assert done.document["metrics"]["break_even_epochs"]["value"] is None


def test_the_time_of_a_source_full_of_holes_does_not_count_but_the_copy_is_whole(stage, new_disk, tmp_path):
    source = new_disk(128 << 20) / "set"
    source.mkdir()
    for name in ("a", "b"):
        with (source / f"{name}.tfrecord").open("wb") as file:
            file.write(os.urandom(4096))
            file.truncate(16 << 20)
    done = stage(source, tmp_path / "copy", "--no-compare")
    assert done.status == 3
    assert any("holes" in text for text in done.document["warnings"])
    assert (tmp_path / "copy" / "a.tfrecord").read_bytes() == (source / "a.tfrecord").read_bytes()


def test_nothing_that_is_written_or_said_holds_a_credential(stage, s3, odd_set, tmp_path, monkeypatch):
    """The secret key and the password are both `pa55word`."""
    pytest.importorskip("obstore", reason="obstore is not installed (`make setup-test` installs it)")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pa55word")
    headers = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
    content = odd_set.shards[0].read_bytes()
    request = urllib.request.Request(f"{s3}/bucket/set/a.tfrecord", content, headers, method="PUT")
    urllib.request.urlopen(request, timeout=20).close()
    web = s3.replace("http://", "http://me:pa55word@") + "/bucket/set/a.tfrecord?X-Amz-Signature=pa55word"
    for source in ("s3://bucket/set", "s3://bucket/set/a.tfrecord", web):
        target = tmp_path / f"copy-{len(source)}"
        done = stage(source, target, "--seconds", "0.2")
        assert done.status == 0, done.err
        said = done.out + done.err + "".join(path.read_text() for path in Path("iobench-runs").rglob("*.*"))
        assert "pa55word" not in said
        assert done.document["read_path"]["observed_route"] == "remote"
        in_place, copy = done.document["points"][-2:]
        assert in_place["read_path"]["observed_route"] == "remote"
        assert in_place["metrics"]["images_per_s"]["value"] > 0
        assert copy["metrics"]["images_per_s"]["value"] > 0
        assert (target / "a.tfrecord").read_bytes() == content
    for source in ("s3://bucket/none", "s3://nobody:pa55word@bucket/set", web.replace("a.tf", "b.tf")):
        done = stage(source, tmp_path / "none")
        assert done.status in (2, 4)
        assert "pa55word" not in done.out + done.err
