"""Objects as a source: the bytes that were listed or an error, kept over interruptions, and no credential anywhere.

The S3 server is moto's, see the fixture `s3`.
"""

import base64
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from iobench.loaders.index import ShardFormatError
from iobench.loaders.remote import ObjectError, RemotePathError
from iobench.loaders.shards import ShardSet
from iobench.storage_bench.staging import (
    StagingError,
    stage,
    stage_chain,
    stage_point,
    streams,
)

ODD_NAME = "odd%+=&(é)%20?#.tfrecord"


def put(address: str, content: bytes) -> None:
    headers = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
    urllib.request.urlopen(urllib.request.Request(address, content, headers, method="PUT"), timeout=20).close()


@pytest.fixture
def bucket(s3) -> str:
    """The address of an empty bucket, as the web sees it."""
    pytest.importorskip("obstore", reason="obstore is not installed (`make setup-test` installs it)")
    return f"{s3}/bucket"


def upload(bucket: str, folder: Path, *, prefix: str = "set") -> None:
    for path in folder.iterdir():
        if not path.name.startswith("."):
            put(f"{bucket}/{prefix}/{quote(path.name)}", path.read_bytes())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def same_shards(source: Path, target: Path) -> bool:
    shards = sorted(path.name for path in source.glob("*.tfrecord"))
    return shards == sorted(path.name for path in target.glob("*.tfrecord")) and all(
        (source / name).read_bytes() == (target / name).read_bytes() for name in shards
    )


# --- S3 ----------------------------------------------------------------------------------------------------------


def test_a_prefix_is_copied_whole_held_against_its_digests_and_told_by_etag(bucket, page_set, tmp_path):
    upload(bucket, page_set.folder)
    target = tmp_path / "copy"
    result = stage("s3://bucket/set/", target)
    assert same_shards(page_set.folder, target)
    assert (target / "dataset.json").read_bytes() == (page_set.folder / "dataset.json").read_bytes()
    assert len(ShardSet.open(target)) == len(page_set)
    assert result.verified_by == "the digests of dataset.json"
    assert sorted(result.versions) == [path.name for path in page_set.shards]
    assert all(version.startswith("etag ") for version in result.versions.values())
    point = stage_point(result)
    assert (point.read_path.observed_route, point.read_path.counter_class) == ("remote", "client-own")
    assert point.read_path.delivered_bytes == result.total_bytes == result.copied_bytes
    assert stage("s3://bucket/set", target).copied_bytes == 0


def test_a_whole_bucket_can_be_the_set_and_a_chain_goes_on_from_it(bucket, odd_set, tmp_path):
    for path in odd_set.shards:
        put(f"{bucket}/{path.name}", path.read_bytes())
    result = stage_chain("s3://bucket", [tmp_path / "shared", tmp_path / "local"])
    assert same_shards(odd_set.folder, tmp_path / "local")
    assert [hop.verified_by for hop in result.hops] == ["the digests of what was read"] * 2
    assert not result.hops[0].same_device


def test_one_object_is_copied_under_its_own_name(bucket, page_set, tmp_path):
    shard = page_set.shards[1]
    put(f"{bucket}/a%20folder/{quote(ODD_NAME)}", shard.read_bytes())
    result = stage(f"s3://bucket/a folder/{ODD_NAME}", tmp_path / "copy")
    assert (tmp_path / "copy" / ODD_NAME).read_bytes() == shard.read_bytes()
    assert result.num_files == 1
    assert not (tmp_path / "copy" / "dataset.json").exists()


