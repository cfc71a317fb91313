"""A picture as SVG text: no script draws it, nothing is loaded for it, and it takes the page's colours.

    traces, layout  ->  legend     as many lines as its words need
                        y title    above the axes, so that it takes no room beside them
                        axes       names or numbers left, marks, lines and words of the layout
                        x title

It is drawn for one width in pixels.  A narrow one (NARROW) is for phones: names of bars stand above their bars, and
fewer ticks on an axis.  Traces and layout are dictionaries in the words of plotly's figures, as far as `drawing`
makes them; values of `shapes` and `annotations` are values of the axes or, where "paper" is said, shares of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .axes import Axis, axis_for, ticks_for
from .lettering import LINE, broken, fitted, width_of
from .marks import Frame, bars, curve, intervals, px, stroke, symbol, words

WIDE, NARROW = 880, 350
NAMES_AT_MOST = 0.34  # of a picture's width, for what stands left of its axes
EDGE, GAP, SWATCH = 2.0, 8.0, 22.0
HEAD = LINE + 2  # of a band, for its name where there is no room beside it
Traces = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Sheet:
    """What is asked for: the traces, their layout, and the pixels across."""

    traces: Traces
    layout: Mapping[str, Any]
    width: float

    @property
    def is_narrow(self) -> bool:
        """Whether names stand above their bars."""
        return self.width < 500

    @property
    def names(self) -> list[str]:
        """The names down an axis of names."""
        spec = self.layout["yaxis"]
        found = [*spec.get("categoryarray", ()), *(name for trace in self.traces for name in trace["y"])]
        return list(dict.fromkeys(map(str, found))) if spec.get("type") == "category" else []

    @property
    def axes_height(self) -> float:
        """The pixels from the top of the axes to their foot."""
        head = HEAD - 8 if self.is_narrow else 0.0
        return float(self.layout["height"]) + head * len(self.names)


def picture(traces: Traces, layout: Mapping[str, Any], *, width: float = WIDE) -> str:
    """The picture as one `svg` element."""
    sheet = Sheet(traces, layout, width)
    legend, top = _legend(sheet)
    if title := layout["yaxis"]["title"]["text"]:
        legend.append(words(EDGE, top + LINE - 4, fitted(title, width), style="title"))
        top += LINE + 6
    foot = top + sheet.axes_height
    frame, left = _frame(sheet, top, foot)
    below, height = _below(sheet, frame, foot)
    parts = [*legend, *_grid(sheet, frame), *_names(sheet, frame, left), *below, *_marks(sheet, frame)]
    parts += [*_shapes(layout, frame), *_annotations(sheet, frame)]
    # Hidden from screen readers: the element around it says what it is, and the table has the figures.
    look = f'viewBox="0 0 {px(width)} {px(height)}" aria-hidden="true" focusable="false"'
    return f"<svg {look}>{''.join(parts)}</svg>"


def _frame(sheet: Sheet, top: float, foot: float) -> tuple[Frame, float]:
    """The axes, and where the left one stands."""
    x_spec, y_spec = sheet.layout["xaxis"], sheet.layout["yaxis"]
    head = HEAD if sheet.is_narrow and sheet.names else 0.0
    start, end = (top, foot) if sheet.names else (foot, top)
    y = axis_for(y_spec, _values(sheet, "y"), start=start, end=end, from_zero=_from_zero(sheet, "y"), head=head)
    texts = [text for _, text in ticks_for(y, y_spec, most=6)]
    if sheet.names and not sheet.is_narrow:
        texts = [line for name in sheet.names for line in name.split("\n")]
    left = min(EDGE + GAP + max(map(width_of, texts), default=0.0), sheet.width * NAMES_AT_MOST)
    x = axis_for(x_spec, _values(sheet, "x"), start=left, end=sheet.width - 14, from_zero=_from_zero(sheet, "x"))
    return Frame(x, y, told=not sheet.is_narrow), left


def _values(sheet: Sheet, name: str) -> list[Any]:
    """What an axis has to hold: values, sums of stacked bars, ends of intervals, marks on the axis."""
    found: list[Any] = []
    stacked: dict[Any, float] = {}
    for trace in sheet.traces:
        values = [value for value in trace[name] if value is not None]
        along = "x" if trace.get("orientation") == "h" else "y"
        if trace["type"] == "bar" and name == along:
            other = trace["y" if along == "x" else "x"]
            for where, value in zip(other, trace[name], strict=True):
                key = (where, (value or 0) < 0) if sheet.layout.get("barmode") != "group" else (where, id(trace))
                stacked[key] = stacked.get(key, 0.0) + (value or 0)
        elif trace["type"] == "bar" and all(not isinstance(value, str) for value in values):
            found += [edge for value in values for edge in (value - 0.5, value + 0.5)]
        found += values
        found += _interval_ends(trace, name)
    return [*found, *stacked.values(), *_marked(sheet.layout, name)]


def _interval_ends(trace: Mapping[str, Any], name: str) -> list[float]:
    if f"error_{name}" not in trace:
        return []
    error = trace[f"error_{name}"]
    spans = zip(trace[name], error["array"], error["arrayminus"], strict=True)
    return [end for value, above, below in spans if value is not None for end in (value + above, value - below)]


def _marked(layout: Mapping[str, Any], name: str) -> list[float]:
    """Heights and places of lines across the picture: they are always in it."""
    return [shape[f"{name}0"] for shape in layout["shapes"] if shape.get(f"{name}ref") != "paper"]


def _from_zero(sheet: Sheet, name: str) -> bool:
    """Whether an axis begins at 0: where bars stand on it, or where it is asked to."""
    along = {"x" if trace.get("orientation") == "h" else "y" for trace in sheet.traces if trace["type"] == "bar"}
    return name in along or sheet.layout[f"{name}axis"].get("rangemode") == "tozero"


def _legend(sheet: Sheet) -> tuple[list[str], float]:
    """What each series looks like, in lines from the top; nothing for one series alone."""
    shown = [trace for trace in sheet.traces if trace.get("showlegend") is not False]
    if len(sheet.traces) < 2 or not shown:
        return [], EDGE
    parts, x, y = [], EDGE, EDGE
    for trace in shown:
        name = fitted(str(trace["name"]), sheet.width - SWATCH - 2 * EDGE)
        room = SWATCH + width_of(name)
        if x > EDGE and x + room > sheet.width:
            x, y = EDGE, y + LINE + 3
        parts += [_swatch(trace, x, y + LINE / 2), words(x + SWATCH, y + LINE - 4, name)]
        x += room + 2 * GAP
    return parts, y + LINE + 12


def _swatch(trace: Mapping[str, Any], x: float, y: float) -> str:
    if trace["type"] == "bar":
        return f'<rect x="{px(x)}" y="{px(y - 6)}" width="14" height="12" fill="{trace["marker"]["color"]}"/>'
    colour = trace["marker"].get("color") or trace["line"]["color"]
    parts = []
    if "lines" in trace["mode"]:
        dash = trace["line"].get("dash", "")
        parts.append(stroke([(x, y), (x + 16, y)], colour=colour, dash=dash, style="line"))
    if "markers" in trace["mode"]:
        look = trace["marker"]["symbol"]
        name = (look if isinstance(look, str) else next(iter(look), "circle")).removesuffix("-open")
        parts.append(symbol(x + 8, y, name, colour, size=8))
    return "".join(parts)


def _grid(sheet: Sheet, frame: Frame) -> list[str]:
    """Lines across the picture at the ticks, and the ticks' words left of the axes."""
    spec, x, y = sheet.layout["yaxis"], frame.x, frame.y
    found, last = [], float("inf")
    for value, text in ticks_for(y, spec, most=6):
        here = y.at(value)
        found.append(stroke([(x.start, here), (x.end, here)], style="grid"))
        if last - here >= LINE:
            found.append(words(x.start - GAP, here + 4.5, text, anchor="end"))
            last = here
    if y.names and spec.get("showgrid", True):
        found += [stroke([(x.start, y.at(name)), (x.end, y.at(name))], style="grid") for name in y.names]
    return found


