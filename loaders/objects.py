"""What there is on a server: objects listed, described and fetched, through obstore (extra `s3`).

    s3://bucket/prefix    list     -> the shards right under it, by the rule of a data folder
    an object's address   HEAD     -> size, etag, time of change: what tells it from a changed one
                          ranges   -> its bytes, each answer held against the object's size

obstore is one package without dependencies that takes the same AWS_* variables as everybody.  It has threads of its
own, which a forked child has not: there a request would never end, so it is refused (ObjectError).
"""

from __future__ import annotations

import base64
import errno
import functools
import os
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from .remote import (
    ANSWERS,
    CREDENTIALS,
    ObjectError,
    RemoteListError,
    RemotePath,
    RemotePathError,
    shown_address,
    without_credentials,
)

if TYPE_CHECKING:
    from obstore.store import HTTPStore, S3Store

REQUEST_LIMIT = timedelta(seconds=30)
FETCH_BYTES = 4 << 20
REQUESTS_AT_ONCE = 16
_UNANSWERED = "error sending request"  # obstore's words where there was no answer

_MAX_STORES = 64
_STATUS = re.compile(r"status code: (\d{3})")
_PLAIN_KEY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)  # what no client spells in another way
_KINDS = {"PermissionDeniedError": "403", "UnauthenticatedError": "401"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Answer = TypeVar("_Answer")


class ObjectStat(NamedTuple):
    """What tells an object from a changed one; `etag` is "" and `mtime_ns` 0 where the server does not say."""

    size_bytes: int
    etag: str
    mtime_ns: int


class Piece(NamedTuple):
    """A range of an object, shorter than asked for only at its end; `size_bytes` and `etag` are the object's."""

    content: memoryview
    size_bytes: int
    etag: str


class Listing(NamedTuple):
    """The sizes of the objects right under a prefix by their keys, and the prefixes below it."""

    sizes: dict[str, int]
    prefixes: list[str]


@dataclass(frozen=True, slots=True)
class _Place:
    """An open store, and the object's key in it."""

    store: S3Store | HTTPStore
    key: str


class Objects:
    """Asks servers for objects; may be used from many threads, and keeps connections open between requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stores: OrderedDict[str, S3Store | HTTPStore] = OrderedDict()

    def stat(self, path: RemotePath) -> ObjectStat:
        """Size, etag and time of change; ObjectError where there is no such object or nobody may see it."""
        place = self._place(path)
        import obstore

        if "?" in path.url and path.scheme != "s3":  # a query may sign a GET, and nothing else
            meta = _asked(path, lambda: obstore.get(place.store, place.key, options={"range": (0, 1)}).meta)
        else:
            meta = _asked(path, lambda: obstore.head(place.store, place.key))
        since = meta["last_modified"] - _EPOCH
        return ObjectStat(int(meta["size"]), meta["e_tag"] or "", since // timedelta(microseconds=1) * 1000)

    def get(self, path: RemotePath, start: int, stop: int) -> Piece:
        """Bytes `start` to `stop` of an object; ObjectError where it ends before `start` or less comes than it has."""
        place = self._place(path)
        import obstore

        def ask() -> Piece:
            found = obstore.get(place.store, place.key, options={"range": (start, stop)})
            return Piece(memoryview(found.bytes()), int(found.meta["size"]), found.meta["e_tag"] or "")

        piece = _asked(path, ask)
        if len(piece.content) != min(stop, piece.size_bytes) - start:
            text = f"{len(piece.content)} bytes came from byte {start} on, not {min(stop, piece.size_bytes) - start}"
            raise ObjectError(errno.EIO, f"{text}, of an object of {piece.size_bytes} bytes; read it again", str(path))
        return piece

    def whole(self, path: RemotePath) -> bytes:
        """All of a small object."""
        place = self._place(path)
        import obstore

        return _asked(path, lambda: bytes(obstore.get(place.store, place.key).bytes()))

    def list(self, bucket: str, prefix: str) -> Listing:
        """What is right under an S3 prefix."""
        at = f"s3://{bucket}/{prefix}"
        if not bucket:
            raise RemotePathError(f"{at}: names no bucket; write s3://bucket/prefix")
        _refuse_user(at)
        store = self._opened(f"s3://{bucket}", lambda: _s3_store(bucket))
        import obstore

        try:
            found = obstore.list_with_delimiter(store, prefix or None)
        except Exception as error:
            text = f"cannot be listed: {_first_line(error)}; {_way_out(error, bucket)}"
            raise RemoteListError(errno.EIO, text, at) from None
        sizes = {entry["path"]: int(entry["size"]) for entry in found["objects"]}
        return Listing(dict(sorted(sizes.items())), sorted(found["common_prefixes"]))

    def _place(self, path: RemotePath) -> _Place:
        if path.key.startswith("/"):
            raise RemotePathError(f"{path}: obstore would ask for an object of another name, without the first slash")
        if path.scheme == "s3":
            _refuse_user(path.url)
            return _Place(self._opened(f"s3://{path.place}", lambda: _s3_store(path.place)), path.key)
        if path.url.endswith(f"/{path.key}") and _PLAIN_KEY.fullmatch(path.key):
            server = path.url.removesuffix(f"/{path.key}")
            return _Place(self._opened(server, lambda: _http_store(server)), path.key)
        return _Place(self._opened(path.url, lambda: _http_store(path.url)), "")  # as it is, with its query

    def _opened(self, name: str, open_store: Callable[[], S3Store | HTTPStore]) -> S3Store | HTTPStore:
        """The store of this name; the one used longest ago is let go where there are too many."""
        require_obstore(name)
        with self._lock:
            store = self._stores.pop(name, None) or open_store()
            self._stores[name] = store
            while len(self._stores) > _MAX_STORES:
                self._stores.popitem(last=False)
            return store


def require_obstore(address: str) -> None:
    """Raise ObjectError where obstore is missing, or was used before this process was forked."""
    try:
        import obstore  # noqa: F401  # whether it is there
    except ImportError as error:
        text = "reading from a server needs obstore; install iobench with its extra `s3`"
        raise ObjectError(errno.ENOSYS, text, shown_address(address)) from error
    if (home := _runtime_process()) != os.getpid():
        text = (
            f"process {home} asked a server through obstore before it forked this one, and a fork takes none of "
            f"obstore's threads along, so this request would never end; start workers by spawn "
            f"(multiprocessing_context='spawn')"
        )
        raise ObjectError(errno.EIO, text, shown_address(address))


def stat_objects(paths: Sequence[RemotePath]) -> list[ObjectStat]:
    """What tells each object from a changed one; several servers' answers are awaited at once."""
    objects = Objects()
    return in_parallel(objects.stat, paths)


def list_objects(bucket: str, prefix: str) -> Listing:
    """What is right under an S3 prefix; ObjectError where it cannot be listed."""
    objects = Objects()
    return in_parallel(lambda at: objects.list(bucket, at), [prefix])[0]


def read_beside(path: RemotePath, name: str) -> bytes | None:
    """A small object beside another; None where there is none, or none that is shown to us."""
    try:
        return in_parallel(Objects().whole, [path.sibling(name)])[0]
    except ObjectError as error:
        if error.errno in (errno.ENOENT, errno.EACCES):
            return None
        raise


@contextmanager
def fetched(path: RemotePath, stat: ObjectStat) -> Iterator[int]:
    """A file descriptor of a copy of a whole object, for who walks all of it once; the copy goes with the block."""
    objects = Objects()

    def fetch(offset: int) -> None:
        piece = objects.get(path, offset, min(offset + FETCH_BYTES, stat.size_bytes))
        if (piece.size_bytes, piece.etag) != stat[:2]:
            raise ObjectError(errno.EIO, "has been replaced while it was read; open the data set again", str(path))
        _write_fully(copy.fileno(), piece.content, offset)

    try:
        with tempfile.TemporaryFile(prefix="iobench-") as copy:
            in_parallel(fetch, range(0, stat.size_bytes, FETCH_BYTES))
            yield copy.fileno()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        text = f"no room for a copy of {stat.size_bytes} bytes in {tempfile.gettempdir()}; set TMPDIR to a larger disk"
        raise ObjectError(errno.ENOSPC, text, str(path)) from error


def in_parallel(function: Callable[[Any], _Answer], items: Sequence[Any]) -> list[_Answer]:
    """`function` of each item, several at once; the first error, or an interrupt, leaves out those not yet begun."""
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="iobench-objects")
    try:
        return [future.result() for future in [pool.submit(function, item) for item in items]]
    finally:
        pool.shutdown(cancel_futures=True)


