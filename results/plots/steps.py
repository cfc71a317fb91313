"""Pictures of a step: where its time goes, and what each hop of the data's way adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..labels import labels_of
from ..quantities import amount, counted, percent
from ..tables import MOST_ROWS, Table, flag_columns, named_column, out_of, point_columns, text_column, thinned
from ..wording import HOP_WORDS, about, accelerator_name, doubts, points_of, ranks_of, scaled_words, source_of, trained
from .drawing import (
    GREEN,
    GREY,
    MOST_BARS,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Plot,
    bar_chart,
    bars,
    distinct,
    flag_note,
    value_of,
    write_beside,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..record import Point, RunRecord

PARTS = {
    "compute_s": ("compute", SKY),
    "forward_backward_s": ("forward and backward", SKY),
    "optimizer_s": ("optimiser", GREEN),
    "data_wait_s": ("data wait", RED),
    "sync_wait_s": ("sync wait", PURPLE),
    "exposed_allreduce_s": ("exposed allreduce", PURPLE),
    "communication_s": ("communication", PURPLE),
    "straggler_wait_s": ("wait for the last rank", ORANGE),
    "overhead_s": ("overhead", GREY),
}
FINER = {  # a part that is drawn as these where every point has all of them, so that nothing is counted twice
    "sync_wait_s": ("communication_s", "straggler_wait_s"),
    "compute_s": ("forward_backward_s",),
}
READING = {"direct": "Read directly", "staged": "Read from the copy"}
MINUS = "\N{MINUS SIGN}"


def step_plot(record: RunRecord) -> Plot | None:
    """Where a step's time goes: one bar for each source and number of ranks, its parts stacked."""
    found = [point for point in trained(record) if any(value_of(point, part) is not None for part in PARTS)]
    if not found:
        return None
    points, parts = thinned(found, MOST_BARS), _parts_of(found)
    accelerator = accelerator_name(about(record, points[0]))
    labels = distinct([name + " *" * bool(doubts(p)) for name, p in zip(labels_of(points), points, strict=True)])
    traces = [
        bars(name, points, labels, metric=part, colour=colour, factor=1e3) for part, (name, colour) in parts.items()
    ]
    layout = bar_chart(f"ms per step, {accelerator}{scaled_words(record)}", len(points))
    used = [point.metrics.get("au_mlperf") for point in points]
    words = ["" if au is None or au.value is None else f"AU {au.value:.2f}" for au in used]
    write_beside(layout, labels, [sum(value_of(point, part) or 0 for part in parts) * 1e3 for point in points], words)
    columns = point_columns(points, ("step_time_s", *PARTS, "data_stall_fraction", "images_per_s", "au_mlperf"))
    columns = [named_column(points), *columns, *flag_columns(points)]
    table = Table("Parts of a step, mean over ranks", tuple(columns), left_out=out_of(found, points))
    title = _step_finding(record, found, accelerator)
    return Plot("steps", title, tuple(traces), layout, table, note=flag_note(points, mark="* is"))


def hop_plot(record: RunRecord) -> Plot | None:
    """What each hop adds to a step: one bar a rung, up to the rung before it in grey, and then what was added."""
    points = [point for point in points_of(record, "hop") if value_of(point, "step_time_s") is not None]
    if not points:
        return None
    points = thinned(points, MOST_BARS)
    labels = distinct([_rung(point, points) + " *" * bool(doubts(point)) for point in points])
    steps = [(value_of(point, "step_time_s") or 0) * 1e3 for point in points]
    added = [None if (cost := value_of(point, "hop_cost_s")) is None else max(0.0, cost * 1e3) for point in points]
    before = [step - (more or 0) for step, more in zip(steps, added, strict=True)]
    parts = (("step of the rung before", before, GREY), ("added by this hop", added, RED))
    traces = tuple(
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": list(labels),
            "x": lengths,
            "marker": {"color": colour},
        }
        for name, lengths, colour in parts
    )
    accelerator = accelerator_name(about(record, points[0]))
    layout = bar_chart(f"ms per step, {accelerator}", len(points))
    write_beside(layout, labels, steps, [_added_words(point) for point in points])
    names = ("step_time_s", "hop_cost_s", "hop_cost_fraction", "data_stall_fraction", "images_per_s")
    found = points_of(record, "hop")
    every = thinned(found, MOST_ROWS)
    rungs = text_column("batches from", [_rung(point, every) for point in every])
    table = Table("Hops", (rungs, *point_columns(every, names), *flag_columns(every)), left_out=out_of(found, every))
    return Plot("hops", _hop_finding(points, accelerator), traces, layout, table, note=flag_note(points, mark="* is"))


