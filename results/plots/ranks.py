"""The picture of a point's ranks: the time of their own, and the one that the others waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..labels import point_label
from ..quantities import amount, percent
from ..tables import MOST_RANKS, Table, metric_column, out_of, text_column, thinned
from ..wording import about, accelerator_name, metric_label, source_of
from .drawing import BLUE, PURPLE, RED, SKY, Plot, chart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..record import RankReport, RunRecord

OWN_PARTS = {"compute_s": ("compute", SKY), "data_wait_s": ("data wait", RED), "optimizer_s": ("optimiser", BLUE)}
WAITS = {"sync_wait_s": ("waits for others", PURPLE)}
SAME = 0.01  # of a step: ranks whose own times differ by less hold nobody up


def rank_plot(record: RunRecord) -> Plot | None:
    """One column a rank of the point with the most ranks: its own time, and how long it waits for the others."""
    ran = [point for point in record.points if len(point.ranks) > 1]
    if not ran and len(record.ranks) < 2:
        return None
    point = max(ran, key=lambda each: (len(each.ranks), source_of(each) == "direct")) if ran else None
    ranks = sorted(point.ranks if point else record.ranks, key=lambda rank: rank.rank)
    shown = {
        part: look
        for part, look in {**OWN_PARTS, **WAITS}.items()
        if any((metric := rank.metrics.get(part)) is not None and metric.value is not None for rank in ranks)
    }
    if not shown:
        return None
    places = [rank.rank for rank in ranks]
    traces = tuple(
        {
            "type": "bar",
            "name": name,
            "x": places,
            "y": [None if (value := _of(rank, part)) is None else value * 1e3 for rank in ranks],
            "marker": {"color": colour},
        }
        for part, (name, colour) in shown.items()
    )
    accelerator = accelerator_name(about(record, point) if point else record.workload)
    layout = chart(f"rank, one per {accelerator}", "ms per step", height=220)
    layout |= {"barmode": "stack", "bargap": 0.25 if len(ranks) <= 64 else 0}
    layout["xaxis"] |= {"showgrid": False} | ({"tickvals": places} if len(ranks) <= 16 else {})
    layout["yaxis"] |= {"rangemode": "tozero"}
    where = point_label(point) if point else "the run"
    last, finding = _straggler(ranks, where)
    if last is not None:
        top = max(sum(_of(rank, part) or 0 for part in shown) for rank in ranks) * 1e3
        layout["yaxis"] |= {"range": [0, 1.12 * top]}
        place = {"x": last.rank, "y": top, "yanchor": "bottom"}
        layout["annotations"].append({"text": f"rank {last.rank}", **place})
    return Plot("ranks", finding, traces, layout, rank_table(where, ranks))


def rank_table(title: str, ranks: Sequence[RankReport]) -> Table:
    """What each rank was and did."""
    names = ("compute_s", "data_wait_s", "gpu_data_wait_s", "sync_wait_s", "data_stall_fraction", "au_mlperf")
    shown = thinned(ranks, MOST_RANKS)
    columns = (
        text_column("rank", [str(rank.rank) for rank in shown], numeric=True),
        text_column("host", [rank.host for rank in shown]),
        text_column("rank on its host", [str(rank.local_rank) for rank in shown], numeric=True),
        *(
            metric_column(metric_label(name), [rank.metrics.get(name) for rank in shown])
            for name in (*names, "images_per_s")
            if any(name in rank.metrics for rank in shown)
        ),
    )
    return Table(title, columns, left_out=out_of(ranks, shown))


def _straggler(ranks: Sequence[RankReport], where: str) -> tuple[RankReport | None, str]:
    """The rank with the longest time of its own, where it is longer than the middle one's by a share of a step."""
    own = {rank.rank: sum(_of(rank, part) or 0 for part in OWN_PARTS) for rank in ranks}
    last = max(ranks, key=lambda rank: own[rank.rank])
    middle = sorted(own.values())[len(own) // 2 if len(own) > 2 else 0]
    late, step = own[last.rank] - middle, max(own.values())
    if not step or late < SAME * step:
        return None, f"No rank holds the others up: their own times differ by less than {percent(SAME)} ({where})"
    data = (_of(last, "data_wait_s") or 0) - min(_of(rank, "data_wait_s") or 0 for rank in ranks)
    why = "waiting for data" if data > late / 2 else "computing"
    name = f"Rank {last.rank} on {last.host} is the last on average: {amount(late, 's')} of a step later than "
    return last, name + f"{'the middle one' if len(ranks) > 2 else 'the other'}, {why} ({where})"


def _of(rank: RankReport, name: str) -> float | None:
    metric = rank.metrics.get(name)
    return None if metric is None else metric.value
