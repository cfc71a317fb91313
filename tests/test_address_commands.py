"""`iobench index` and `iobench load` on addresses, and on shards that do not say what their samples are."""

import json
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from iobench.cli import run
from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame

SECRET = "Tr0ub4dor"
SHORT = ("--seconds", "0.05", "--set", "blocks=2", "--num-workers", "2")


@pytest.fixture
def iobench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, dict, str]]]:
    """Runs a command in this process, with --json: exit status, document, and all that was said."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*words: object) -> tuple[int, dict, str]:
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", ["iobench", *map(str, words), "--json"])
        status = run([*map(str, words), "--json"])
        said = capfd.readouterr()
        return status, json.loads(said.out), said.out + said.err

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def bucket(s3, page_set, monkeypatch) -> str:
    """An S3 server that has the shards of page_set under s3://bucket/set; its address."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    pytest.importorskip("obstore", reason="obstore is not installed (`make setup-test` installs it)")
    for path in (*page_set.shards, page_set.folder / "dataset.json"):
        put(f"{s3}/bucket/set/{quote(path.name)}", path.read_bytes())
    return f"{s3}/bucket"


def put(address: str, content: bytes) -> None:
    headers = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
    urllib.request.urlopen(urllib.request.Request(address, content, headers, method="PUT"), timeout=20).close()


def everything_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_prefix_is_indexed_and_verified(iobench, bucket, page_set):
    status, document, said = iobench("index", "s3://bucket/set", "--verify")
    assert status == 0
    assert (document["num_records"], document["num_shards"]) == (len(page_set), len(page_set.shards))
    assert document["status"] == "built (kept in the cache)"
    assert document["verified_bytes"] == sum(path.stat().st_size for path in page_set.shards)
    assert "s3://bucket/set: 130 records of 35 x 35 x 3 uint8 in 4 shards" in said
    assert iobench("index", "s3://bucket/set/")[1]["status"] == "cached"


def test_the_load_of_a_prefix_is_remote_in_the_record_by_the_clients_count(iobench, bucket, tmp_path):
    status, record, said = iobench("load", "s3://bucket/set", "--engine", "remote", *SHORT, "--out", tmp_path / "run")
    assert status == 0
    path = record["read_path"]
    assert (path["engine"], path["requested_route"], path["observed_route"]) == ("remote", "remote", "remote")
    assert (path["counter_class"], path["cold_scope"], path["device_bytes"]) == ("client-own", "client", None)
    assert path["counters"]["obstore_remote_bytes"] == path["delivered_bytes"] >= path["payload_bytes"] > 0
    assert record["metrics"]["images_per_s"]["value"] > 0
    assert record["workload"]["path"] == "s3://bucket/set"
    assert record["environment"]["storage"] is None
    assert "remote (client-own)" in said
    assert SECRET.encode() not in everything_under(tmp_path / "run") + said.encode()


def test_no_credential_of_an_address_is_in_record_report_index_or_words(iobench, bucket, page_set, tmp_path):
    place = bucket.replace("http://", f"http://user:{SECRET}@")
    address = f"{place}/set/{page_set.shards[0].name}?X-Amz-Signature={SECRET}"
    status, record, said = iobench("load", address, "--engine", "remote", *SHORT, "--out", tmp_path / "run")
    assert status == 0
    assert record["command"][:3] == ["iobench", "load", f"{bucket}/set/{page_set.shards[0].name}"]
    told = [said, iobench("index", address)[2], iobench("index", address.replace("train", "none"))[2]]
    told += [iobench("load", address, *words)[2] for words in (("--engine", "direct"), ("--page-cache", "warm"))]
    told += [iobench("storage", address)[2], iobench("load", address.replace("http", "ftp"))[2]]
    assert SECRET not in "".join(told)
    assert SECRET.encode() not in everything_under(tmp_path)