def _parts_of(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    """The parts to stack: the finer ones where every point has them, and nothing twice."""
    has = {part: all(value_of(point, part) is not None for point in points) for part in PARTS}
    left = set()
    for coarse, finer in FINER.items():
        whole_part = any(value_of(point, coarse) is not None for point in points)
        left |= {coarse} if whole_part and all(has[part] for part in finer) else set(finer) if whole_part else set()
    measured = {part for part in PARTS if any(part in point.metrics for point in points)}
    return {part: look for part, look in PARTS.items() if part in measured - left}


def _step_finding(record: RunRecord, points: Sequence[Point], accelerator: str) -> str:
    """How long ranks that read directly wait: at the number that is fed, and at the most that ran."""
    fed = record.metrics.get("gpus_fed_measured")
    waits = [(point, wait) for point in points if (wait := _wait_share(point)) is not None]
    direct = [each for each in waits if source_of(each[0]) == "direct"] or waits[-1:]
    if not direct:
        return f"Where a step's time goes ({accelerator})"
    last, wait = direct[-1]
    reading = READING.get(source_of(last), source_of(last))
    alike = [each for each in direct if ranks_of(each[0]) == ranks_of(last)]
    if len(alike) > 1:  # several networks, or batches of several sizes
        place = max(range(len(alike)), key=lambda each: alike[each][1])
        most, name = alike[place][1], labels_of([point for point, _ in alike])[place]
        return f"{reading}, waiting for data takes up to {percent(most)} of a step: {name} ({accelerator})"
    chosen = [each for each in direct[:-1] if fed is not None and ranks_of(each[0]) == fed.value]
    told = (
        f"{percent(wait)} of a step with {counted(ranks_of(point), 'rank')}" for point, wait in (*chosen, (last, wait))
    )
    return f"{reading}, waiting for data takes {' and '.join(told)} ({accelerator})"


def _wait_share(point: Point) -> float | None:
    wait, step = value_of(point, "data_wait_s"), value_of(point, "step_time_s")
    return wait / step if wait is not None and step else None


def _rung(point: Point, points: Sequence[Point]) -> str:
    hop = str(point.params.get("hop"))
    words = HOP_WORDS.get(hop, hop)
    several = len({ranks_of(other) for other in points}) > 1
    return f"{counted(ranks_of(point), 'rank')}, {words}" if several else words


def _added_words(point: Point) -> str:
    cost = value_of(point, "hop_cost_s")
    if cost is None:
        return ""
    return f"{'+' if cost > 0 else MINUS}{amount(abs(cost), 's')}"


def _hop_finding(points: Sequence[Point], accelerator: str) -> str:
    """The hop that adds the most to a step."""
    costs = {point.params.get("hop"): cost for point in points if (cost := value_of(point, "hop_cost_s")) is not None}
    if not costs or max(costs.values()) <= 0:
        return f"No hop adds to a step ({accelerator})"
    dearest = max(points, key=lambda point: value_of(point, "hop_cost_s") or 0)
    share = (value_of(dearest, "hop_cost_s") or 0) / (value_of(dearest, "step_time_s") or 1)
    words = HOP_WORDS.get(str(dearest.params.get("hop")), str(dearest.params.get("hop")))
    return f"The hop that costs the most is {words}: {percent(share)} of a step ({accelerator})"
