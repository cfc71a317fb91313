"""Tar files, walked header by header without unpacking: which members there are, and where their bytes lie.

    offset 0     512                                                             end
    | header     | BYTES ... zeros | header | bytes zeros | ... | two zero blocks | zeros |
    | name size  |<- size ->|      up to a multiple of 512
    | kind crc.. |

    a header in front of another says more of that member: `L` its long name (GNU), `x` its path and size (pax)

Everything is in blocks of 512 bytes; numbers are octal text, or binary where they are too large for that (GNU).
Sources: POSIX.1-2017, pax ("ustar Interchange Format", "pax Header Block"); GNU tar manual 1.35, "Basic Tar Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

from ..read_errors import pread
from ..remote import ShardPath

BLOCK_BYTES = 512

_WINDOW_BYTES = 4096  # what one read fetches: of small members a few, of large ones the header
_MAX_EXTENSION_BYTES = 1 << 20  # of a long name or a pax header, which are kept in memory
_ZEROS_BYTES = 1 << 20
_CHECKSUM = slice(148, 156)
_REGULAR, _LINKS, _WITHOUT_DATA = b"0\x007", b"12", b"123456"
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE, _CONTINUED = b"xX", b"g", b"L", b"K", b"S", b"M"
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_AGAIN = "copy or create this file again"


class TarError(ValueError):
    """A tar file that is damaged, or whose members cannot be read in place."""

    exit_status: ClassVar[int] = 4


class Member(NamedTuple):
    """One member: its name, where its header and its bytes begin, how many there are, and its type's letter."""

    name: str
    header_at: int
    offset: int
    length: int
    kind: str

    @property
    def is_file(self) -> bool:
        """Whether it has bytes of its own."""
        return self.kind.encode("latin-1") in _REGULAR

    @property
    def is_link(self) -> bool:
        """Whether it is another name of a member elsewhere."""
        return self.kind.encode("latin-1") in _LINKS


