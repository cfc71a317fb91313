"""Connections to servers of objects: obstore's stores, which stay open, and what they raise, made readable.

obstore is one package without dependencies that takes the same AWS_* variables as everybody.  It has threads of its
own, which a forked child has not: there a request would never end, so it is refused (ObjectError).
"""

from __future__ import annotations

import base64
import errno
import functools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from .remote import (
    ANSWERS,
    CREDENTIALS,
    ObjectError,
    RemotePath,
    RemotePathError,
    shown_address,
    without_credentials,
)

if TYPE_CHECKING:
    from obstore.store import HTTPStore, S3Store

REQUEST_LIMIT = timedelta(seconds=30)

_MAX_STORES = 64
_UNANSWERED = "error sending request"  # obstore's words where there was no answer
_STATUS = re.compile(r"status code: (\d{3})")
_PLAIN_KEY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", re.ASCII)  # what no client spells in another way
_KINDS = {"PermissionDeniedError": "403", "UnauthenticatedError": "401"}
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Place:
    """An open store, and the object's key in it."""

    store: S3Store | HTTPStore
    key: str


class Stores:
    """The stores of one asker, kept open between requests; may be used from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, S3Store | HTTPStore] = OrderedDict()

    def place(self, path: RemotePath) -> Place:
        """Where a request for an object goes."""
        if path.key.startswith("/"):
            raise RemotePathError(f"{path}: obstore would ask for an object of another name, without the first slash")
        if path.scheme == "s3":
            return Place(self.bucket(path.place, path.url), path.key)
        if path.url.endswith(f"/{path.key}") and _PLAIN_KEY.fullmatch(path.key):
            server = path.url.removesuffix(f"/{path.key}")
            return Place(self._kept(server, lambda: _http_store(server)), path.key)
        return Place(self._kept(path.url, lambda: _http_store(path.url)), "")  # as it is, with its query

    def bucket(self, name: str, address: str) -> S3Store | HTTPStore:
        """The store of an S3 bucket, which `address` asks for."""
        _refuse_user(address)
        return self._kept(f"s3://{name}", lambda: _s3_store(name))

    def _kept(self, name: str, open_store: Callable[[], S3Store | HTTPStore]) -> S3Store | HTTPStore:
        """The store of this name; the one used longest ago is let go where there are too many."""
        _require_obstore(name)
        with self._lock:
            store = self._open.pop(name, None) or open_store()
            self._open[name] = store
            while len(self._open) > _MAX_STORES:
                self._open.popitem(last=False)
            return store


def _require_obstore(address: str) -> None:
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


def asked(path: RemotePath, ask: Callable[[], _Answer]) -> _Answer:
    """The answer; what obstore raises as ObjectError, with a number, the object's address and no credentials."""
    try:
        return ask()
    except Exception as error:  # obstore raises its own tree, OSError and ValueError
        status = _STATUS.search(str(error))
        answer = status[1] if status else _KINDS.get(type(error).__name__, "")
        answer = "404" if isinstance(error, FileNotFoundError) else answer
        why = f"the server does not give it: {first_line(error)}"
        if _UNANSWERED in why and path.scheme == "s3":
            why += f"; {way_out(error, path.place)}"
        number, text = ANSWERS.get(answer, (errno.EIO, why))
        raise ObjectError(number, text, str(path)) from None


def way_out(error: Exception, bucket: str) -> str:
    """What to look at first: a server that does not answer, a bucket that is not there, or who asks."""
    if _UNANSWERED in str(error):
        named = "AWS_ENDPOINT_URL" if "AWS_ENDPOINT_URL" in os.environ else "AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"
        return f"nothing answers at that address: see {named}, and whether this host may reach it (proxies, firewalls)"
    if isinstance(error, FileNotFoundError) or "404" in str(error):
        return f"there is no bucket {bucket!r} at that server: see its name, and AWS_ENDPOINT_URL where it is not AWS"
    return CREDENTIALS


def first_line(error: Exception) -> str:
    """What went wrong, without the server's page about it, what obstore kept of it, and credentials."""
    return without_credentials(str(error).partition("\n")[0].partition(": <?xml")[0]).rstrip(" :")
