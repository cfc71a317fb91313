"""The command that copies: stage."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from ..results.quantities import amount, counted
from ..terminal import Screen
from .journal import Journal
from .options import ConfigFile, Json, Out, Sets, app

if TYPE_CHECKING:
    from ..storage_bench.staging import ChainResult


@app.command()
def stage(
    places: Annotated[list[str], typer.Argument(metavar="SRC [HOP ...] DST", help="folders; SRC may be an address")],
    streams: Annotated[int | None, typer.Option(help="shards copied at once")] = None,
    compare: Annotated[bool | None, typer.Option(help="read SRC in place and DST, too, and say which pays")] = None,
    epochs: Annotated[int | None, typer.Option(help="epochs that are to be read")] = None,
    dataset_bytes: Annotated[str | None, typer.Option(help="size of the whole, where SRC is a sample of it")] = None,
    seconds: Annotated[float | None, typer.Option(help="time for reading both, about")] = None,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Copy a shard set hop by hop, timed and verified, and weigh the copy against reading in place.

    SRC is a folder of shards, an s3:// prefix, or the address of one object.  An interrupted copy goes on where it
    stopped: shards that are whole are kept.
    """
    from ..configs import load as load_config
    from ..loaders.remote import is_remote
    from ..storage_bench.staging import stage_chain
    from ..storage_bench.staging.compare import compare as weigh
    from ..storage_bench.staging.record import StageConfig, stage_metrics, stage_points, stage_workload

    folders = [Path(place) for place in places if not is_remote(place)]
    if len(places) < 2 or not folders:
        raise typer.BadParameter("name where from and a folder to copy to: iobench stage SRC [HOP ...] DST")
    given = {
        "streams": streams,
        "compare": compare,
        "epochs": epochs,
        "dataset_bytes": dataset_bytes,
        "seconds": seconds,
    }
    settings = load_config(StageConfig, file=config, sets=set_ or (), flags=given)
    journal = Journal("stage", folders[0], out, json=json, also=folders[1:])
    pace = _Pace(len(places) - 1)
    with Screen() as screen:
        chain = stage_chain(
            places[0],
            places[1:],
            streams=settings.streams,
            progress=lambda hop, phase, done, total: screen.show(*pace.tell(hop, phase, done, total)),
        )
        found = None
        if settings.compare:
            found = weigh(
                places[0],
                chain,
                epochs=settings.epochs,
                dataset_bytes=settings.dataset_bytes,
                seconds=settings.seconds,
                progress=lambda done, total: screen.show("compare", done / total, f"round {done} of {total}"),
            )
    points = stage_points(chain, found)
    journal.finish(
        workload=stage_workload(chain, found, settings),
        points=points,
        metrics=stage_metrics(chain, found),
        best=points[0],
        warnings=[*chain.warnings(), *(found.warnings if found is not None else ())],
        invalid=[*chain.invalid(), *(found.invalid if found is not None else ())],
        sentence="\n".join([_summary(chain), *([found.choice.sentence] if found is not None else [])]),
    )


def _summary(chain: ChainResult) -> str:
    first = chain.hops[0]
    what = f"{counted(first.num_files, 'shard')} of {amount(first.total_bytes, 'bytes')}"
    whole = "is whole" if first.num_files == 1 else "are whole"
    return f"{what} {whole} in {chain.target}: read back and held against {first.verified_by}."


class _Pace:
    """Progress in words: how fast each phase of each hop has been, and what is left of it at that pace."""

    def __init__(self, num_hops: int) -> None:
        self._num_hops = num_hops
        self._begun: dict[str, float] = {}

    def tell(self, hop: int, phase: str, done: int, total: int) -> tuple[str, float, str]:
        """(name of the part, share done, rate and time left)."""
        part = phase if self._num_hops == 1 else f"{phase} {hop}/{self._num_hops}"
        now = perf_counter()
        passed = now - self._begun.setdefault(part, now)
        rate = done / passed if passed else 0.0
        left = f", {amount(rate / 1e9, 'GB/s')}, {(total - done) / rate:.0f} s left" if rate else ""
        return part, done / total, f"{amount(done, 'bytes')} of {amount(total, 'bytes')}{left}"
