"""Samples in .npz files as np.savez writes them, found without unpacking: where the array's bytes lie, and its label.

    offset 0                                          A                 A + array          end of the file
    | local header, name, extra | npy: magic, header  | ARRAY BYTES ... | y.npy the same way | directory | end |
                                  |<------ member, stored: its bytes as they are ------>|

Each file is one sample: `x.npy` is the array, `y.npy` its label where that is one whole number.  The directory says
which members there are, each member's local header must say the same, and a label is held against its crc32; nothing is
unpickled, and nothing that is compressed is read.  Sources: PKWARE APPNOTE 6.3.10 (4.3.7 local header, 4.5.3 zip64),
numpy.lib.format (versions 1-3).
"""

from __future__ import annotations

import ast
import math
import os
import re
import struct
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..read_errors import pread
from ..remote import ShardPath
from .fields import DTYPES, NO_LABEL, Fields

NPZ_SUFFIX = ".npz"

_LOCAL = struct.Struct("<4s5H3I2H")  # signature, version, flags, method, time, date, crc, sizes, name, extra
_END = struct.Struct("<4s4H2IH")  # signature, disks (2), entries here, entries, directory's size and place, comment
_UNTOLD = 0xFFFF  # the number of entries stands in a zip64 record
_NAME_FLAGS, _ENCRYPTED, _SIZES_LATER = 0x0800, 0x0001, 0x0008
_ELSEWHERE = 0xFFFFFFFF
_ZIP64 = 1
_MAX_HEADER_BYTES = 10_000  # numpy's own limit
_BLOCK_BYTES = 1 << 20
_LABEL_BYTES = 4096  # a member of this size at most is read whole for its label, and held against its crc32
_DESCR = re.compile(r"[<>|=]?[biufc?]\d{0,2}")
_AGAIN = "copy or create this file again"


class NpzError(ValueError):
    """An .npz file that is damaged, or whose array cannot be read in place."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class NpzFormat:
    """Which arrays of each file are meant.  `exact`: there are no others, and a label may be missing."""

    sample: str = "x"
    label: str | None = "y"
    exact: bool = True

    @classmethod
    def of(cls, fields: Fields | None) -> NpzFormat:
        """What `fields` names; without them DLIO's names, and nothing else in the files."""
        return cls() if fields is None else cls(fields.image, fields.label, exact=False)


class NpzSample(NamedTuple):
    """Where a file's array lies, what it is, and the label (NO_LABEL without one)."""

    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]
    fortran: bool
    label: int


class _Member(NamedTuple):
    """A stored member: where its bytes are, and the crc32 that the directory has of them."""

    name: str
    offset: int
    length: int
    crc: int


class _Header(NamedTuple):
    """What an npy header says, and how long it is, magic included."""

    num_bytes: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool


def read_sample(fd: int, wanted: NpzFormat, *, path: ShardPath) -> NpzSample:
    """Find the array and the label of one open file; NpzError says what is wrong with it and the way out."""
    members = {member.name: member for member in _members(fd, path)}
    _check_names(members, wanted, path)
    member = members[f"{wanted.sample}.npy"]
    header = _npy_header(fd, member, path)
    label = _label(fd, members, wanted, path)
    offset, length = member.offset + header.num_bytes, member.length - header.num_bytes
    _check_array(header, length, f"{path}: {member.name}")
    fortran = header.fortran and len(header.shape) > 1
    return NpzSample(offset, length, header.dtype.name, header.shape, fortran, label)


def verify_npz(fd: int, *, sample: int, path: ShardPath) -> int:
    """Hold every member of an open file against its crc32; returns the bytes read, NpzError at the first wrong one."""
    members = _members(fd, path)
    for member in members:
        _check_crc(fd, member, path, f"sample {sample}, ")
    return sum(member.length for member in members)