def test_objects_are_read_by_ranges_and_never_more_than_a_block_for_each_stream(
    bucket, page_set, tmp_path, monkeypatch
):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 64 << 10)
    upload(bucket, page_set.folder)
    result = stage("s3://bucket/set", tmp_path / "copy", streams=2)
    assert same_shards(page_set.folder, tmp_path / "copy")
    assert 64 << 10 <= result.peak_in_flight_bytes <= 2 * (64 << 10)
    blocks = [-(-path.stat().st_size // (64 << 10)) for path in page_set.shards]
    assert result.evidence.counters["obstore_remote_requests"] == sum(blocks)


def test_an_interrupted_copy_of_objects_keeps_what_is_whole_and_takes_a_new_version(bucket, odd_set, tmp_path):
    upload(bucket, odd_set.folder)
    sizes, target = [path.stat().st_size for path in odd_set.shards], tmp_path / "copy"

    def interrupt(phase, done, total):
        if phase == "copy" and done > sizes[0] + sizes[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage("s3://bucket/set", target, streams=1, progress=interrupt)
    assert names(target) == [".iobench-staged.jsonl", "part-0.tfrecord", "part-1.tfrecord"]
    changed = odd_set.shards[1].read_bytes()[::-1]
    put(f"{bucket}/set/part-1.tfrecord", changed)
    assert stage("s3://bucket/set", target).copied_bytes == sum(sizes[1:])
    assert (target / "part-1.tfrecord").read_bytes() == changed


def test_an_object_that_is_replaced_while_it_is_copied_is_not_taken(bucket, odd_set, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 4096)
    upload(bucket, odd_set.folder)

    def replace(phase, done, total):
        if done == 4096:
            put(f"{bucket}/set/part-0.tfrecord", odd_set.shards[0].read_bytes()[::-1])

    with pytest.raises(StagingError, match=r"s3://bucket/set/part-0\.tfrecord: changed while it was copied"):
        stage("s3://bucket/set", tmp_path / "copy", streams=1, progress=replace)
    assert names(tmp_path / "copy") == []


def test_an_object_that_dataset_json_does_not_know_is_not_taken(bucket, page_set, tmp_path):
    upload(bucket, page_set.folder)
    shard = page_set.shards[2]
    put(f"{bucket}/set/{shard.name}", shard.read_bytes()[::-1])
    with pytest.raises(StagingError, match=rf"s3://bucket/set/{shard.name}: its bytes do not have the digest"):
        stage("s3://bucket/set", tmp_path / "copy")
    assert shard.name not in names(tmp_path / "copy")
    put(f"{bucket}/set/{shard.name}", b"short")
    with pytest.raises(ShardFormatError, match=r"5 bytes, but dataset\.json says"):
        stage("s3://bucket/set", tmp_path / "other")
    urllib.request.urlopen(urllib.request.Request(f"{bucket}/set/{shard.name}", method="DELETE"), timeout=20).close()
    with pytest.raises(ShardFormatError, match=r"missing, though dataset\.json names it"):
        stage("s3://bucket/set", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_empty_prefix_a_missing_bucket_and_a_foreign_object_are_errors(bucket, tmp_path):
    put(f"{bucket}/notes/notes.txt", b"x")
    for address, rule in (
        ("s3://bucket/none", "no shards right under"),
        ("s3://other/set", "404"),
        ("s3://bucket/notes", "no shard"),
        ("s3://bucket/none.tfrecord", "no such object"),
    ):
        with pytest.raises(ObjectError, match=rule) as caught:
            stage(address, tmp_path / "copy")
        assert caught.value.exit_status == 4
    assert not (tmp_path / "copy").exists()


def test_without_a_key_the_server_refuses_and_the_way_out_is_told(bucket, s3, tmp_path, monkeypatch):
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{bucket}/set/a.tfrecord", b"x", headers, method="PUT")
    urllib.request.urlopen(request, timeout=20).close()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ObjectError, match=r"the server refuses it \(403\); set AWS_ACCESS_KEY_ID") as caught:
        stage("s3://bucket/set/a.tfrecord", tmp_path / "copy")
    assert caught.value.filename == "s3://bucket/set/a.tfrecord"


def test_an_s3_address_with_a_user_is_refused_without_showing_it(tmp_path):
    with pytest.raises(RemotePathError, match="has no user; set AWS_ACCESS_KEY_ID") as caught:
        stage("s3://key:hidden@bucket/set", tmp_path / "copy")
    assert "hidden" not in str(caught.value)


# --- web servers -------------------------------------------------------------------------------------------------


@dataclass
class Told:
    """What a web server is to do, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: str | None = '"one"'
    failures: int = 0
    cut_bytes: int = 0
    hang: bool = False
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)


@pytest.fixture
def web() -> Iterator[tuple[str, Told]]:
    """A web server's host and port."""
    told, over = Told(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.reply()

        def do_GET(self) -> None:
            self.reply()

        def reply(self) -> None:
            asked_range = self.headers["Range"]
            told.asked.append((self.path, asked_range, self.headers["Authorization"]))
            content = told.files.get(self.path.partition("?")[0])
            if told.hang and asked_range:
                over.wait(30)
            elif content is None:
                self.send_error(404)
            elif told.failures:
                told.failures -= 1
                self.send_error(503)
            else:
                self.answer(content, asked_range)

        def answer(self, content: bytes, asked_range: str | None) -> None:
            first, last = 0, len(content) - 1
            ranged = asked_range is not None and told.ranges
            if asked_range and ranged:
                first, last = map(int, asked_range.removeprefix("bytes=").split("-"))
                last = min(last, len(content) - 1)
            self.send_response(206 if ranged else 200)
            if ranged:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            if told.etag:
                self.send_header("ETag", told.etag)
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[first : last + 1 - told.cut_bytes])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"127.0.0.1:{server.server_port}", told
    over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_object_on_a_web_server_is_copied_by_ranges_and_held_against_dataset_json_beside_it(
    web, page_set, tmp_path, monkeypatch
):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 64 << 10)
    host, told = web
    shard = page_set.shards[0]
    told.files = {f"/set/{shard.name}": shard.read_bytes()}
    told.files["/set/dataset.json"] = (page_set.folder / "dataset.json").read_bytes()
    result = stage(f"http://{host}/set/{shard.name}", tmp_path / "copy")
    assert (tmp_path / "copy" / shard.name).read_bytes() == shard.read_bytes()
    assert (result.verified_by, result.versions) == ("the digests of dataset.json", {shard.name: "etag one"})
    asked = [line[1] for line in told.asked if line[0].endswith("tfrecord")]
    assert asked[:3] == [None, "bytes=0-65535", "bytes=65536-131071"]
    assert names(tmp_path / "copy") == [".iobench-staged.jsonl", shard.name]
    told.files[f"/set/{shard.name}"] = shard.read_bytes()[::-1]
    with pytest.raises(StagingError, match="do not have the digest"):
        stage(f"http://{host}/set/{shard.name}", tmp_path / "other")


def test_user_and_signature_are_sent_to_the_server_and_shown_nowhere(web, odd_set, tmp_path):
    """A signature is for GET alone, and for this object alone."""
    host, told = web
    told.files = {"/a%20b.tfrecord": odd_set.shards[0].read_bytes()}
    address = f"http://me:hid%40den@{host}/a%20b.tfrecord?X-Amz-Signature=hidden#hidden"
    result = stage(address, tmp_path / "copy")
    assert (tmp_path / "copy" / "a b.tfrecord").read_bytes() == odd_set.shards[0].read_bytes()
    signed = [line for line in told.asked if line[0] == "/a%20b.tfrecord?X-Amz-Signature=hidden"]
    assert [asked for _, asked, _ in signed] == ["bytes=0-0", f"bytes=0-{result.total_bytes - 1}"]
    assert {path for path, _, _ in told.asked if "Signature" not in path} == {"/dataset.json"}
    assert signed[0][2] == f"Basic {base64.b64encode(b'me:hid@den').decode()}"
    assert "hid" not in repr(result) + stage_point(result).model_dump_json()
    assert "hid" not in (tmp_path / "copy" / ".iobench-staged.jsonl").read_text()
    assert result.source == f"http://{host}/a%20b.tfrecord"
    told.files.clear()
    for wrong, rule in (
        (address, r"no such object \(404\)"),
        (address.replace(host, "127.0.0.1:1"), "does not give it"),
    ):
        with pytest.raises(ObjectError, match=rule) as caught:
            stage(wrong, tmp_path / "other")
        assert "hid" not in repr(caught.value) + str(caught.value) + repr(caught.value.__cause__)


def test_a_server_that_fails_for_a_moment_is_asked_again(web, odd_set, tmp_path):
    host, told = web
    told.files, told.failures = {"/a.tfrecord": odd_set.shards[0].read_bytes()}, 2
    stage(f"http://{host}/a.tfrecord", tmp_path / "copy")
    told.failures = 1000
    with pytest.raises(ObjectError, match="503"):
        stage(f"http://{host}/a.tfrecord", tmp_path / "other")


@pytest.mark.parametrize("settings", [{"ranges": False}, {"cut_bytes": 1}])
def test_a_server_that_answers_otherwise_than_asked_is_an_error_and_leaves_nothing(web, odd_set, tmp_path, settings):
    host, told = web
    told.files = {"/a.tfrecord": odd_set.shards[0].read_bytes()}
    for name, value in settings.items():
        setattr(told, name, value)
    with pytest.raises(StagingError, match=r"a\.tfrecord: cannot be read \(the server does not give it"):
        stage(f"http://{host}/a.tfrecord", tmp_path / "copy")
    assert names(tmp_path / "copy") == []


def test_without_a_version_an_object_is_copied_again(web, odd_set, tmp_path):
    host, told = web
    told.files, told.etag = {"/a.tfrecord": odd_set.shards[0].read_bytes()}, None
    for _ in range(2):
        assert stage(f"http://{host}/a.tfrecord", tmp_path / "copy").copied_bytes == odd_set.shards[0].stat().st_size
    assert names(tmp_path / "copy") == ["a.tfrecord"]


def test_an_address_that_would_write_outside_the_target_is_refused(web, tmp_path):
    host, told = web
    told.files = {"/..%2Fevil.tfrecord": b"x"}
    with pytest.raises(StagingError, match="no name for a file"):
        stage(f"http://{host}/..%2Fevil.tfrecord", tmp_path / "in" / "copy")
    assert not (tmp_path / "in").exists()


def test_an_interrupt_while_a_server_hangs_ends_soon_and_leaves_no_temporary_file(web, odd_set, tmp_path):
    host, told = web
    told.files, told.hang = {"/a.tfrecord": odd_set.shards[0].read_bytes()}, True
    words = [sys.executable, "-P", "-m", "iobench", "stage", f"http://{host}/a.tfrecord", "copy", "--json"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not any(asked == f"bytes=0-{odd_set.shards[0].stat().st_size - 1}" for _, asked, _ in told.asked):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    assert names(tmp_path / "copy") == [".iobench-a.tfrecord.tmp"]
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert json.loads(out)["error"]["exit_status"] == 130
    assert "Traceback" not in err
    assert names(tmp_path / "copy") == []
