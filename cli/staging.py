"""The command that copies: stage."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from ..terminal import Screen, say
from .journal import Journal
from .options import Json, Out, app


@app.command()
def stage(
    places: Annotated[list[str], typer.Argument(metavar="SRC [HOP ...] DST", help="folders; SRC may be an address")],
    streams: Annotated[int, typer.Option(min=1, max=64, help="shards copied at once")] = 4,
    out: Out = None,
    json: Json = False,
) -> None:
    """Copy a shard set hop by hop, timed and verified; an interrupted copy goes on where it stopped.

    SRC is a folder of shards, an s3:// prefix, or the address of one object.
    """
    from ..loaders.remote import is_remote
    from ..storage_bench.staging import stage_chain, stage_point

    if len(places) < 2:
        raise typer.BadParameter("name where from and where to: iobench stage SRC [HOP ...] DST")
    source, targets = places[0], places[1:]
    folders = [Path(place) for place in places if not is_remote(place)]
    if not folders:
        raise typer.BadParameter("name a folder to copy to: iobench stage SRC [HOP ...] DST")
    journal = Journal("stage", folders[0], out, json=json, also=folders[1:])
    pace = _Pace(len(targets))
    with Screen() as screen:
        result = stage_chain(
            source,
            targets,
            streams=streams,
            progress=lambda hop, phase, done, total: screen.show(*pace.tell(hop, phase, done, total)),
        )
    points = [stage_point(hop, hop=number) for number, hop in enumerate(result.hops, 1)]
    journal.finish(
        workload={"path": result.source, "streams": streams},
        points=points,
        metrics=points[0].metrics,
        best=points[0],
        warnings=result.warnings(),
        invalid=result.invalid(),
    )
    for number, hop in enumerate(result.hops, 1):
        say(
            f"hop {number}: {hop.num_files} shards, {hop.total_bytes / 1e9:.2f} GB: {hop.copied_bytes / 1e9:.2f} GB "
            f"copied in {hop.copy_s:.2f} s, verified in {hop.verify_s:.2f} s"
        )


class _Pace:
    """Progress in words: how fast each phase of each hop has been, and what is left of it at that pace."""

    def __init__(self, num_hops: int) -> None:
        self._num_hops = num_hops
        self._begun: dict[str, float] = {}

    def tell(self, hop: int, phase: str, done: int, total: int) -> tuple[str, float, str]:
        """(name of the part, share done, rate and time left)."""
        part = phase if self._num_hops == 1 else f"{phase} {hop}/{self._num_hops}"
        passed = perf_counter() - self._begun.setdefault(part, perf_counter())
        rate = done / passed if passed else 0.0
        left = f", {rate / 1e9:.2f} GB/s, {(total - done) / rate:.0f} s left" if rate else ""
        return part, done / total, f"{done / 1e9:.2f} of {total / 1e9:.2f} GB{left}"
