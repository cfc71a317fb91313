"""Names of files may be any bytes; what is written down is text.

Python holds a byte that is no UTF-8 as half of a surrogate pair, which no file, page or document can hold.
"""

from __future__ import annotations

import re
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")
_FIRST_BYTE = 0xDC00  # PEP 383: byte b is held as this + b


def legible(text: str) -> str:
    r"""Text that can be written anywhere: a byte that is no UTF-8 becomes four letters, as in `na\xefve`."""
    return _HALF.sub(_spelled, text)


def legible_values(value: Any) -> Any:
    """The same lists and mappings with every text in them legible."""
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, dict):
        return {legible_values(key): legible_values(item) for key, item in value.items()}
    return [legible_values(item) for item in value] if isinstance(value, list | tuple) else value


def _spelled(half: re.Match[str]) -> str:
    number = ord(half[0])
    return rf"\x{number - _FIRST_BYTE:02x}" if 0x80 <= number - _FIRST_BYTE <= 0xFF else rf"\u{number:04x}"
