"""The marks of a picture as SVG: bars, lines, markers, intervals, words.  Whatever is text is escaped here.

Intervals that leave the axes end at their rim.  What a pointer over a mark reads is the mark's `title`.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..quantities import number
from .heat_map import NO_FIELD
from .lettering import LINE, width_of

if TYPE_CHECKING:
    from .axes import Axis

DASHES = {"dash": "7 5", "dot": "2 4"}
SHAPES = {  # around 0, 0 and as wide as 2
    "square": "M-.9-.9H.9V.9H-.9Z",
    "diamond": "M0-1.2L1.2 0 0 1.2-1.2 0Z",
    "triangle-up": "M0-1.1L1.1.9H-1.1Z",
    "cross": "M-.4-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
    "star": "M0-1.3L.35-.4 1.25-.4.55.2.8 1.1 0 .55-.8 1.1-.55.2-1.25-.4-.35-.4Z",
    "circle": "M-1 0A1 1 0 1 1 1 0A1 1 0 1 1-1 0Z",
}


@dataclass(frozen=True)
class Frame:
    """The two axes of a picture, and whether its marks have words for a pointer."""

    x: Axis
    y: Axis
    told: bool = True

    def shows(self, x: float, y: float) -> bool:
        """Whether a place is within the axes."""
        return self.x.shows(x) and self.y.shows(y)


def px(value: float) -> str:
    """A length in pixels, to a tenth."""
    return f"{min(max(-1e6, value), 1e6):.1f}".removesuffix(".0")


def escaped(text: str) -> str:
    """Any text as text."""
    return html.escape(text)


def words(x: float, y: float, text: str, *, anchor: str = "start", style: str = "", fill: str = "") -> str:
    """Lines of text, the base of the first at `y`; `anchor` is start, middle or end."""
    look = f' text-anchor="{anchor}"' * (anchor != "start") + f' class="{style}"' * bool(style)
    look += f' style="fill:{fill}"' * bool(fill)
    lines = text.split("\n")
    if len(lines) == 1:
        return f'<text x="{px(x)}" y="{px(y)}"{look}>{escaped(text)}</text>'
    spans = (
        f'<tspan x="{px(x)}" y="{px(y + LINE * place)}">{escaped(part)}</tspan>' for place, part in enumerate(lines)
    )
    return f"<text{look}>{''.join(spans)}</text>"


def stroke(points: Sequence[tuple[float, float]], *, colour: str = "", dash: str = "", style: str = "") -> str:
    """A line through these pixels."""
    look = f' stroke="{colour}"' * bool(colour) + f' class="{style}"' * bool(style)
    look += f' stroke-dasharray="{DASHES[dash]}"' if dash in DASHES else ""
    path = "L".join(f"{px(x)} {px(y)}" for x, y in points)
    return f'<path d="M{path}" fill="none"{look}/>'


def symbol(x: float, y: float, name: str, colour: str, *, size: float, told: str = "") -> str:
    """A marker; open ones let the page through."""
    shape, radius = SHAPES[name.removesuffix("-open")], size / 2
    look = f'stroke="{colour}" class="open"' if name.endswith("-open") else f'fill="{colour}"'
    return f'<path d="{shape}" transform="translate({px(x)} {px(y)}) scale({px(radius)})" {look}{_titled(told, "path")}'


def bars(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any], frame: Frame) -> Iterator[str]:
    """Bars along their axis of values: on top of each other, or side by side where the layout says "group"."""
    grouped = layout.get("barmode") == "group"
    ends: dict[tuple[Any, bool], float] = {}
    for place, trace in enumerate(traces):
        lies = trace.get("orientation") == "h"
        across, along = (frame.y, frame.x) if lies else (frame.x, frame.y)
        thick = (across.band - across.head) * (1 - layout.get("bargap", 0.2)) / (len(traces) if grouped else 1)
        for each, (where, value) in enumerate(zip(*_placed(trace, lies=lies), strict=True)):
            if value is None:
                continue
            base = 0.0 if grouped else ends.get((where, value < 0), 0.0)
            ends[where, value < 0] = base + value
            first = across.at(where) + thick * (place - len(traces) / 2 if grouped else -0.5)
            near, far = sorted((along.within(base), along.within(base + value)))
            box = (near, first, far - near, thick) if lies else (first, near, thick, far - near)
            style = "field" if "text" in trace else ""
            yield _rectangle(box, _each(trace["marker"]["color"], each), style, _told(trace, each, frame))
            yield _inside(trace, each, box)


def intervals(trace: Mapping[str, Any], frame: Frame, *, shift: float = 0.0) -> Iterator[str]:
    """Intervals with feet along the axis of values, as far as the axis goes."""
    name = "x" if "error_x" in trace else "y"
    error, values = trace[f"error_{name}"], trace[name]
    axis, other = (frame.x, frame.y) if name == "x" else (frame.y, frame.x)
    for value, where, above, below in zip(
        values, trace["y" if name == "x" else "x"], error["array"], error["arrayminus"], strict=True
    ):
        if value is None or (not above and not below) or not axis.has_place_for(value):
            continue
        low, high, middle = axis.within(value - below), axis.within(value + above), other.at(where) + shift
        inner = [axis.low < value - below, value + above < axis.high]
        feet = [end for end, shown in zip((low, high), inner, strict=True) if shown]
        path = [
            _line(name, low, middle, high, middle),
            *(_line(name, end, middle - 4, end, middle + 4) for end in feet),
        ]
        colour = f' stroke="{trace["marker"]["color"]}"' if "mode" in trace and "color" in trace["marker"] else ""
        yield f'<path d="{"".join(path)}" class="interval"{colour}/>'


def curve(trace: Mapping[str, Any], frame: Frame) -> Iterator[str]:
    """The line and the markers of a series, as far as each is asked for; nothing where a value is missing."""
    placed = [(k, x, y) for k, (x, y) in enumerate(zip(trace["x"], trace["y"], strict=True)) if None not in (x, y)]
    shown = [k for k, x, y in placed if frame.x.has_place_for(x) and frame.y.has_place_for(y)]
    pixels = {k: (frame.x.at(trace["x"][k]), frame.y.at(trace["y"][k])) for k in shown}
    through = _highest(pixels)
    if "lines" in trace["mode"] and len(through) > 1:
        look = trace["line"]
        yield stroke(through, colour=look["color"], dash=look.get("dash", ""), style="line")
    if "markers" in trace["mode"]:
        marker = trace["marker"]
        colour = marker.get("color") or trace["line"]["color"]
        for k, (x, y) in pixels.items():
            if not frame.shows(x, y):
                continue
            told = _told(trace, k, frame)
            yield symbol(x, y, _each(marker["symbol"], k), colour, size=marker["size"], told=told)


def _highest(pixels: Mapping[int, tuple[float, float]]) -> list[tuple[float, float]]:
    """Where a line goes: through the highest of the points that stand above each other."""
    tops: dict[float, float] = {}
    for x, y in pixels.values():
        tops[x] = min(y, tops.get(x, y))
    return list(tops.items())


def _placed(trace: Mapping[str, Any], *, lies: bool) -> tuple[Sequence[Any], Sequence[float | None]]:
    return (trace["y"], trace["x"]) if lies else (trace["x"], trace["y"])


def _each(look: Any, place: int) -> str:
    """A look of one mark: all have the same, or each its own."""
    return str(look if isinstance(look, str) else look[place])


def _told(trace: Mapping[str, Any], place: int, frame: Frame) -> str:
    if not frame.told or trace.get("hoverinfo") == "skip":
        return ""
    if "hovertext" in trace:
        return str(trace["hovertext"][place])
    found = (trace[name][place] for name in ("x", "y"))
    texts = (" ".join(each.split()) if isinstance(each, str) else number(float(each)) for each in found)
    return f"{trace['name']}: {', '.join(texts)}"


def _titled(told: str, element: str) -> str:
    """The end of an element, with what a pointer over it reads."""
    return f"><title>{escaped(told)}</title></{element}>" if told else "/>"


def _rectangle(box: tuple[float, float, float, float], colour: str, style: str, told: str) -> str:
    if colour == NO_FIELD:
        return ""
    x, y, width, height = map(px, box)
    look = f'fill="{colour}"' + f' class="{style}"' * bool(style)
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" {look}{_titled(told, "rect")}'


def _inside(trace: Mapping[str, Any], place: int, box: tuple[float, float, float, float]) -> str:
    """What is written in the middle of a bar."""
    text = trace["text"][place] if "text" in trace else ""
    if not text:
        return ""
    x, y, width, height = box
    if width_of(text) > width:  # it is in the table
        return ""
    ink = _each(trace["insidetextfont"]["color"], place)
    return words(x + width / 2, y + height / 2 + 5, text, anchor="middle", fill=ink)


def _line(name: str, first: float, across: float, second: float, other: float) -> str:
    """A straight path between two places, given along the axis `name` and across it."""
    if name == "x":
        return f"M{px(first)} {px(across)}L{px(second)} {px(other)}"
    return f"M{px(across)} {px(first)}L{px(other)} {px(second)}"
