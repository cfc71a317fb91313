"""The remote engine brings objects byte for byte without a GPU, and a server that cheats, fails or hangs is noticed."""

import base64
import errno
import os
import pickle
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import numpy as np
import pytest

from iobench.loaders import object_stores
from iobench.loaders.engines import remote_reader
from iobench.loaders.engines.readers import BufferedReader, ReadError
from iobench.loaders.engines.remote_reader import RemoteReader
from iobench.loaders.objects import Objects, fetched, read_beside, stat_objects
from iobench.loaders.remote import ObjectError, RemotePath, RemotePathError

pytest.importorskip("obstore", reason="obstore is not installed (`make setup-test` installs it)")

CONTENT = np.random.default_rng(0).integers(0, 256, 9 * (1 << 20) + 123, dtype=np.uint8).tobytes()
ODD_KEY = "a folder/odd%+=&(é)%20?#.tfrecord"


def put(address: str, content: bytes) -> None:
    headers = {"Content-Type": "application/octet-stream", "x-amz-acl": "public-read"}
    urllib.request.urlopen(urllib.request.Request(address, content, headers, method="PUT"), timeout=20).close()


@dataclass
class Told:
    """What a server of one object is to do, and what it was asked."""

    content: bytes = CONTENT[:100_000]
    etag: str | None = '"first"'
    status: int = 206
    head_status: int = 200
    cut_bytes: int = 0  # left out of what was announced
    short_bytes: int = 0  # left out, and not announced
    delay_s: float = 0.0
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[tuple[str, Told]]:
    told = Told()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.head(told.head_status, len(told.content))

        def do_GET(self) -> None:
            size = len(told.content)
            said = self.headers["Range"] or f"bytes=0-{size - 1}"
            first, last = map(int, said.removeprefix("bytes=").split("-"))
            last = min(last, size - 1)
            time.sleep(told.delay_s)
            body = told.content[first : last + 1 - told.short_bytes] if told.status in (200, 206) else b""
            self.head(told.status, len(body), f"bytes {first}-{last}/{size}" if told.status == 206 else None)
            self.wfile.write(body[: len(body) - told.cut_bytes])
            self.close_connection = bool(told.cut_bytes)

        def head(self, status: int, length: int, content_range: str | None = None) -> None:
            told.asked.append((self.command, self.path, dict(self.headers)))
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            if told.etag is not None:
                self.send_header("ETag", told.etag)
            if content_range is not None:
                self.send_header("Content-Range", content_range)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"127.0.0.1:{server.server_port}", told
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def path(server) -> RemotePath:
    return RemotePath(f"http://user:hidden%40word@{server[0]}/data/some.bin?token=hidden")


def read(reader: RemoteReader, path: RemotePath, offset: int, length: int, need: int | None = None) -> bytes:
    memory = memoryview(bytearray(length))
    return bytes(memory[: reader.read(path, offset, memory, need=need)])


@pytest.mark.parametrize("key", ["plain.tfrecord", ODD_KEY])
def test_any_range_of_an_s3_object_comes_byte_for_byte(s3, key):
    put(f"{s3}/bucket/{quote(key)}", CONTENT)
    reader, path = RemoteReader(), RemotePath(f"s3://bucket/{key}")
    assert read(reader, path, 0, len(CONTENT)) == CONTENT
    random = np.random.default_rng(1)
    delivered = len(CONTENT)
    for exponent in range(1, 22):
        length = int(random.integers(1, 1 << exponent))
        offset = int(random.integers(0, len(CONTENT) - length))
        assert read(reader, path, offset, length) == CONTENT[offset : offset + length]
        delivered += length
    assert reader.delivered_bytes == delivered
    assert reader.counters() == {"obstore_remote_bytes": delivered, "obstore_remote_requests": 21 + 2}


def test_one_request_fills_several_places(server, path):
    reader, memory = RemoteReader(), memoryview(bytearray(3000))
    assert reader.scatter(path, 5, [memory[100:200], memory[:3], memory[7:7], memory[1000:2000]]) == 1103
    assert memory[100:200] == CONTENT[5:105]
    assert memory[:3] == CONTENT[105:108]
    assert memory[1000:2000] == CONTENT[108:1108]
    assert not any(memory[3:100])
    assert not any(memory[200:1000])
    assert not any(memory[2000:])
    assert len(server[1].asked) == 1


def test_a_long_read_is_made_of_several_requests_and_fills_several_places(server, path, monkeypatch):
    monkeypatch.setattr(remote_reader, "PIECE_BYTES", 1000)
    reader, memory = RemoteReader(), memoryview(bytearray(5432))
    parts = [memory[:1700], memory[1700:1701], memory[1701:4321], memory[4321:]]
    assert reader.scatter(path, 77, parts) == 5432
    assert memory == CONTENT[77 : 77 + 5432]
    assert [headers["range"] for _, _, headers in server[1].asked][:2] == ["bytes=77-1076", "bytes=1077-2076"]
    assert reader.counters()["obstore_remote_requests"] == 6


