"""An S3 bucket through obstore, which takes its credentials from the AWS_* variables of the environment alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ...loaders.remote import CREDENTIALS, RemotePath
from .place import StagingError
from .source import SourceShard

REQUEST_LIMIT = timedelta(seconds=30)


class S3Server:
    """One bucket; errors are OSErrors with the object's address."""

    engine = "obstore"

    def __init__(self, bucket: str) -> None:
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise StagingError(
                f"s3://{bucket}: copying from S3 needs obstore; install iobench with its extra `s3`"
            ) from error
        self._store = S3Store(
            bucket,
            skip_signature="AWS_ACCESS_KEY_ID" not in os.environ,
            client_options={
                "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
                "timeout": REQUEST_LIMIT,
            },
            retry_config={"max_retries": 2, "retry_timeout": REQUEST_LIMIT},
        )

    def look_at(self, path: RemotePath) -> SourceShard:
        """See Server."""
        import obstore

        meta = self._ask(path, lambda: obstore.head(self._store, path.key))
        return SourceShard(path.name, int(meta["size"]), path, _version(meta))

    def read(self, shard: SourceShard, offset: int, memory: memoryview) -> memoryview:
        """See Server; the bytes stay where obstore has them."""
        import obstore

        assert isinstance(shard.place, RemotePath)
        key, options = shard.place.key, {"range": (offset, offset + len(memory))}

        def get() -> Any:
            found = obstore.get(self._store, key, options=options)  # type: ignore[arg-type]  # its TypedDict
            return found.meta, found.bytes()

        meta, content = self._ask(shard.place, get)
        if (int(meta["size"]), _version(meta)) != (shard.size_bytes, shard.version):
            raise StagingError(f"{shard.place}: changed while it was copied; stage it again when nobody writes to it")
        return memoryview(content)

    def read_whole(self, path: RemotePath) -> bytes:
        """See Server."""
        import obstore

        return bytes(self._ask(path, lambda: obstore.get(self._store, path.key).bytes()))

    def _ask(self, path: RemotePath, request: Any) -> Any:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            return request()
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "the server has no such object (404)", str(path)) from None
        except (PermissionDeniedError, UnauthenticatedError):
            raise PermissionError(errno.EACCES, f"the server refuses it; {CREDENTIALS}", str(path)) from None
        except (BaseError, OSError, ValueError) as error:
            told = str(error).partition("\n")[0].partition(": <?xml")[0]
            raise OSError(errno.EIO, f"{told}; {CREDENTIALS}", str(path)) from None


def _version(meta: Mapping[str, Any]) -> str | None:
    """An object's etag, else the time of its last change."""
    if meta["e_tag"]:
        return f"etag {str(meta['e_tag']).strip(chr(34))}"
    return f"last modified {meta['last_modified']}" if meta["last_modified"] else None
