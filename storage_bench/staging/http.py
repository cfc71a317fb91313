"""An object on a web server, by ranges; a presigned address carries its own signature, which is never shown."""

from __future__ import annotations

import base64
import errno
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from typing import TypeVar
from urllib.parse import unquote

from ...loaders.remote import RemotePath
from .place import StagingError
from .source import SourceShard

REQUEST_LIMIT_S = 30.0
ATTEMPTS = 3
PAUSE_S = 0.2
LARGEST_DESCRIPTION_BYTES = 64 << 20

Answer = TypeVar("Answer")

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class HttpServer:
    """Any web server that answers ranges; errors are OSErrors with the object's address."""

    engine = "http"

    def look_at(self, path: RemotePath) -> SourceShard:
        """See Server; by its first byte, since presigned addresses are for GET alone."""
        return _ask(path, lambda: _first_byte(path))

    def read(self, shard: SourceShard, offset: int, memory: memoryview) -> memoryview:
        """See Server."""
        path = shard.place
        assert isinstance(path, RemotePath)
        return _ask(path, lambda: _range(path, shard, offset, memory))

    def read_whole(self, path: RemotePath) -> bytes:
        """See Server."""

        def get() -> bytes:
            with _open(path) as answer:
                return answer.read(LARGEST_DESCRIPTION_BYTES)

        return _ask(path, get)


def _first_byte(path: RemotePath) -> SourceShard:
    try:
        with _open(path, first=0, last=0) as answer:
            whole = _whole_bytes(path, answer, 0, 0)
            return SourceShard(unquote(path.name), whole, path, _version(answer))
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == "bytes */0":
            return SourceShard(unquote(path.name), 0, path, None)
        raise


def _range(path: RemotePath, shard: SourceShard, offset: int, memory: memoryview) -> memoryview:
    last = offset + len(memory) - 1
    with _open(path, first=offset, last=last) as answer:
        if (_whole_bytes(path, answer, offset, last), _version(answer)) != (shard.size_bytes, shard.version):
            raise StagingError(f"{path}: changed while it was copied; stage it again when nobody writes to it")
        done = 0
        while done < len(memory) and (count := answer.readinto(memory[done:])):
            done += count
    if done < len(memory):
        raise HTTPException(f"the answer ended after {done} of {len(memory)} bytes")
    return memory


def _open(path: RemotePath, *, first: int | None = None, last: int | None = None) -> HTTPResponse:
    """Ask for an object or a range of it; user and password go to this server only, not where it sends us."""
    scheme, _, rest = path.url.partition("#")[0].partition("://")
    place, slash, key = rest.partition("/")
    user, _, host = place.rpartition("@")
    request = urllib.request.Request(f"{scheme}://{host}{slash}{key}", headers={"Accept-Encoding": "identity"})
    if first is not None:
        request.add_header("Range", f"bytes={first}-{last}")
    if user:
        token = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=REQUEST_LIMIT_S)
    return answer


def _whole_bytes(path: RemotePath, answer: HTTPResponse, first: int, last: int) -> int:
    """The object's size, by an answer that must be the range asked for."""
    told = _RANGE.fullmatch(answer.headers.get("Content-Range") or "")
    if answer.status != 206 or told is None:
        text = "the server does not answer ranges (206 with Content-Range); download the object, and stage the folder"
        raise StagingError(f"{path}: {text}")
    if (int(told[1]), int(told[2])) != (first, last):
        raise StagingError(f"{path}: asked for bytes {first} to {last}, the server sent {told[1]} to {told[2]}")
    return int(told[3])


def _version(answer: HTTPResponse) -> str | None:
    if etag := answer.headers.get("ETag"):
        return f"etag {etag.strip(chr(34))}"
    changed = answer.headers.get("Last-Modified")
    return f"last modified {changed}" if changed else None


def _ask(path: RemotePath, request: Callable[[], Answer]) -> Answer:
    """Make a request, again where it failed for a reason that may pass; errors do not show the address's query."""
    for attempt in range(ATTEMPTS):
        try:
            return request()
        except urllib.error.HTTPError as error:
            error.close()
            failure: OSError = _refused(path, error.code)
            if error.code < 500:
                break
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(error, StagingError):
                raise
            told = _without(path, str(getattr(error, "reason", None) or error))
            failure = OSError(errno.EIO, f"no answer ({type(error).__name__}: {told})", str(path))
        if attempt < ATTEMPTS - 1:
            time.sleep(PAUSE_S * 2**attempt)
    raise failure


def _refused(path: RemotePath, status: int) -> OSError:
    if status in (404, 410):
        return FileNotFoundError(errno.ENOENT, f"the server has no such object ({status})", str(path))
    if status in (401, 403):
        text = f"the server refuses it ({status}); is the address still valid?"
        return PermissionError(errno.EACCES, text, str(path))
    return OSError(errno.EIO, f"the server answers with status {status}", str(path))


def _without(path: RemotePath, text: str) -> str:
    """A message without what the address may carry of credentials."""
    for secret in (path.url, path.url.partition("?")[2], path.url.partition("://")[2].rpartition("@")[0]):
        text = text.replace(secret, "...") if secret else text
    return text
