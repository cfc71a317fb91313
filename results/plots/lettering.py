"""How much room words take in a picture, and how they are broken or cut to fit.

No browser is asked: widths are those of DejaVu Sans, the broadest of the fonts that a page may be shown in, so that
words have room in any other.
"""

from __future__ import annotations

SIZE = 13.0  # pixels of the letters in a picture
LINE = 17.0  # from one line to the next
NARROW = frozenset("iIjl.,:;'|!()[]/ft r-")
WIDE = frozenset("mwMW@%…+")


def width_of(text: str, size: float = SIZE) -> float:
    """The pixels that a line of text takes at most."""
    return size * sum(0.4 if sign in NARROW else 0.9 if sign in WIDE else 0.63 for sign in text)


def fitted(text: str, room: float, size: float = SIZE) -> str:
    """A line cut with an ellipsis where it is wider than `room` pixels."""
    if width_of(text, size) <= room:
        return text
    while text and width_of(f"{text}…", size) > room:
        text = text[:-1]
    return f"{text.rstrip(' ,')}…"


def broken(text: str, room: float, size: float = SIZE) -> list[str]:
    """Text in lines of at most `room` pixels, broken between words; a longer word is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if width_of(longer, size) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [fitted(line, room, size) for line in lines]
