"""Read errors that say where: the operating system tells only what went wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def pread(fd: int, num_bytes: int, offset: int) -> bytes:
    """As os.pread; the OSError of one that fails names the bytes."""
    try:
        return os.pread(fd, num_bytes, offset)
    except OSError as error:
        raise OSError(error.errno, failed(num_bytes, offset, error)) from error


def failed(num_bytes: int, offset: int, error: OSError) -> str:
    """What an error message says of a read that failed."""
    return f"read of {num_bytes} bytes at byte {offset} failed: {error.strerror}"


def cut_short(*, came_to: int, size_bytes: int, stop: int) -> str:
    """What an error message says of a file that ends before `stop`, where a read came to byte `came_to`.

    A read that lies behind the end as a whole comes to its own first byte: then the size tells where the file ends.
    """
    end = min(came_to, size_bytes)
    return (
        f"the file ends at byte {end}, {stop - end} bytes before this read does; "
        f"it is shorter than when it was indexed: copy or create it again, then run `iobench index`"
    )


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Within, an OSError that names no file gets the name of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.strerror is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
