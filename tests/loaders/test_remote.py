"""Objects on servers come byte for byte, a server that cheats is noticed, and no credential is ever shown.

The S3 server is moto's, see the fixture `s3`.  It does not check signatures.
"""

import errno
import importlib.util
import pickle
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch

from iobench.loaders.dataloader import DataLoader
from iobench.loaders.discovery import remote_shards
from iobench.loaders.engines.kvikio_reader import KvikioReader
from iobench.loaders.engines.readers import ReadError
from iobench.loaders.index import load_index
from iobench.loaders.objects import stat_objects
from iobench.loaders.remote import ObjectError, RemoteListError, RemotePath, RemotePathError, is_remote
from iobench.loaders.shards import ShardSet

CONTENT = np.random.default_rng(0).integers(0, 256, 9 * (1 << 20) + 123, dtype=np.uint8).tobytes()
PAGE_OBJECTS = 5  # what the server lists at once, as conftest.py tells it
ODD_KEY = "a folder/odd%+=&(é)%20?#.tfrecord"

under_stub = pytest.mark.stub_libcuda


def put(address: str, content: bytes = b"", *, public: bool = False) -> None:
    headers = {"Content-Type": "application/octet-stream"} | ({"x-amz-acl": "public-read"} if public else {})
    with urllib.request.urlopen(urllib.request.Request(address, content, headers, method="PUT"), timeout=20):
        pass


@dataclass
class Told:
    """What a server of one object is to do, and what it was asked."""

    content: bytes = CONTENT[:100_000]
    answer: Callable[[int, int], tuple[int, bytes]] | None = None
    delay_s: float = 0.0
    cut_bytes: int = 0
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def http_server() -> Iterator[tuple[RemotePath, Told]]:
    """An object on a server that may be told to answer wrongly: `answer(first, last) -> (status, body)`."""
    told = Told()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            told.asked.append("HEAD")
            self.send_response(200)
            self.send_header("Content-Length", str(len(told.content)))
            self.end_headers()

        def do_GET(self) -> None:
            told.asked.append(self.headers["Range"])
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            time.sleep(told.delay_s)
            status, body = told.answer(first, last) if told.answer else (206, told.content[first : last + 1])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) - told.cut_bytes])
            self.close_connection = bool(told.cut_bytes)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield RemotePath(f"http://user:hidden@127.0.0.1:{server.server_port}/data/some.bin?token=hidden"), told
    server.shutdown()
    server.server_close()
    thread.join()


@under_stub
@pytest.mark.parametrize("key", ["plain.tfrecord", ODD_KEY])
def test_an_s3_object_comes_byte_for_byte(s3, key):
    put(f"{s3}/bucket/{quote(key)}", CONTENT)
    reader, path = KvikioReader(), RemotePath(f"s3://bucket/{key}")
    memory = memoryview(bytearray(len(CONTENT)))
    assert reader.read(path, 0, memory) == len(CONTENT)
    assert memory == CONTENT
    random = np.random.default_rng(1)
    for exponent in range(1, 22):
        length = int(random.integers(1, 1 << exponent))
        offset = int(random.integers(0, len(CONTENT) - length))
        assert reader.read(path, offset, memory[:length]) == length
        assert memory[:length] == CONTENT[offset : offset + length]
    counted = reader.counters()
    assert counted["kvikio_remote_size_probes"] == 1
    assert counted["kvikio_remote_http_bytes"] >= reader.delivered_bytes  # single bytes asked for again
    assert counted["kvikio_posix_bytes"] == 0


@under_stub
def test_a_public_object_needs_no_key(s3, monkeypatch):
    put(f"{s3}/bucket/open.bin", CONTENT[:1000], public=True)
    put(f"{s3}/bucket/closed.bin", CONTENT[:1000])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    memory = memoryview(bytearray(1000))
    KvikioReader().read(RemotePath("s3://bucket/open.bin"), 0, memory)
    assert memory == CONTENT[:1000]
    with pytest.raises(ReadError, match=r"the server refuses it \(403\); set AWS_ACCESS_KEY_ID") as caught:
        KvikioReader().read(RemotePath("s3://bucket/closed.bin"), 0, memory)
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, "s3://bucket/closed.bin")


