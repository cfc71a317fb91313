"""What a picture is made of, as plain dictionaries: axes, lines, bars, intervals, marks.  `svg` draws them.

The words are those of plotly's figures.  Text is text, its lines parted by \\n; nothing in it is markup.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..labels import point_label
from ..quantities import counted, interval_text, quantity
from ..tables import thinned
from ..wording import FLAGS, doubts, flag_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..record import Metric, Point
    from ..tables import Table

# Okabe and Ito's palette: told apart by colour-blind readers, and seen on white and on black.
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
RED, PURPLE, GREY = "#D55E00", "#CC79A7", "#999999"
LINE_COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
BAR_HEIGHT = 36
LABEL_WIDTH = 32  # letters of one of the two lines of a bar's label
MOST_BARS = 48
MOST_MARKS = 400  # of one line
MOST_LINES = 12


@dataclass(frozen=True)
class Plot:
    """One picture: the finding, what is drawn, and the figures."""

    name: str
    title: str
    traces: tuple[dict[str, Any], ...]
    layout: dict[str, Any]
    table: Table
    note: str = ""


def value_of(point: Point, metric: str) -> float | None:
    """A point's figure, None where it was not measured."""
    found = point.metrics.get(metric)
    return None if found is None else found.value


def chart(x: str, y: str, *, height: int = 290) -> dict[str, Any]:
    """The layout of a picture with these axis titles, its axes so many pixels high."""
    return {
        "height": height,
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "shapes": [],
        "annotations": [],
    }


def whole_numbers(values: Sequence[float]) -> dict[str, Any]:
    """An axis over these numbers, with a tick at each where there is room."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    ticks = {"dtick": 1} if high - low <= 16 else {}
    return {"range": [low - margin * (low != 0), high + margin], **ticks}


def logarithmic(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis over the positive ones of these values, with a plain number at each 1, 2 and 5 of a decade."""
    positive = [value for value in values if 1e-30 < value < 1e30] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    ticks = [digit * 10.0**decade for decade in range(low, high + 1) for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}


def distinct(labels: Sequence[str]) -> list[str]:
    """Labels for bars in at most two lines, numbered where they repeat: bars of one label are stacked."""
    labels = [_two_lines(label) for label in labels]
    return [
        label if label not in labels[:place] else f"{label} ({labels[:place].count(label) + 1})"
        for place, label in enumerate(labels)
    ]


def _two_lines(label: str) -> str:
    star = " *" * label.endswith(" *")
    return "\n".join(textwrap.wrap(label.removesuffix(" *"), LABEL_WIDTH, max_lines=2, placeholder=" …")) + star


def bar_chart(x: str, num_bars: int) -> dict[str, Any]:
    """The layout of horizontal bars, the first on top."""
    layout = chart(x, "", height=BAR_HEIGHT * num_bars)
    layout["yaxis"] |= {"type": "category", "showgrid": False}
    return layout | {"barmode": "relative", "bargap": 0.38}


def bars(
    name: str, points: Sequence[Point], labels: Sequence[str], *, metric: str, colour: str, factor: float = 1.0
) -> dict[str, Any]:
    """One horizontal bar, or one part of it, for each point; nothing where nothing was measured."""
    values = [value_of(point, metric) for point in points]
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": list(labels),
        "x": [None if value is None else value * factor for value in values],
        "marker": {"color": colour},
        "hovertext": [hover(point, [label, name], metric) for point, label in zip(points, labels, strict=True)],
    }


def line(
    name: str,
    points: Sequence[Point],
    *,
    x: Callable[[Point], Any],
    metric: str,
    colour: str,
    dash: str = "solid",
    symbol: str = "circle",
    factor: float = 1.0,
) -> dict[str, Any]:
    """A line of one metric with its intervals; open markers where a point has flags."""
    shown = thinned([(point, value) for point in points if (value := value_of(point, metric)) is not None], MOST_MARKS)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [x(point) for point, _ in shown],
        "y": [value * factor for _, value in shown],
        "error_y": error_bars([point.metrics[metric] for point, _ in shown], factor=factor),
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {
            "size": 9,
            "color": colour,
            "symbol": [symbol + "-open" * bool(doubts(point)) for point, _ in shown],
        },
        "hovertext": [hover(point, [name, point_label(point)], metric) for point, _ in shown],
    }