def test_the_end_of_an_object_is_the_end_of_a_read(server, path):
    reader = RemoteReader()
    assert read(reader, path, 99_990, 100, need=10) == CONTENT[99_990:100_000]
    assert read(reader, path, 10, 0) == b""
    with pytest.raises(ReadError, match="the object ends at byte 100000, 90 bytes before this read does") as caught:
        read(reader, path, 99_990, 100)
    assert caught.value.filename == str(path)
    assert caught.value.exit_status == 4


def test_a_read_behind_the_end_of_an_object_is_an_error(s3):
    put(f"{s3}/bucket/some.bin", CONTENT[:1000])
    with pytest.raises(ReadError, match=r"read of 10 bytes at byte 1000 failed: the object is shorter than"):
        read(RemoteReader(), RemotePath("s3://bucket/some.bin"), 1000, 10)


@pytest.mark.parametrize(("etag", "size"), [('"second"', 100_000), ('"first"', 99_999), (None, 200_000)])
def test_an_object_that_is_replaced_between_two_reads_is_noticed(server, path, etag, size):
    reader, told = RemoteReader(), server[1]
    read(reader, path, 0, 10)
    told.content, told.etag = CONTENT[:size], etag
    with pytest.raises(ReadError, match="the object has been replaced since it was first read") as caught:
        read(reader, path, 10, 10)
    assert caught.value.filename == str(path)


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("short_bytes", 1, "999 bytes came from byte 4000 on, not 1000, of an object of 100000 bytes"),
        ("cut_bytes", 1, "the server does not give it: .*error"),
        ("status", 200, "the server does not give it: .*Range request not supported"),
        ("status", 401, r"the server refuses it \(401\); set AWS_ACCESS_KEY_ID"),
        ("status", 403, r"the server refuses it \(403\); set AWS_ACCESS_KEY_ID"),
        ("status", 404, r"the server has no such object \(404\)"),
        ("status", 500, "the server does not give it: .*500"),
    ],
)
def test_an_answer_that_is_no_answer_is_an_error_without_credentials(server, path, setting, value, rule):
    setattr(server[1], setting, value)
    with pytest.raises(ReadError, match=f"read of 1000 bytes at byte 4000 failed: {rule}") as caught:
        read(RemoteReader(), path, 4000, 1000)
    assert caught.value.filename == str(path) == f"http://{server[0]}/data/some.bin"
    assert "hidden" not in repr(caught.value) + str(caught.value)


def test_a_server_that_hangs_is_given_up(server, path, monkeypatch):
    monkeypatch.setattr(object_stores, "REQUEST_LIMIT", timedelta(seconds=0.2))
    server[1].delay_s = 2
    with pytest.raises(ReadError, match="read of 10 bytes at byte 0 failed: the server does not give it"):
        read(RemoteReader(), path, 0, 10)


def test_user_and_password_are_sent_and_a_query_goes_along(server, path):
    read(RemoteReader(), path, 0, 10)
    command, asked, headers = server[1].asked[0]
    assert (command, asked) == ("GET", "/data/some.bin?token=hidden")
    assert headers["authorization"] == f"Basic {base64.b64encode(b'user:hidden@word').decode()}"


def test_an_address_that_is_signed_for_get_is_never_asked_by_head(server):
    told = server[1]
    told.head_status = 403
    signed = RemotePath(f"http://{server[0]}/some.bin?X-Amz-Signature=hidden")
    assert stat_objects([signed])[0][:2] == (100_000, '"first"')
    with pytest.raises(ObjectError, match="403"):
        stat_objects([RemotePath(f"http://{server[0]}/some.bin")])


def test_an_s3_address_takes_no_user():
    with pytest.raises(RemotePathError, match="s3://bucket/a: an s3 address has no user; set") as caught:
        read(RemoteReader(), RemotePath("s3://key:hidden@bucket/a"), 0, 1)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("address", ["s3://bucket//a", "http://127.0.0.1:1//a"])
def test_a_name_that_would_be_changed_on_the_way_is_refused(address):
    with pytest.raises(RemotePathError, match="obstore would ask for an object of another name"):
        stat_objects([RemotePath(address)])


def test_what_tells_an_object_from_a_changed_one(s3):
    put(f"{s3}/bucket/some.bin", b"abc")
    (stat,) = stat_objects([RemotePath("s3://bucket/some.bin")])
    assert stat.size_bytes == 3
    assert stat.etag == '"900150983cd24fb0d6963f7d28e17f72"'  # S3's etag of a simple object is its md5
    assert abs(stat.mtime_ns / 1e9 - time.time()) < 60
    with pytest.raises(ObjectError, match="no such object") as caught:
        stat_objects([RemotePath("s3://bucket/some.bin"), RemotePath("s3://bucket/none")])
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "s3://bucket/none")


