"""Remote objects: their addresses, and the shards under an S3 prefix.

    s3://bucket/key     the key as it is, unencoded; AWS_* variables say who asks and where (see CREDENTIALS)
    https://host/path   a whole URL, encoded as URLs are; presigned ones carry their own signature

Reading them is the kvikio engine's, see `kvikio_reader`.  An address shown anywhere, in an error, a record or a
process list, is shown without user, password and query: those may be credentials.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar
from urllib.parse import quote, urlsplit

from .discovery import SHARD_SUFFIXES, is_shard_name
from .tensors import DESCRIPTION_NAME

SCHEMES = ("s3", "http", "https")
CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION and, where it is not AWS, AWS_ENDPOINT_URL; "
    "without a key only public objects can be read"
)
LIST_LIMIT = timedelta(seconds=30)


class RemotePathError(ValueError):
    """An address that names no object."""

    exit_status: ClassVar[int] = 2


class RemoteListError(OSError):
    """The objects under a prefix cannot be listed."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True, repr=False)
class RemotePath:
    """The address of one object; what a Path is for a file.  `str` of it holds no credentials."""

    url: str

    def __post_init__(self) -> None:
        if not is_remote(self.url):
            raise RemotePathError(f"{self.url}: not a remote address; write s3://bucket/key, http:// or https://")
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


def is_remote(source: object) -> bool:
    """Whether this is the address of something remote, and not a path."""
    return isinstance(source, str) and "://" in source and source.partition("://")[0].lower() in SCHEMES


def remote_shards(url: str) -> list[RemotePath]:
    """The shards right under an S3 prefix, by the rule of a data folder: anything else that is there is an error.

    obstore (extra `s3`) does the listing, which kvikio cannot: one package without dependencies, and it takes the same
    AWS_* variables.  http servers have no listing: give the addresses of the shards.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() != "s3":
        raise RemotePathError(f"{scheme}://...: only an s3:// prefix can be listed; give the addresses of the shards")
    bucket, _, prefix = rest.partition("/")
    objects, folders = _list(bucket, prefix.rstrip("/"))
    shards = [path for path in objects if is_shard_name(path.name) and not path.name.startswith(".")]
    for path in sorted(folders + objects, key=str):
        if path not in shards and path.name != DESCRIPTION_NAME and not path.name.startswith("."):
            raise RemoteListError(
                errno.EINVAL,
                f"{'a prefix' if path in folders else 'an object'} that is no shard ({', '.join(SHARD_SUFFIXES)}); "
                f"move it elsewhere, or give the addresses of the shards",
                str(path),
            )
    if not shards:
        raise RemoteListError(errno.ENOENT, "no shards right under this prefix; copy some there", url)
    return shards


def _list(bucket: str, prefix: str) -> tuple[list[RemotePath], list[RemotePath]]:
    """The objects right under a prefix, and the prefixes below it."""
    place = f"s3://{bucket}/{prefix}"
    try:
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError as error:
        text = "listing needs obstore; install iobench with its extra `s3`, or give the addresses of the shards"
        raise RemoteListError(errno.ENOSYS, text, place) from error
    try:
        store = S3Store(
            bucket,
            skip_signature="AWS_ACCESS_KEY_ID" not in os.environ,
            client_options={
                "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
                "timeout": LIST_LIMIT,
            },
            retry_config={"max_retries": 2, "retry_timeout": LIST_LIMIT},
        )
        found = obstore.list_with_delimiter(store, prefix or None)
    except (BaseError, OSError, ValueError) as error:
        told = str(error).partition("\n")[0].partition(": <?xml")[0]
        raise RemoteListError(errno.EIO, f"cannot be listed: {told}; {CREDENTIALS}", place) from None
    objects = sorted(entry["path"] for entry in found["objects"])
    return (
        [RemotePath(f"s3://{bucket}/{key}") for key in objects],
        [RemotePath(f"s3://{bucket}/{key}") for key in found["common_prefixes"]],
    )