@pytest.mark.parametrize(
    ("words", "status", "rule"),
    [
        (("load", "s3://bucket/none"), 4, "s3://bucket/none: no shards right under this prefix"),
        (("index", "s3://bucket/none.tfrecord"), 4, "s3://bucket/none.tfrecord: the server has no such object (404)"),
        (("load", "s3://none/set"), 4, "s3://none/set: cannot be listed"),
        (("load", "s3://bucket/set", "--engine", "mmap"), 2, "engine mmap reads files"),
        (("load", "s3://bucket/set", "--page-cache", "warm"), 2, "objects on a server are in no page cache here"),
        (("load", "s3://bucket/set", "--peers", "torch"), 2, "--peers compares loaders on files"),
        (("index", "ftp://bucket/set"), 2, "ftp://bucket/set: not a remote address"),
        (("storage", "s3://bucket/set"), 2, "this command reads files; index, load and stage take addresses"),
        (("train", "https://host/set"), 2, "this command reads files"),
    ],
)
def test_what_does_not_go_with_an_address_is_told(iobench, bucket, words, status, rule):
    found, document, _ = iobench(*words)
    assert (found, document["error"]["exit_status"]) == (status, status)
    assert rule in document["error"]["message"]


def test_without_a_key_the_error_names_the_variables(iobench, bucket, monkeypatch):
    request = urllib.request.Request(f"{bucket}/private/a.tfrecord", b"x", method="PUT")
    urllib.request.urlopen(request, timeout=20).close()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    status, document, _ = iobench("index", "s3://bucket/private")
    assert status == 4
    assert "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION and" in document["error"]["message"]


# --- what samples are --------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path) -> Path:
    """Shards of float32 images that say neither shape nor dtype, under names of their own."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    images = np.random.default_rng(0).random((40, 4, 6, 3), dtype=np.float32)
    records = [frame(encode_example({"img": image.tobytes(), "y": number})) for number, image in enumerate(images)]
    (folder / "a.tfrecord").write_bytes(b"".join(records))
    return folder


def test_shape_dtype_and_names_of_fields_are_taken(iobench, foreign):
    words = ("--shape", "4,6,3", "--dtype", "float32", "--image-field", "img", "--label-field")
    status, document, _ = iobench("index", foreign, *words, "y")
    assert (status, document["shape"], document["dtype"], document["num_records"]) == (0, [4, 6, 3], "float32", 40)
    assert iobench("index", foreign, *words, "")[0] == 0
    status, record, _ = iobench("load", foreign, *words, "y", *SHORT, "--set", "batch_size=8")
    assert status in (0, 3)  # 3: not cold on this file system
    assert record["workload"]["shape"] == [4, 6, 3]
    assert (record["workload"]["image_field"], record["workload"]["dtype"]) == ("img", "float32")


@pytest.mark.parametrize(
    ("words", "status", "rule"),
    [
        ((), 4, "has no feature 'image/encoded'; it has 'img', 'y'"),
        (("--image-field", "img", "--label-field", "y"), 4, "or give shape="),
        (
            ("--image-field", "img", "--label-field", "z", "--shape", "4,6,3", "--dtype", "float32"),
            4,
            "has no feature 'z'",
        ),
        (("--image-field", "img", "--label-field", "y", "--shape", "4,6,3"), 4, "288 bytes, not the 72 of"),
        (("--shape", "4,6"), 2, "--shape: key 'shape' is '4,6': give height, width and channels, three positive"),
        (("--shape", "4,6,x"), 2, "three positive numbers"),
        (("--shape", "4,0,3"), 2, "three positive numbers"),
        (("--dtype", "float31"), 2, "--dtype: key 'dtype' is 'float31': not one of uint8"),
        (("--image-field", ""), 2, "--image-field"),
    ],
)
def test_what_does_not_fit_the_samples_is_told(iobench, foreign, words, status, rule):
    for command in ("index", "load"):
        found, document, _ = iobench(command, foreign, *words)
        assert (found, document["error"]["exit_status"]) == (status, status)
        assert rule in document["error"]["message"]


def test_peers_refuse_what_they_cannot_be_told_by_name(iobench, foreign):
    words = ("--shape", "4,6,3", "--label-field", "y")
    status, document, _ = iobench("load", foreign, "--peers", "torch", *words)
    assert status == 2
    assert "--shape, --label-field: not with --peers" in document["error"]["message"]