@functools.cache
def _runtime_process() -> int:
    """The process that obstore's threads live in: the first that asks.  A forked child inherits the answer only."""
    return os.getpid()


def _options(url: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    client = {"allow_http": url.startswith("http://"), "timeout": REQUEST_LIMIT, "default_headers": headers or {}}
    return {"client_options": client, "retry_config": {"max_retries": 2, "retry_timeout": REQUEST_LIMIT}}


def _refuse_user(address: str) -> None:
    """A key in an s3 address would be left out without a word."""
    if "@" in address.partition("://")[2].partition("/")[0]:
        raise RemotePathError(f"{shown_address(address)}: an s3 address has no user; set AWS_ACCESS_KEY_ID instead")


def _s3_store(bucket: str) -> S3Store:
    from obstore.store import S3Store

    options = _options(os.environ.get("AWS_ENDPOINT_URL", ""))
    return S3Store(bucket, skip_signature="AWS_ACCESS_KEY_ID" not in os.environ, **options)


def _http_store(url: str) -> HTTPStore:
    """A store of one object; user and password, which obstore does not send, as the header they stand for."""
    from obstore.store import HTTPStore

    parts = urlsplit(url)
    headers = {}
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
    return HTTPStore.from_url(plain, **_options(plain.lower(), headers))


def _asked(path: RemotePath, ask: Callable[[], _Answer]) -> _Answer:
    """The answer; what obstore raises as ObjectError, with a number, the object's address and no credentials."""
    try:
        return ask()
    except Exception as error:  # obstore raises its own tree, OSError and ValueError
        status = _STATUS.search(str(error))
        answer = status[1] if status else _KINDS.get(type(error).__name__, "")
        answer = "404" if isinstance(error, FileNotFoundError) else answer
        why = f"the server does not give it: {_first_line(error)}"
        if _UNANSWERED in why and path.scheme == "s3":
            why += f"; {_way_out(error, path.place)}"
        number, text = ANSWERS.get(answer, (errno.EIO, why))
        raise ObjectError(number, text, str(path)) from None


def _way_out(error: Exception, bucket: str) -> str:
    """What to look at first: a server that does not answer, a bucket that is not there, or who asks."""
    if _UNANSWERED in str(error):
        named = "AWS_ENDPOINT_URL" if "AWS_ENDPOINT_URL" in os.environ else "AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"
        return f"nothing answers at that address: see {named}, and whether this host may reach it (proxies, firewalls)"
    if isinstance(error, FileNotFoundError) or "404" in str(error):
        return f"there is no bucket {bucket!r} at that server: see its name, and AWS_ENDPOINT_URL where it is not AWS"
    return CREDENTIALS


def _first_line(error: Exception) -> str:
    """What went wrong, without the server's page about it, what obstore kept of it, and credentials."""
    return without_credentials(str(error).partition("\n")[0].partition(": <?xml")[0]).rstrip(" :")


def _write_fully(fd: int, content: memoryview, offset: int) -> None:
    while content:
        done = os.pwrite(fd, content, offset)
        content, offset = content[done:], offset + done