def _members(fd: int, path: ShardPath) -> list[_Member]:
    try:
        with open(fd, "rb", closefd=False) as file, zipfile.ZipFile(file) as archive:
            entries, directory_at, comment_bytes = archive.infolist(), archive.start_dir, len(archive.comment)
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, EOFError) as error:
        raise NpzError(f"{path}: no whole .npz file ({error}): truncated or something else; {_AGAIN}") from error
    end = pread(fd, _END.size, os.fstat(fd).st_size - comment_bytes - _END.size)
    said = _END.unpack(end)[4]
    if said not in (len(entries), _UNTOLD):  # an entry with a wrong length swallows the next one
        raise NpzError(f"{path}: its directory lists {len(entries)} members, and says that they are {said}; {_AGAIN}")
    names = [entry.filename for entry in entries]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise NpzError(f"{path}: holds {twice!r} twice; {_AGAIN}")
    return [_member(fd, entry, directory_at, path) for entry in entries]


def _member(fd: int, entry: zipfile.ZipInfo, directory_at: int, path: ShardPath) -> _Member:
    """The member as the directory has it, once its local header agrees."""
    where = f"{path}: {entry.filename}"
    if entry.flag_bits & _ENCRYPTED:
        raise NpzError(f"{where} is encrypted; write it again with np.savez")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise NpzError(
            f"{where} is compressed (zip method {entry.compress_type}), so its array does not lie in the file; write "
            f"it with np.savez instead of np.savez_compressed"
        )
    at = entry.header_offset
    head = pread(fd, _LOCAL.size, at) if at >= 0 else b""
    if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
        raise NpzError(f"{where} has no local header at byte {at}, where the directory says; {_AGAIN}")
    _, _, flags, method, _, _, crc, packed, plain, name_bytes, extra_bytes = _LOCAL.unpack(head)
    rest = pread(fd, name_bytes + extra_bytes, at + _LOCAL.size)
    if _ELSEWHERE in (packed, plain):
        packed, plain = _zip64_sizes(rest[name_bytes:], where)
    stated = (rest[:name_bytes].decode("utf-8" if flags & _NAME_FLAGS else "cp437", "replace"), method)
    expected: tuple[object, ...] = (entry.orig_filename, entry.compress_type)
    if not flags & _SIZES_LATER:
        stated, expected = (*stated, crc, packed, plain), (*expected, entry.CRC, entry.file_size, entry.file_size)  # type: ignore[assignment]
    if stated != expected or entry.compress_size != entry.file_size:
        raise NpzError(f"{where}: its local header at byte {at} says {stated}, the directory {expected}; {_AGAIN}")
    offset = at + _LOCAL.size + name_bytes + extra_bytes
    if offset + entry.file_size > directory_at:
        raise NpzError(f"{where}: {entry.file_size} bytes from byte {offset} on run into the directory; {_AGAIN}")
    return _Member(entry.filename, offset, entry.file_size, entry.CRC)


