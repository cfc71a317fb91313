"""What a JPEG file says before its pixels: how it is turned, and where its height stands.

    FFD8 | FFE1 length "Exif\\0\\0" TIFF header, IFD0: ... 0x0112 orientation ... | FFDB ... | FFC0 size | FFDA pixels

Sources: ITU-T T.81 annex B (markers); Exif 2.32 sections 4.5 and 4.6 (APP1, TIFF fields).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

UPRIGHT = 1

_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_SHORT = 3
_APP1, _FILL = 0xE1, 0xFF
_SEQUENTIAL = (0xC0, 0xC1)  # frames of Huffman codes whose rows come one after the other: baseline and extended
_ENDS = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xD9, 0xDA))


class Start(NamedTuple):
    """The Exif orientation, 1 (upright) to 8, and where the two bytes of the height lie, if rows come in order."""

    orientation: int
    height_at: int | None


def start_of(data: memoryview) -> Start:
    """What stands before the pixels; upright where no orientation is said, or what is said is damaged."""
    at, orientation = 2, UPRIGHT
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _FILL:
            at += 1
            continue
        if marker in _ENDS:
            return Start(orientation, at + 5 if marker in _SEQUENTIAL and at + 7 <= len(data) else None)
        length = data[at + 2] << 8 | data[at + 3]
        if marker == _APP1 and orientation == UPRIGHT and data[at + 4 : at + 10] == _EXIF:
            orientation = _of_tiff(bytes(data[at + 10 : at + 2 + length]))
        at += 2 + length
    return Start(orientation, None)


def _of_tiff(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF header."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (number,) = struct.unpack_from(order + "H", tiff, first)
        for entry in range(first + 2, first + 2 + 12 * number, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION and kind == _SHORT:
                return value if 1 <= value <= 8 else UPRIGHT
    except struct.error:  # a directory that runs past its end
        pass
    return UPRIGHT