@under_stub
def test_a_presigned_address_is_read_and_shown_without_its_signature(s3):
    put(f"{s3}/bucket/some.bin", CONTENT[:1000], public=True)
    path = RemotePath(f"{s3}/bucket/some.bin?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=hidden")
    memory = memoryview(bytearray(1000))
    assert KvikioReader().read(path, 0, memory) == 1000
    assert memory == CONTENT[:1000]
    missing = RemotePath(path.url.replace("some", "none"))
    with pytest.raises(ReadError, match="cannot be opened") as caught:
        KvikioReader().read(missing, 0, memory)
    assert "hidden" not in repr(caught.value) + str(caught.value)


@under_stub
def test_the_batches_of_tfrecord_shards_in_a_bucket_are_those_of_the_files(s3, any_set):
    for shard in any_set.shards:
        put(f"{s3}/bucket/set/{shard.name}", shard.read_bytes())
    paths = remote_shards("s3://bucket/set") if importlib.util.find_spec("obstore") else []
    paths = paths or [RemotePath(f"s3://bucket/set/{shard.name}") for shard in any_set.shards]
    shards = ShardSet(paths, load_index(any_set.shards), KvikioReader())
    seen = []
    for images, labels in DataLoader(shards, batch_size=16, shuffle=True, num_workers=2):
        for image, label in zip(images.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True):
            seen.append((image.tobytes(), label))
    known = [(image.tobytes(), int(label)) for image, label in zip(any_set.images, any_set.labels, strict=True)]
    assert sorted(seen) == sorted(known)


@under_stub
def test_objects_fill_device_memory_without_a_copy_of_the_records(s3, sector_set, device):
    """Whether the last byte of a request came is asked of the device's memory, too."""
    for shard in sector_set.shards:
        put(f"{s3}/bucket/set/{shard.name}", shard.read_bytes())
    paths = [RemotePath(f"s3://bucket/set/{shard.name}") for shard in sector_set.shards]
    reader = KvikioReader(into_device=True)
    loader = DataLoader(ShardSet(paths, load_index(sector_set.shards), reader, device=device), batch_size=16)
    images = torch.cat([images for images, _ in loader])
    device.settle()
    assert torch.equal(images, torch.from_numpy(sector_set.images).permute(0, 3, 1, 2))
    assert all(count <= 16 * 8 for count in device.copies)
    assert loader.evidence().observed_route == "remote"


@under_stub
def test_an_object_that_is_missing_is_named(s3):
    with pytest.raises(ReadError, match=r"cannot be opened: the server has no such object \(404\)") as caught:
        KvikioReader().read(RemotePath("s3://bucket/none"), 0, memoryview(bytearray(10)))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "s3://bucket/none")
    assert caught.value.exit_status == 4


@under_stub
def test_without_a_region_the_error_names_the_variable(s3, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ReadError, match="AWS_DEFAULT_REGION"):
        KvikioReader().read(RemotePath("s3://bucket/none"), 0, memoryview(bytearray(10)))


@under_stub
def test_a_server_that_is_not_there_is_an_error(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ReadError, match=r"cannot be opened: .*Could not connect"):
        KvikioReader().read(RemotePath("s3://bucket/some"), 0, memoryview(bytearray(10)))


@under_stub
def test_a_read_past_the_end_of_an_object_names_object_and_byte(http_server):
    path, told = http_server
    memory = memoryview(bytearray(100))
    assert KvikioReader().read(path, 99_990, memory, need=10) == 10
    assert memory[:10] == told.content[-10:]
    with pytest.raises(ReadError, match="the file ends at byte 100000, 90 bytes before this read does") as caught:
        KvikioReader().read(path, 99_990, memory)
    assert caught.value.filename == str(path)


@under_stub
def test_the_size_of_an_object_is_asked_once(http_server):
    path, told = http_server
    reader = KvikioReader()
    for offset in range(0, 1000, 100):
        reader.read(path, offset, memoryview(bytearray(50)))
    assert told.asked[0] == "HEAD"
    assert told.asked.count("HEAD") == 1


@under_stub
def test_a_last_byte_that_looks_unwritten_is_asked_for_again(http_server):
    path, told = http_server
    told.content = bytes([0xA5]) * 1000
    memory = memoryview(bytearray(1000))
    assert KvikioReader().read(path, 0, memory) == 1000
    assert memory == told.content
    assert told.asked[1:] == ["bytes=0-999", "bytes=999-999"]