def _names(sheet: Sheet, frame: Frame, left: float) -> list[str]:
    """The names of an axis of names: beside their bands, or on a phone above them."""
    found = []
    for name in frame.y.names:
        here = frame.y.at(name)
        if sheet.is_narrow:
            top = here - frame.y.band / 2 - frame.y.head / 2
            told = fitted(" ".join(name.split()), sheet.width - 2 * EDGE)
            found.append(words(EDGE, top + LINE - 2, told, style="note"))
            continue
        lines = [fitted(line, left - GAP) for line in name.split("\n")]
        first = here + 4.5 - LINE / 2 * (len(lines) - 1)
        found.append(words(left - GAP, first, "\n".join(lines), anchor="end"))
    return found


def _below(sheet: Sheet, frame: Frame, foot: float) -> tuple[list[str], float]:
    """What stands under the axes, ticks and title, and where the picture ends."""
    spec, x, found = sheet.layout["xaxis"], frame.x, []
    last = float("-inf")
    places: list[tuple[Any, str]] = [(name, name) for name in x.names]
    for value, text in places or ticks_for(x, spec, most=5 if sheet.is_narrow else 9):
        here, half = x.at(value), width_of(text) / 2
        if spec.get("showgrid", True):
            found.append(stroke([(here, foot), (here, min(frame.y.start, frame.y.end))], style="grid"))
        middle = min(max(here, half), sheet.width - half)
        if middle - half >= last + 4:
            found.append(words(middle, foot + LINE, text, anchor="middle"))
            last = middle + half
    lines = broken(spec["title"]["text"], sheet.width - 2 * EDGE)
    found.append(
        words(
            (x.start + x.end) / 2 if len(lines) == 1 else sheet.width / 2,
            foot + 2 * LINE + 6,
            "\n".join(lines),
            anchor="middle",
            style="title",
        )
    )
    return found, foot + 2 * LINE + 6 + LINE * (len(lines) - 1) + 8