class TarFile:
    """An open tar file of `size_bytes`, read through a small window."""

    def __init__(self, fd: int, size_bytes: int, *, path: ShardPath) -> None:
        self._fd = fd
        self._size_bytes = size_bytes
        self._path = path
        self._window = b""
        self._window_at = 0

    def read(self, num_bytes: int, offset: int) -> bytes:
        """Bytes of the file; TarError where it ends before."""
        start = offset - self._window_at
        if start < 0 or start + num_bytes > len(self._window):
            self._window, self._window_at, start = pread(self._fd, max(num_bytes, _WINDOW_BYTES), offset), offset, 0
        found = self._window[start : start + num_bytes]
        if len(found) < num_bytes:
            raise TarError(f"{self._path}: cut at byte {offset + len(found)} while it was read; {_AGAIN}")
        return found

    def members(self) -> Iterator[Member]:
        """Every member in order, directories and links included; TarError names the byte of what is wrong."""
        said: dict[str, str] = {}  # of the next member, by the headers in front of it
        at = 0
        while (header := self._header(at)) is not None:
            kind, length = header[156:157], self._number(header, slice(124, 136), "size", at)
            if kind in _SPARSE or kind in _CONTINUED:
                what = "a sparse member" if kind in _SPARSE else "part of a member in several volumes"
                raise TarError(
                    f"{self._path}: {what} at byte {at}, whose bytes do not lie in one piece; "
                    f"write this tar without --sparse and --multi-volume"
                )
            if kind and kind in _PAX + _PAX_GLOBAL + _LONG_NAME + _LONG_LINK:
                said |= self._extension(kind, at, length)
                at = _after(at, length)
                continue
            if kind and kind in _WITHOUT_DATA:
                length = 0
            elif "size" in said:
                length = self._pax_size(said["size"], at)
            name = said.get("path") or _name(header)
            self._check_end(name, at, length)
            if kind == b"\0" and name.endswith("/"):  # as directories were written before there was a letter for them
                kind = b"5"
            yield Member(name, at, at + BLOCK_BYTES, length, kind.decode("latin-1"))
            said, at = {}, _after(at, length)

    def _header(self, at: int) -> bytes | None:
        """The header at this byte, whose checksum is right; None at the end of the archive."""
        if at + BLOCK_BYTES > self._size_bytes:
            raise TarError(
                f"{self._path}: truncated: the file ends at byte {self._size_bytes}, without the zeros that end a tar "
                f"(a header should be at byte {at}); {_AGAIN}"
            )
        header = self.read(BLOCK_BYTES, at)
        if not any(header):
            self._check_zeros(at)
            return None
        stated = self._number(header, _CHECKSUM, "checksum", at)
        computed = sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ")
        if stated != computed and stated != computed - 256 * sum(byte > 127 for byte in header):  # of signed bytes
            raise self._no_header(header, at, f"says checksum {stated}, and its bytes have {computed}")
        return header

    def _number(self, header: bytes, place: slice, what: str, at: int) -> int:
        field = header[place]
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        if (octal := _OCTAL.fullmatch(field)) is None:
            raise self._no_header(header, at, f"has {field!r} for its {what}, no octal number")
        return int(octal[1] or b"0", 8)

    def _no_header(self, header: bytes, at: int, rule: str) -> TarError:
        if at == 0 and (kind := next((kind for magic, kind in _COMPRESSED.items() if header.startswith(magic)), None)):
            return TarError(
                f"{self._path}: {kind} data from byte 0 on, in which no sample has a place of its own; decompress this "
                f"tar (JPEG and PNG hardly shrink)"
            )
        return TarError(f"{self._path}: no tar header at byte {at}: it {rule}; {_AGAIN}")

    def _check_end(self, name: str, at: int, length: int) -> None:
        if at + BLOCK_BYTES + length > self._size_bytes:
            raise TarError(
                f"{self._path}: truncated: {name!r} (header at byte {at}) says {length} bytes, and the file ends at "
                f"byte {self._size_bytes}; {_AGAIN}"
            )

    def _check_zeros(self, at: int) -> None:
        """There is nothing behind the end of the archive: a second tar there would silently be left out."""
        while at < self._size_bytes:
            block = pread(self._fd, min(_ZEROS_BYTES, self._size_bytes - at), at)
            if not block:
                raise TarError(f"{self._path}: cut at byte {at} while it was read; {_AGAIN}")
            if rest := block.lstrip(b"\0"):
                place = at + len(block) - len(rest)
                raise TarError(
                    f"{self._path}: something follows the end of the tar, from byte {place} on; if tars were joined "
                    f"by cat, join them with `tar --concatenate`, or keep them apart"
                )
            at += len(block)

    def _extension(self, kind: bytes, at: int, length: int) -> Mapping[str, str]:
        """What a header in front of a member says of it: its path, and its size."""
        if length > _MAX_EXTENSION_BYTES:
            raise TarError(f"{self._path}: the header at byte {at} announces a name of {length} bytes; {_AGAIN}")
        self._check_end("a header of the next member", at, length)
        content = self.read(length, at + BLOCK_BYTES)
        if kind in _LONG_LINK:
            return {}
        if kind in _LONG_NAME:
            return {"path": _decoded(content)}
        records = self._pax_records(content, at)
        if sparse := next((name for name in records if name.startswith("GNU.sparse.")), None):
            raise TarError(
                f"{self._path}: a sparse member behind byte {at} ({sparse}), whose bytes do not lie in one piece; "
                f"write this tar without --sparse"
            )
        found = {name: value for name, value in records.items() if name in ("path", "size")}
        if kind in _PAX_GLOBAL and found:
            raise TarError(
                f"{self._path}: the pax header at byte {at} gives all members one {' and '.join(found)}; {_AGAIN}"
            )
        return found

    def _pax_records(self, content: bytes, at: int) -> dict[str, str]:
        """`length key=value\\n` each, as pax has them; length counts all of it."""
        records: dict[str, str] = {}
        start = 0
        while start < len(content) and content[start]:
            digits, _, _ = content[start : start + 10].partition(b" ")
            end = start + int(digits) if digits.isdigit() else start
            name, equals, value = content[start + len(digits) + 1 : end - 1].partition(b"=")
            if not start < end <= len(content) or content[end - 1 : end] != b"\n" or not equals:
                raise TarError(f"{self._path}: the pax header at byte {at} is damaged, {start} bytes into it; {_AGAIN}")
            records[_decoded(name)] = _decoded(value)
            start = end
        return records

    def _pax_size(self, text: str, at: int) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20):  # more than any file has
            raise TarError(f"{self._path}: the pax header before byte {at} has size {text[:20]!r}; {_AGAIN}")
        return int(text)


def _after(at: int, length: int) -> int:
    """Where the header behind a member of this length is."""
    return at + BLOCK_BYTES + -(-length // BLOCK_BYTES) * BLOCK_BYTES


def _name(header: bytes) -> str:
    name = _decoded(header[:100])
    prefix = _decoded(header[345:500]) if header[257:263] == b"ustar\0" else ""  # GNU has other things there
    return f"{prefix}/{name}" if prefix else name


def _decoded(text: bytes) -> str:
    return text.partition(b"\0")[0].decode("utf-8", "surrogateescape")