@under_stub
@pytest.mark.parametrize("missing", [1, 2, 999, 1000])
def test_an_object_replaced_by_a_smaller_one_is_noticed(http_server, missing):
    """kvikio itself takes the short answer for a whole one, and leaves the rest of the memory as it was."""
    path, told = http_server
    reader = KvikioReader()
    reader.read(path, 0, memoryview(bytearray(10)))

    def answer(first: int, last: int) -> tuple[int, bytes]:
        body = told.content[: 5000 - missing][first : last + 1]
        return (206, body) if body else (416, b"")

    told.answer = answer
    with pytest.raises(ReadError, match="shorter than when it was opened") as caught:
        reader.read(path, 4000, memoryview(bytearray(1000)))
    assert caught.value.filename == str(path)


@under_stub
def test_a_server_that_sends_nothing_for_a_byte_it_had_is_noticed(http_server):
    path, told = http_server
    reader = KvikioReader()
    reader.read(path, 0, memoryview(bytearray(10)))
    told.answer = lambda first, last: (206, b"")
    with pytest.raises(ReadError, match="byte 4999 did not come, though the object had 100000 bytes"):
        reader.read(path, 4000, memoryview(bytearray(1000)))


@under_stub
def test_a_server_without_ranges_is_an_error(http_server):
    path, told = http_server
    told.answer = lambda first, last: (200, told.content)
    with pytest.raises(ReadError, match="maybe the server doesn't support file ranges"):
        KvikioReader().read(path, 4000, memoryview(bytearray(1000)))


@under_stub
def test_an_answer_cut_in_the_middle_is_an_error(http_server):
    path, told = http_server
    told.cut_bytes = 1
    with pytest.raises(ReadError, match="read of 1000 bytes at byte 4000 failed"):
        KvikioReader().read(path, 4000, memoryview(bytearray(1000)))


@under_stub
def test_a_server_that_fails_is_an_error_without_its_address(http_server):
    path, told = http_server
    reader = KvikioReader()
    reader.read(path, 0, memoryview(bytearray(10)))
    told.answer = lambda first, last: (500, b"broken")
    with pytest.raises(ReadError, match=r"read of 1000 bytes at byte 4000 failed: .*500") as caught:
        reader.read(path, 4000, memoryview(bytearray(1000)))
    assert "hidden" not in repr(caught.value) + str(caught.value)


@under_stub
def test_a_server_that_hangs_is_given_up(http_server):
    import kvikio.defaults

    path, told = http_server
    reader = KvikioReader()
    reader.read(path, 0, memoryview(bytearray(10)))
    told.delay_s = 3
    with (
        kvikio.defaults.set({"http_timeout": 1, "http_max_attempts": 1}),
        pytest.raises(ReadError, match="Operation timed out"),
    ):
        reader.read(path, 4000, memoryview(bytearray(1000)))


@under_stub
def test_what_is_public_or_secret_in_an_address_is_told_apart(http_server):
    path, told = http_server
    KvikioReader().read(path, 0, memoryview(bytearray(10)))
    told.answer = lambda first, last: (403, b"")
    with pytest.raises(ReadError, match=r"the server refuses it \(403\)") as caught:
        KvikioReader().read(path, 0, memoryview(bytearray(10)))
    shown = f"{path} {path!r} {path.name} {caught.value} {caught.value!r}"
    assert "hidden" not in shown
    assert "user" not in shown
    assert str(path).endswith("/data/some.bin")


def test_an_address_has_its_parts():
    path = RemotePath("s3://bucket/a/b c?d#e.tfrecord")
    assert (path.scheme, path.place, path.key, path.name) == ("s3", "bucket", "a/b c?d#e.tfrecord", "b c?d#e.tfrecord")
    assert path.encoded_s3_url() == "s3://bucket/a/b%20c%3Fd%23e.tfrecord"
    assert pickle.loads(pickle.dumps(path)) == path
    assert repr(path) == "RemotePath('s3://bucket/a/b c?d#e.tfrecord')"
    assert len({path, RemotePath(path.url), RemotePath("s3://bucket/a")}) == 2
    http = RemotePath("https://user:word@host:8080/a/b?X-Amz-Signature=1&x=2#y")
    assert (http.scheme, http.place, http.key, http.name) == ("https", "host:8080", "a/b", "b")
    assert http.is_presigned
    assert not path.is_presigned