def test_an_object_is_fetched_whole_and_the_copy_does_not_stay(s3):
    put(f"{s3}/bucket/some.bin", CONTENT)
    put(f"{s3}/bucket/empty.bin", b"")
    some, empty = (RemotePath(f"s3://bucket/{name}.bin") for name in ("some", "empty"))
    stats = stat_objects([some, empty])
    with fetched(some, stats[0]) as fd:
        assert os.pread(fd, len(CONTENT) + 1, 0) == CONTENT
        assert os.fstat(fd).st_nlink == 0
    with fetched(empty, stats[1]) as fd:
        assert os.pread(fd, 1, 0) == b""
    put(f"{s3}/bucket/some.bin", CONTENT[::-1])
    with pytest.raises(ObjectError, match="has been replaced while it was read"), fetched(some, stats[0]):
        pass


def test_a_small_object_beside_another_is_read_where_it_is_shown(s3, server, path):
    put(f"{s3}/bucket/set/dataset.json", b"{}")
    shard = RemotePath("s3://bucket/set/a.tfrecord")
    assert read_beside(shard, "dataset.json") == b"{}"
    assert read_beside(shard, "other.json") is None
    for status, beside in ((403, None), (404, None), (200, CONTENT[:100_000])):
        server[1].status = status
        assert read_beside(path, "dataset.json") == beside
    assert server[1].asked[-1][1] == "/data/dataset.json"
    server[1].status = 500
    with pytest.raises(ObjectError, match="500"):
        read_beside(path, "dataset.json")


def test_many_threads_may_share_a_reader(server, path, in_threads):
    reader = RemoteReader()

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(20):
            offset = int(random.integers(0, 90_000))
            assert read(reader, path, offset, 5000) == CONTENT[offset : offset + 5000]

    in_threads(work)
    assert reader.counters() == {"obstore_remote_bytes": 6 * 20 * 5000, "obstore_remote_requests": 120}


def test_a_pickled_or_closed_reader_reads_on_and_still_knows_the_object(server, path):
    reader = RemoteReader()
    read(reader, path, 0, 10)
    again = pickle.loads(pickle.dumps(reader))
    again.close()
    assert read(again, path, 10, 10) == CONTENT[10:20]
    assert again.delivered_bytes == 20
    server[1].etag = '"second"'
    with pytest.raises(ReadError, match="replaced"):
        read(again, path, 0, 10)


def test_only_some_connections_are_kept(server, monkeypatch):
    monkeypatch.setattr(object_stores, "_MAX_STORES", 3)
    asking = Objects()
    for number in range(5):
        asking.get(RemotePath(f"http://{server[0]}/{number}?x={number}"), 0, 10)
    assert len(asking._stores._open) == 3
    paths = ["/a/b-0.tfrecord", "/a/_c.tfrecord", "/./a", "/a%20b", "/a?", "/a#x", "/é", "/a+b"]
    for path in paths[:2]:
        asking.get(RemotePath(f"http://{server[0]}{path}"), 0, 10)
    assert list(asking._stores._open)[-1] == f"http://{server[0]}"
    for path in paths[2:]:
        asking.get(RemotePath(f"http://{server[0]}{path}"), 0, 10)
        assert len(asking._stores._open) == 3
    asked = [asked for _, asked, _ in server[1].asked[5:]]
    assert asked == ["/a/b-0.tfrecord", "/a/_c.tfrecord", "/a", "/a%20b", "/a", "/a", "/%C3%A9", "/a+b"]


def test_a_forked_child_gets_an_error_and_does_not_hang(server, path):
    """obstore itself waits for ever there, for threads that a fork does not take along."""
    reader = RemoteReader()
    read(reader, path, 0, 10)
    out, into = os.pipe()
    if (child := os.fork()) == 0:
        try:
            read(reader, path, 0, 10)
        except ObjectError as error:
            os.write(into, str(error.strerror).encode())
        except BaseException as error:
            os.write(into, repr(error).encode())
        os._exit(0)
    os.close(into)
    said = os.read(out, 10_000).decode()  # ends at the latest when the child does
    os.close(out)
    os.waitpid(child, 0)
    assert "before it forked this one" in said
    assert "spawn" in said


def test_the_engine_reads_no_files_and_the_others_no_objects(tmp_path, path):
    (tmp_path / "some").write_bytes(b"abc")
    with pytest.raises(ReadError, match="a file, and engine remote reads objects on servers"):
        RemoteReader().read(tmp_path / "some", 0, memoryview(bytearray(3)))
    with pytest.raises(ReadError, match="an object on a server, and engine buffered reads files"):
        BufferedReader().read(path, 0, memoryview(bytearray(3)))


def test_without_obstore_the_error_names_the_extra():
    program = (
        "import sys; sys.modules['obstore'] = None\n"
        "from iobench.loaders.shards import ShardSet\n"
        "ShardSet.open('https://host/a.tfrecord')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "reading from a server needs obstore; install iobench with its extra `s3`" in done.stderr.splitlines()[-1]
