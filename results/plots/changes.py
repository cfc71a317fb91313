"""The picture of a comparison: the ratio of every figure with its interval, around the line of no change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..comparison.changes import change_label, change_tables, ratio_text
from ..quantities import counted
from .drawing import BLUE, GREEN, GREY, RED, Plot, bar_chart, distinct, logarithmic, mark_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..record import Change, Comparison

MOST_CHANGES = 30
LOOKS = {  # by what was found: colour and marker
    "better": (GREEN, "triangle-up"),
    "worse": (RED, "diamond"),
    "higher": (BLUE, "square"),
    "lower": (BLUE, "square"),
    "no difference": (GREY, "circle"),
}
FAR, WIDE = 100.0, 4.0  # a ratio beyond, or an interval that reaches so far beyond its ratios, leaves the picture


def change_plot(comparison: Comparison) -> Plot | None:
    """A dot for each ratio, those first that differ; the figures themselves stand in the table."""
    found = [change for change in comparison.changes if change.ratio is not None and change.ci95 is not None]
    if not found:
        return None
    shown = sorted(found, key=lambda change: (change.finding == "no difference", bool(change.where)))[:MOST_CHANGES]
    labels = dict(zip(map(id, shown), distinct([change_label(change) for change in shown]), strict=True))
    kinds = dict.fromkeys(change.finding for change in shown)
    traces = [_dots(kind, [change for change in shown if change.finding == kind], labels) for kind in kinds]
    layout = bar_chart("now / then, in equal steps for equal factors", len(shown))
    reach = _reach(shown)
    layout["xaxis"] |= logarithmic(reach) | {"range": reach}
    layout["yaxis"] |= {"showgrid": True, "categoryarray": list(labels.values())}
    mark_place(layout, 1.0, "")
    note = f"{counted(len(shown), 'figure')} of {len(found)} are drawn." if len(shown) < len(found) else ""
    table = change_tables(comparison)[0]
    return Plot("changes", _finding(found), tuple(traces), layout, table, note=note)


def _dots(kind: str, changes: Sequence[Change], labels: dict[int, str]) -> dict[str, Any]:
    colour, symbol = LOOKS.get(kind, (GREY, "circle"))
    ratios = [(change.ratio or 1.0, change.ci95 or (1.0, 1.0)) for change in changes]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": kind,
        "x": [ratio for ratio, _ in ratios],
        "y": [labels[id(change)] for change in changes],
        "error_x": {
            "array": [high - ratio for ratio, (_, high) in ratios],
            "arrayminus": [ratio - low for ratio, (low, _) in ratios],
        },
        "marker": {"color": colour, "size": 11, "symbol": symbol},
        "hovertext": [f"{change_label(change)}\n{ratio_text(change)}\n{kind}" for change in changes],
    }


def _reach(changes: Sequence[Change]) -> list[float]:
    """From the least to the most of the ratios and their intervals, and 1 among them; wild intervals leave it."""
    ratios = [min(max(change.ratio or 1.0, 1 / FAR), FAR) for change in changes]
    low, high = min(1.0, *ratios), max(1.0, *ratios)
    ends = [end for change in changes for end in change.ci95 or ()]
    least = min([low, *(end for end in ends if end > low / WIDE)])
    most = max([high, *(end for end in ends if end < high * WIDE)])
    margin = (most / least) ** 0.05 * 1.02
    return [least / margin, most * margin]


def _finding(changes: Sequence[Change]) -> str:
    counts = {kind: sum(change.finding == kind for change in changes) for kind in LOOKS}
    told = [f"{count} {kind}" for kind, count in counts.items() if count and kind != "no difference"]
    still = counts["no difference"]
    rest = f"{still} with no difference that this data shows" if still else ""
    return f"{counted(len(changes), 'figure')} compared: {', '.join([*told, *([rest] if rest else [])])}"