def test_without_an_endpoint_an_anonymous_s3_address_is_amazons(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert RemotePath("s3://bucket/a b").anonymous_url() == "https://bucket.s3.eu-west-1.amazonaws.com/a%20b"


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3:///key", "https://host", "http://user:hidden@/x"])
def test_an_address_of_no_object_is_refused(url):
    with pytest.raises(RemotePathError, match="names no object") as caught:
        RemotePath(url)
    assert caught.value.exit_status == 2
    assert "hidden" not in str(caught.value)


def test_paths_are_no_addresses():
    assert is_remote("s3://bucket/key")
    assert is_remote("HTTPS://host/key")
    for source in ("/data/s3:/x", "data", "file:///data", Path("s3://bucket/key"), ["s3://bucket/key"]):
        assert not is_remote(source)
    with pytest.raises(RemotePathError, match="ftp://host/key: not a remote address"):
        RemotePath("ftp://host/key")


@pytest.fixture
def obstore() -> None:
    pytest.importorskip("obstore", reason="obstore is not installed (`make setup-test` installs it)")


def test_the_shards_under_a_prefix_are_listed_in_order(s3, obstore):
    for key in (
        "set/b-00000-of-00001",
        "set/a 1%.tfrecord",
        "set/dataset.json",
        "set/.index",
        "set/.old/x",
        "settle/c",
        "top",
    ):
        put(f"{s3}/bucket/{quote(key)}", b"x")
    expected = [RemotePath("s3://bucket/set/a 1%.tfrecord"), RemotePath("s3://bucket/set/b-00000-of-00001")]
    assert remote_shards("s3://bucket/set") == expected
    assert remote_shards("s3://bucket/set/") == expected


def test_shards_are_listed_without_a_key_where_the_bucket_is_public(s3, obstore, monkeypatch):
    request = urllib.request.Request(f"{s3}/bucket?acl", b"", {"x-amz-acl": "public-read"}, method="PUT")
    urllib.request.urlopen(request, timeout=20).close()
    put(f"{s3}/bucket/a.tfrecord", b"x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert remote_shards("s3://bucket") == [RemotePath("s3://bucket/a.tfrecord")]


def test_a_prefix_of_more_than_a_page_is_listed_whole(s3, obstore):
    names = [f"{number:02}.tfrecord" for number in range(2 * PAGE_OBJECTS + 1)]
    for name in names:
        put(f"{s3}/bucket/set/{name}")
    assert [path.name for path in remote_shards("s3://bucket/set")] == names


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["set/a.tfrecord", "set/notes.txt"], "s3://bucket/set/notes.txt.*an object that is no shard"),
        (["set/a.tfrecord", "set/more/b.tfrecord"], "s3://bucket/set/more.*a prefix that is no shard"),
        (["set/dataset.json"], "s3://bucket/set.*no shards right under this prefix"),
        ([], "s3://bucket/set.*no shards right under this prefix"),
    ],
)
def test_what_is_no_shard_under_a_prefix_is_named(s3, obstore, keys, message):
    for key in keys:
        put(f"{s3}/bucket/{key}", b"x")
    with pytest.raises(RemoteListError) as caught:
        remote_shards("s3://bucket/set")
    assert caught.value.exit_status == 4
    place, text = message.split(".*")
    assert (caught.value.filename, text in caught.value.strerror) == (place, True)


def test_a_bucket_that_cannot_be_listed_is_named(s3, obstore, monkeypatch):
    with pytest.raises(RemoteListError, match=r"cannot be listed: .*404.*; there is no bucket 'other'") as caught:
        remote_shards("s3://other/set")
    assert caught.value.filename == "s3://other/set"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(
        RemoteListError, match=r"cannot be listed: .*nothing answers at that address: see AWS_ENDPOINT_"
    ):
        remote_shards("s3://bucket/set")
    with pytest.raises(ObjectError, match="nothing answers at that address"):
        stat_objects([RemotePath("s3://bucket/set/a.tfrecord")])


def test_an_address_without_a_bucket_is_wrong_usage(obstore):
    with pytest.raises(RemotePathError, match=r"names no bucket; write s3://bucket/prefix") as caught:
        remote_shards("s3://")
    assert caught.value.exit_status == 2


def test_http_servers_are_not_listed():
    with pytest.raises(RemotePathError, match="only an s3:// prefix can be listed; give the addresses") as caught:
        remote_shards("https://user:hidden@host/set")
    assert "hidden" not in str(caught.value)


def test_without_obstore_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ObjectError, match="install iobench with its extra `s3`"):
        remote_shards("s3://bucket/set")
