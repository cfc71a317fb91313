"""Remote objects: their addresses.

    s3://bucket/key     the key as it is, unencoded; AWS_* variables say who asks and where (see CREDENTIALS)
    https://host/path   a whole URL, encoded as URLs are; presigned ones carry their own signature

`objects` lists and describes them, `remote_reader` and `kvikio_reader` read them.  An address shown anywhere, in an
error or a record, is shown without user, password and query: those may be credentials.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlsplit

SCHEMES = ("s3", "http", "https")
CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION and, where it is not AWS, AWS_ENDPOINT_URL; "
    "without a key only public objects can be read"
)
ANSWERS = {
    "401": (errno.EACCES, f"the server refuses it (401); {CREDENTIALS}"),
    "403": (errno.EACCES, f"the server refuses it (403); {CREDENTIALS}"),
    "404": (errno.ENOENT, "the server has no such object (404)"),
    "416": (errno.EIO, "the object is shorter than when it was opened (416); open the data set again"),
}

_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)


class RemotePathError(ValueError):
    """An address that names no object, or one given to what reads files only."""

    exit_status: ClassVar[int] = 2


class ObjectError(OSError):
    """An object on a server cannot be read."""

    exit_status: ClassVar[int] = 4


class RemoteListError(ObjectError):
    """The objects under a prefix cannot be listed, or are not all shards."""


@dataclass(frozen=True, slots=True, repr=False)
class RemotePath:
    """The address of one object; what a Path is for a file.  `str` of it holds no credentials."""

    url: str

    def __post_init__(self) -> None:
        if not is_remote(self.url):
            raise RemotePathError(
                f"{shown_address(self.url)}: not a remote address; write s3://bucket/key, http:// or https://"
            )
        if not (self.place and self.key):
            raise RemotePathError(f"{self}: names no object; write s3://bucket/key or https://host/path")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}/{self.key}"

    def __repr__(self) -> str:
        return f"RemotePath('{self}')"

    @property
    def scheme(self) -> str:
        """One of SCHEMES."""
        return self.url.partition("://")[0].lower()

    @property
    def place(self) -> str:
        """The bucket, or host and port; without user and password."""
        return self.url.partition("://")[2].partition("/")[0].rpartition("@")[2]

    @property
    def key(self) -> str:
        """What comes after bucket or host; of an http address without its query."""
        path = self.url.partition("://")[2].partition("/")[2]
        return path if self.scheme == "s3" else path.partition("#")[0].partition("?")[0]

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """As of a Path: the last dot of the name and what follows it."""
        return Path(self.name).suffix

    @property
    def folder(self) -> str:
        """The address up to the name, without credentials and the last slash."""
        return str(self).rpartition("/")[0]

    def sibling(self, name: str) -> RemotePath:
        """Another object beside this one; a query is that of this one alone."""
        url = self.url if self.scheme == "s3" else self.url.partition("#")[0].partition("?")[0]
        return RemotePath(f"{url.rpartition('/')[0]}/{name}")

    @property
    def is_presigned(self) -> bool:
        """Whether the address carries S3's signature in its query."""
        return "X-Amz-Signature=" in urlsplit(self.url).query

    def encoded_s3_url(self) -> str:
        """An s3 address with the key percent-encoded, as signatures want it."""
        return f"s3://{self.place}/{quote(self.key)}"

    def anonymous_url(self) -> str:
        """Where an s3 address lies for somebody without credentials."""
        if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
            return f"{endpoint.rstrip('/')}/{self.place}/{quote(self.key)}"
        region = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
        return f"https://{self.place}.s3.{region}.amazonaws.com/{quote(self.key)}"


ShardPath = Path | RemotePath  # where a shard is: a file, or an object on a server


def is_remote(source: object) -> bool:
    """Whether this is the address of something remote, and not a path."""
    return isinstance(source, str) and "://" in source and source.partition("://")[0].lower() in SCHEMES


def folder_of(path: ShardPath) -> Path | str:
    """The folder of a file; of an object its address up to the name, without credentials."""
    return path.folder if isinstance(path, RemotePath) else path.parent


def local_files(paths: Iterable[ShardPath], *, user: str) -> list[Path]:
    """The same paths, all of which are files; RemotePathError for an object, which `user` does not read."""
    files: list[Path] = []
    for path in paths:
        if isinstance(path, RemotePath):
            raise RemotePathError(
                f"{path}: {user} reads files only; copy the shards to a folder, as `iobench stage` does"
            )
        files.append(path)
    return files


def shown_address(address: str) -> str:
    """An address of an object or a prefix without user, password and query; other text as it is."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    place, slash, key = rest.partition("/")
    if scheme.lower() != "s3":
        place, key = (part.partition("#")[0].partition("?")[0] for part in (place, key))
    return f"{scheme.lower()}://{place.rpartition('@')[2]}{slash}{key}"


def without_credentials(text: str) -> str:
    """Text, such as a message or a word of a command, in which addresses are shown without credentials."""
    return _ADDRESS.sub(lambda found: shown_address(found[0]), text)