def _zip64_sizes(extra: bytes, where: str) -> tuple[int, int]:
    """Packed and plain size from the zip64 field of a local header, which has both."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == _ZIP64 and length >= 16 and at + 4 + length <= len(extra):
            plain, packed = struct.unpack_from("<2Q", extra, at + 4)
            return packed, plain
        at += 4 + length
    raise NpzError(f"{where}: its local header has no sizes, and no zip64 field with them; {_AGAIN}")


def _check_names(members: dict[str, _Member], wanted: NpzFormat, path: ShardPath) -> None:
    meant = [f"{name}.npy" for name in (wanted.sample, wanted.label) if name is not None]
    there = ", ".join(map(repr, members)) or "nothing"
    if meant[0] not in members or (not wanted.exact and meant[-1] not in members):
        missing = next(name for name in meant if name not in members)
        raise NpzError(
            f"{path}: has no {missing!r}, only {there}; name the arrays with fields=Fields(image=..., label=...), or "
            f"label=None for none"
        )
    if wanted.exact and (others := [name for name in members if name not in meant]):
        raise NpzError(
            f"{path}: holds {others[0]!r} beside {' and '.join(map(repr, meant))}, which would not be read; write only "
            f"these, or leave the others unread with fields=Fields(image={wanted.sample!r}, label=...)"
        )


def _npy_header(fd: int, member: _Member, path: ShardPath) -> _Header:
    where = f"{path}: {member.name} (byte {member.offset})"
    head = pread(fd, min(12, member.length), member.offset)
    if head[:6] != b"\x93NUMPY" or len(head) < 12 or head[6] not in (1, 2, 3):
        raise NpzError(f"{where} is no npy array of version 1, 2 or 3; write it with np.savez")
    start = 10 if head[6] == 1 else 12
    length = int.from_bytes(head[8:start], "little")
    if length > min(_MAX_HEADER_BYTES, member.length - start):
        raise NpzError(f"{where}: its header says that it takes {length} bytes; {_AGAIN}")
    text = pread(fd, length, member.offset + start).decode("utf-8" if head[6] == 3 else "latin-1", "replace")
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in what is no header at all
            said = ast.literal_eval(text.strip())
        descr, fortran, shape = said["descr"], said["fortran_order"], said["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise NpzError(f"{where}: its header is no description of an array ({text[:60]!r}); {_AGAIN}") from error
    sizes = shape if isinstance(shape, tuple) else (None,)
    if len(said) != 3 or not isinstance(fortran, bool) or not all(type(size) is int and size >= 0 for size in sizes):
        raise NpzError(f"{where}: its header is no description of an array ({text[:60]!r}); {_AGAIN}")
    return _Header(start + length, _dtype(descr, where), sizes, fortran)


def _dtype(descr: object, where: str) -> np.dtype[Any]:
    """The dtype of a header, of those that torch has too."""
    if descr == "|O":
        raise NpzError(
            f"{where} holds Python objects, which only unpickling could read, and that runs code; write it as numbers"
        )
    try:
        found = np.dtype(descr) if isinstance(descr, str) and _DESCR.fullmatch(descr) else None
    except TypeError:  # a size that this kind does not have
        found = None
    if found is None or found.name not in DTYPES:
        raise NpzError(f"{where} has dtype {descr!r}; the samples can be {', '.join(DTYPES)}")
    if not found.isnative:
        raise NpzError(f"{where} has big-endian {found.name}, which torch does not know; write it little-endian")
    return found


def _check_array(header: _Header, length: int, where: str) -> None:
    wanted = math.prod(header.shape) * header.dtype.itemsize
    if wanted != length or not length:
        raise NpzError(
            f"{where}: {length} bytes are not the {wanted} of {header.dtype.name} {header.shape}; {_AGAIN}"
            if length
            else f"{where}: its array {header.shape} is empty; leave this file out"
        )


def _label(fd: int, members: dict[str, _Member], wanted: NpzFormat, path: ShardPath) -> int:
    """The label where it is one whole number; else there is none, unless one was asked for by its name."""
    member = members.get(f"{wanted.label}.npy")
    if wanted.label is None or member is None:
        return NO_LABEL
    if member.length <= _LABEL_BYTES:  # damage to a header could make a label of another kind, and so none, of it
        _check_crc(fd, member, path)
    header = _npy_header(fd, member, path)
    length = member.length - header.num_bytes
    _check_array(header, length, f"{path}: {member.name}")
    if header.dtype.kind in "iu" and length == header.dtype.itemsize:
        value = pread(fd, length, member.offset + header.num_bytes)
        return int(np.frombuffer(value, header.dtype)[0])
    if wanted.exact:
        return NO_LABEL
    raise NpzError(
        f"{path}: {member.name} is {header.dtype.name} {header.shape}, not one whole number; give fields=Fields(image="
        f"{wanted.sample!r}, label=None) for no label"
    )


def _check_crc(fd: int, member: _Member, path: ShardPath, which: str = "") -> None:
    if _crc_of(fd, member, path) != member.crc:
        where = f"{which}{member.length} bytes at byte {member.offset}"
        raise NpzError(f"{path}: the crc32 of {member.name} is wrong ({where}); {_AGAIN}")


def _crc_of(fd: int, member: _Member, path: ShardPath) -> int:
    crc, at, end = 0, member.offset, member.offset + member.length
    while at < end:
        block = pread(fd, min(_BLOCK_BYTES, end - at), at)
        if not block:
            raise NpzError(f"{path}: cut at byte {at} while it was read; {_AGAIN}")
        crc, at = zlib.crc32(block, crc), at + len(block)
    return crc
