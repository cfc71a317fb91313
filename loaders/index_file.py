"""The file an index is kept in: a JSON header and int64 arrays, with one checksum over all of them.

    offset  0             8          12              16            16 + header
            | "iobindex"  | crc32c   | header bytes  | JSON header | labels | payload offsets ...
            | 8 bytes     | u32      | u32           |             | int64 (n,) each
                                       `----------------- crc32c of all this -----------------'

All numbers are little-endian.  The header's `arrays` says how long each array is.  Arrays are read straight into their
place, so that 1.3 million records load in milliseconds; nothing is allocated before the file's size agrees.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

MAGIC = b"iobindex"
VERSION = 2

_PREFIX_BYTES = 16
_WORD = np.dtype("<i8")

Arrays = dict[str, npt.NDArray[np.int64]]


class IndexCacheError(ValueError):
    """A kept index is damaged, or of another version; it is built again."""


def cache_folder() -> Path | None:
    """The user's cache; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iobench"
    except RuntimeError:
        return None


def write_index_file(location: Path, header: Mapping[str, Any], arrays: Arrays, *, mode: int) -> None:
    """Put a whole file in place of any that is there, or leave that as it is; OSError where it cannot be written."""
    text = json.dumps({"version": VERSION, "arrays": {name: len(array) for name, array in arrays.items()}, **header})
    encoded = text.encode()
    parts = [len(encoded).to_bytes(4, "little"), encoded, *(array.astype(_WORD).tobytes() for array in arrays.values())]
    handle, temporary = tempfile.mkstemp(prefix=".iobench-", suffix=".tmp", dir=location.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines([MAGIC, _checksum(*parts).to_bytes(4, "little"), *parts])
            file.flush()
            with suppress(OSError):  # a file system without modes
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, location)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_index_file(location: Path) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays; IndexCacheError for a file that is damaged or of another version."""
    with location.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(_PREFIX_BYTES)
        if len(prefix) < _PREFIX_BYTES or prefix[:8] != MAGIC:
            raise IndexCacheError(f"{location.name} is no index of this program")
        header_bytes = int.from_bytes(prefix[12:], "little")
        if header_bytes > size - _PREFIX_BYTES:
            raise IndexCacheError(f"{location.name} is damaged (cut in its header)")
        text = _read(file, header_bytes, location)
        header = _parse(text, location)
        arrays = _read_arrays(file, header, size - _PREFIX_BYTES - header_bytes, location)
    if _checksum(prefix[12:], text, *(array.data for array in arrays.values())) != int.from_bytes(
        prefix[8:12], "little"
    ):
        raise IndexCacheError(f"{location.name} is damaged (its checksum is wrong)")
    return header, arrays


def _parse(text: bytearray, location: Path) -> dict[str, Any]:
    try:
        header = json.loads(text)
        version, lengths = header["version"], header["arrays"]
    except (ValueError, KeyError, TypeError) as error:
        raise IndexCacheError(f"{location.name} is damaged ({type(error).__name__} in its header)") from error
    if version != VERSION:
        raise IndexCacheError(f"{location.name} has version {version}, not {VERSION}")
    if not isinstance(lengths, dict) or not all(isinstance(length, int) and length >= 0 for length in lengths.values()):
        raise IndexCacheError(f"{location.name} is damaged (its arrays are {lengths!r})")
    whole: dict[str, Any] = header
    return whole


def _read_arrays(file: BinaryIO, header: Mapping[str, Any], num_bytes: int, location: Path) -> Arrays:
    lengths: dict[str, int] = header["arrays"]
    if sum(lengths.values()) * _WORD.itemsize != num_bytes:
        raise IndexCacheError(f"{location.name} is damaged ({num_bytes} bytes of arrays, {lengths} said)")
    arrays: Arrays = {}
    for name, length in lengths.items():
        array = np.empty(length, dtype=_WORD)
        _fill(file, array.data.cast("B"), location)
        arrays[name] = array
    return arrays


def _read(file: BinaryIO, num_bytes: int, location: Path) -> bytearray:
    content = bytearray(num_bytes)
    _fill(file, memoryview(content), location)
    return content


def _fill(file: BinaryIO, target: memoryview, location: Path) -> None:
    done = 0
    while done < len(target):
        count = file.readinto(target[done:])  # type: ignore[attr-defined]  # a raw file has it
        if not count:
            raise IndexCacheError(f"{location.name} was cut while it was read")
        done += count


def _checksum(*parts: bytes | bytearray | memoryview) -> int:
    crc = 0
    for part in parts:
        crc = crc32c(part, crc)
    return crc
