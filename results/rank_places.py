"""Where ranks stood, and which read through one file system client: a record's `placed` and `clients`, to be read.

Records of earlier versions, and of runs without ranks, have neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .quantities import NOT_MEASURED, counted
from .tables import MOST_ROWS, Table, text_column, thinned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .record import RunRecord

PLACES = ("placed", "clients", "storage_way")  # of the workload: shown here, and not among its other facts


def place_table(record: RunRecord) -> Table | None:
    """The cores of each rank, and those that the kernel had its threads on; None for a run without ranks."""
    ranks = _listed(record, "placed")
    if not ranks:
        return None
    shown = thinned(ranks, MOST_ROWS)
    return Table(
        "Where each rank stood",
        (
            text_column("rank", [str(rank.get("rank")) for rank in shown], numeric=True),
            text_column("host", [str(rank.get("host")) for rank in shown]),
            text_column("cores of its own", [str(rank.get("cores") or "none") for rank in shown]),
            text_column("threads on cores", [_standing(rank.get("threads")) for rank in shown]),
            text_column("readers on cores", [_standing(rank.get("readers")) for rank in shown]),
            text_column("why", [str(rank.get("reason")) for rank in shown]),
        ),
        left_out=len(ranks) - len(shown),
    )


def client_lines(record: RunRecord) -> tuple[str, ...]:
    """Which ranks shared a host's file system client, and how its data come in."""
    clients = _listed(record, "clients")
    shared = [
        f"{counted(len(client['ranks']), 'rank')} on {client['host']} read through its one file system client."
        for client in thinned(clients, MOST_ROWS)
    ]
    way = record.workload.get("storage_way")
    return (*shared, *((f"On the host that started them, {way}.",) if clients and isinstance(way, str) else ()))


def _listed(record: RunRecord, name: str) -> Sequence[Mapping[str, Any]]:
    found = record.workload.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _standing(seen: object) -> str:
    """`12 on 0-3`, for each set of cores that threads were seen on."""
    if not isinstance(seen, dict) or not seen:
        return NOT_MEASURED
    return "; ".join(f"{count} on {cores}" for cores, count in seen.items())
