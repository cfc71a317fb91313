"""Pictures of one bar a point: what loaders hand over, and points that sweep nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..labels import differing_label
from ..quantities import quantity, sentences
from ..tables import Table, flag_columns, point_columns, text_column, thinned
from ..wording import doubts, metric_label, points_of
from .drawing import MOST_BARS, SKY, Plot, bar_chart, bars, distinct, error_bars, flag_note, keep_in_view, value_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..record import Point, RunRecord


def loader_plots(record: RunRecord) -> list[Plot]:
    """What loaders hand over; a picture for each heat, since only its rates can be compared."""
    points = [point for point in points_of(record, "load") if value_of(point, "images_per_s") is not None]
    heats: dict[str, list[Point]] = {}
    for point in points:
        heats.setdefault(str(point.params.get("heat", "")), []).append(point)
    return [_loader_plot(f"loader{f'-{place}' * bool(place)}", heat, heats[heat]) for place, heat in enumerate(heats)]


def _loader_plot(name: str, heat: str, points: Sequence[Point]) -> Plot:
    names = ("images_per_s", "read_gbps", "data_wait_s", "data_stall_fraction", "cpu_seconds_per_gb", "peak_rss_bytes")
    several = any("road" in point.params for point in points)
    finding = "Loaders hand over up to" if several else "The loader hands over up to"
    finding = f"{heat}: {finding}" if heat else finding
    return bar_plot(name, finding, points, names, axis=f"images per second{f', {heat}' * bool(heat)}")


def bar_plot(name: str, finding: str, points: Sequence[Point], names: Sequence[str], *, axis: str) -> Plot:
    """One bar for each point, of the first of these metrics; the others stand in the table."""
    metric = names[0]
    shown, found = thinned(points, MOST_BARS), len(points)
    words = [differing_label(point, points) for point in shown]
    labels = distinct([label + " *" * bool(doubts(point)) for label, point in zip(words, shown, strict=True)])
    trace = bars(metric_label(metric), shown, labels, metric=metric, colour=SKY)
    trace |= {"error_x": error_bars([point.metrics[metric] for point in shown]), "showlegend": False}
    best = max(points, key=lambda point: value_of(point, metric) or 0)
    title = f"{finding} {quantity(best.metrics[metric])}: {differing_label(best, points)}"
    columns = (text_column("point", words), *point_columns(shown, names), *flag_columns(shown))
    table = Table("Points", columns, left_out=found - len(shown))
    layout = bar_chart(axis, len(shown))
    note = sentences(flag_note(shown, mark="* is"), keep_in_view(layout, [trace], axis="x"))
    return Plot(name, title, (trace,), layout, table, note=note)