def _marks(sheet: Sheet, frame: Frame) -> list[str]:
    blocks = [trace for trace in sheet.traces if trace["type"] == "bar"]
    lines = [trace for trace in sheet.traces if trace["type"] != "bar"]
    found = [*bars(blocks, sheet.layout, frame)]
    grouped = sheet.layout.get("barmode") == "group"
    for place, trace in enumerate(sheet.traces):
        if "error_x" in trace or "error_y" in trace:
            thick = (frame.y.band - frame.y.head) * (1 - sheet.layout.get("bargap", 0.2)) / len(sheet.traces)
            shift = thick * (place + 0.5 - len(sheet.traces) / 2) if grouped else 0.0
            found += intervals(trace, frame, shift=shift)
    return [*found, *(part for trace in lines for part in curve(trace, frame))]


def _shapes(layout: Mapping[str, Any], frame: Frame) -> list[str]:
    """Lines from one end of the picture to the other."""
    found = []
    for shape in layout["shapes"]:
        ends = [(_place(frame.x, shape, "x", end), _place(frame.y, shape, "y", end)) for end in "01"]
        if all(frame.shows(x, y) for x, y in ends):
            found.append(stroke(ends, dash=shape["line"]["dash"], style="mark"))
    return found


def _place(axis: Axis, item: Mapping[str, Any], name: str, end: str = "") -> float:
    value = item[f"{name}{end}"]
    return axis.start + (axis.end - axis.start) * value if item.get(f"{name}ref") == "paper" else axis.at(value)


def _annotations(sheet: Sheet, frame: Frame) -> list[str]:
    """Words at places of the picture, moved so far that they stay within it, and up from words that stand there."""
    found, taken = list[str](), list[tuple[float, float, float]]()
    for note in sheet.layout["annotations"]:
        lines = [fitted(line, sheet.width - 2 * EDGE) for line in note["text"].split("\n")]
        width = max(map(width_of, lines))
        at = _place(frame.x, note, "x"), _place(frame.y, note, "y")
        if not frame.shows(*at):
            continue
        x = at[0] + note.get("xshift", 0)
        x -= {"left": 0.0, "right": width}.get(note.get("xanchor", ""), width / 2)
        x = min(max(x, EDGE), sheet.width - EDGE - width)
        first = {"bottom": -4 - LINE * (len(lines) - 1), "top": LINE - 2}.get(note.get("yanchor", ""), 4.5)
        y = at[1] - note.get("yshift", 0) + first
        while any(abs(y - other) < LINE - 3 and x < end and begin < x + width for begin, end, other in taken):
            y -= LINE
        taken += [(x, x + width, y + LINE * place) for place in range(len(lines))]
        found.append(words(x, y, "\n".join(lines), style="note"))
    return found