def curve(
    name: str, x: Sequence[float], y: Sequence[float], *, colour: str, dash: str = "solid", symbol: str = ""
) -> dict[str, Any]:
    """A line through bare numbers, with markers if they have a symbol."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if symbol else "lines",
        "name": name,
        "x": list(x),
        "y": list(y),
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"size": 8, "symbol": symbol or "circle"},
        **({} if symbol else {"hoverinfo": "skip"}),
    }


def error_bars(metrics: Sequence[Metric | None], *, factor: float = 1.0) -> dict[str, Any]:
    """How far intervals reach above and below their values; a value without an interval has none."""
    known = [(metric.value, metric.ci95) if metric is not None else (None, None) for metric in metrics]
    spans = [(at - ends[0], ends[1] - at) if at is not None and ends else (0, 0) for at, ends in known]
    return {
        "array": [above * factor for _, above in spans],
        "arrayminus": [below * factor for below, _ in spans],
    }


def keep_in_view(layout: dict[str, Any], traces: Iterable[dict[str, Any]], *, axis: str) -> str:
    """Let wide intervals of few blocks leave the picture rather than flatten its values; says so if they do."""
    shown = [trace for trace in traces if trace.get(axis)]
    values = [value for trace in shown for value in trace[axis] if value is not None]
    bars_of = [(trace[axis], trace[f"error_{axis}"]) for trace in shown if f"error_{axis}" in trace]
    ends = [value + wide for at, error in bars_of for value, wide in zip(at, error["array"], strict=True) if value]
    feet = [value - wide for at, error in bars_of for value, wide in zip(at, error["arrayminus"], strict=True) if value]
    most = max(values, default=0)
    if most <= 0 or (max(ends, default=0) <= 1.6 * most and min(feet, default=0) >= 0):
        return ""
    layout[f"{axis}axis"] |= {"range": [0, 1.25 * most]}
    return "Intervals that leave the picture are in the table."


def mark_height(layout: dict[str, Any], y: float, text: str) -> None:
    """Draw a labelled dashed line across a picture."""
    style = {"dash": "dash"}
    layout["shapes"].append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": style})
    place = {"xref": "paper", "x": 1, "xanchor": "right", "y": y, "yanchor": "top"}
    layout["annotations"].append({"text": text, **place})


def mark_place(layout: dict[str, Any], x: float, *lines: str) -> None:
    """Draw a labelled dotted line from bottom to top; the label stands on the side that has more room."""
    low, high = layout["xaxis"]["range"]
    style = {"dash": "dot"}
    layout["shapes"].append({"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x, "line": style})
    height = 0.02 + 0.1 * sum(mark.get("yref") == "paper" for mark in layout["annotations"])  # labels do not overlap
    place = {"yref": "paper", "y": height, "yanchor": "bottom", "x": x}
    place |= {"xanchor": "left", "xshift": 6} if x < (low + high) / 2 else {"xanchor": "right", "xshift": -6}
    layout["annotations"].append({"text": "\n".join(lines), **place})


def write_at(layout: dict[str, Any], x: float, y: float, text: str) -> None:
    """Write a text above a point."""
    place = {"x": x, "y": y, "yanchor": "bottom", "yshift": 8}
    layout["annotations"].append({"text": text, **place})


def write_beside(layout: dict[str, Any], labels: Sequence[str], ends: Sequence[float], texts: Sequence[str]) -> None:
    """Write a text at the end of each horizontal bar, and make room for it."""
    for label, end, text in zip(labels, ends, texts, strict=True):
        place = {"x": end, "y": label, "xanchor": "left", "xshift": 4}
        layout["annotations"].append({"text": text, **place})
    if any(texts):
        layout["xaxis"]["range"] = [0, max(ends) * 1.45]


def hover(point: Point, words: Sequence[str], metric: str) -> str:
    """What a pointer over a figure reads: what it is, its value, its interval, its flags."""
    figure = point.metrics.get(metric)
    lines = [*words] if figure is None else [*words, quantity(figure)]
    if figure is not None and figure.ci95 is not None:
        lines.append(f"95 % interval {interval_text(figure)}, {counted(figure.n, 'block')}")
    if point.flags:
        lines.append(flag_text(point.flags))
    return "\n".join(lines)


def flag_note(points: Iterable[Point], *, mark: str) -> str:
    """What the flagged points of a picture are flagged with, `mark` being how they look."""
    flags = dict.fromkeys(flag for point in points for flag in doubts(point))
    told = (f"{flag_text([flag])} ({FLAGS[flag]})" if flag in FLAGS else flag_text([flag]) for flag in flags)
    return f"{mark} flagged: {', '.join(told)}." if flags else ""
