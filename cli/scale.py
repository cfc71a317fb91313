"""The grid: `iobench scale`."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ..terminal import Screen, figure, say, table
from .journal import Journal
from .options import (
    ConfigFile,
    DataPath,
    EngineFlag,
    HostFile,
    Hosts,
    Json,
    LocalFolder,
    Out,
    Sets,
    Ssh,
    Transform,
    app,
    hosts_given,
    local_folder,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..results.record import Metric, Point


@app.command()
def scale(
    path: DataPath,
    workload: Annotated[str | None, typer.Option(help="train, infer or train+validate  [train]")] = None,
    nodes: Annotated[str | None, typer.Option(metavar="N,...", help="numbers of nodes  [1]")] = None,
    gpus: Annotated[str | None, typer.Option(metavar="N,...", help="accelerators per node  [1,2]")] = None,
    sources: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="synthetic, staged, direct  [synthetic,direct]")
    ] = None,
    accelerator: Annotated[str | None, typer.Option(help="h100, a100 or seconds per step (all emulated)")] = None,
    model: Annotated[str | None, typer.Option(help="whose step times: resnet50, unet3d or cosmoflow")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="images per rank  [the published one]")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="how often each cell is run  [3]")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="counted steps per round  [10]")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="time the blocks of one launch may take  [60]")] = None,
    preset: Annotated[str | None, typer.Option(help="a grid that comes with iobench: two-cores")] = None,
    hosts: Hosts = None,
    hostfile: HostFile = None,
    ssh: Ssh = "ssh",
    resume: Annotated[bool, typer.Option("--resume", help="go on with the grid in --out")] = False,
    transform: Transform = None,
    engine: EngineFlag = None,
    local: LocalFolder = None,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Run a grid of nodes x accelerators x sources: how a job scales, and which cell is limited first."""
    from ..configs import load as load_config
    from ..results.privacy import public_path
    from ..training_bench.scaling.grid import ScaleConfig, check_grid, run_grid
    from ..training_bench.scaling.journal import GridJournal
    from ..training_bench.scaling.points import grid_outcome

    if resume and out is None:
        raise typer.BadParameter("--resume goes on with the grid in --out FOLDER; name the folder")
    flags = {
        "workload": workload,
        "nodes": numbers("--nodes", nodes),
        "gpus": numbers("--gpus", gpus),
        "sources": None if sources is None else [word.strip() for word in sources.split(",")],
        "accelerator": accelerator,
        "model": model,
        "batch_size": batch_size,
        "repeats": repeats,
        "steps": steps,
        "seconds": seconds,
        "engine": engine,
        "transform": transform,
    }
    settings = load_config(ScaleConfig, preset=preset, folder="grids", file=config, sets=set_ or (), flags=flags)
    given = hosts_given(hosts, hostfile)
    check_grid(path, settings, given)
    journal = Journal("scale", path, out, json=json)
    begun = {
        "path": public_path(str(path.resolve())),
        "hosts": [host.name for host in given],
        **settings.model_dump(mode="json"),
    }
    cells = GridJournal(journal.folder, begun, resume=resume)
    place, words = local_folder(local), shlex.split(ssh)
    try:
        with Screen() as screen:
            grid = run_grid(path, settings, cells, local=place, show=screen.show, hosts=given, ssh=words)
    except KeyboardInterrupt:
        say(f"{len(cells.trials)} trials are kept; go on: the same command with --out {journal.folder} --resume")
        raise
    outcome = grid_outcome(grid)
    show_grid(outcome.points)
    journal.finish_with(outcome)


def numbers(name: str, text: str | None) -> list[int] | None:
    """`1,2,4` as numbers; anything else is wrong usage."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,5}", word) for word in words):
        raise typer.BadParameter(f"{name} {text}: give numbers with commas between them, as 1,2,4")
    return [int(word) for word in words]


def show_grid(points: Sequence[Point]) -> None:
    """One row a cell: what it reached, of what line, and what was predicted of it."""
    first = points[0].params
    kind = " (emulated)" if first["emulated"] else ""
    nodes = ", nodes simulated" if any(point.params["nodes_simulated"] for point in points) else ""
    table(
        ("nodes", "gpus", "source", "images/s", "of linear", "of synthetic", "stall", "GB/s", "predicted", "error", ""),
        [_row(point) for point in points],
        keys=3,
        title=f"Grid, {first['workload']} on {first['accelerator']}{kind}{nodes} "
        f"(mean and 95 % interval over repetitions)",
    )


def _row(point: Point) -> tuple[str, ...]:
    from ..results.wording import flag_text

    metrics = point.metrics
    return (
        str(point.params["nodes"]),
        str(point.params["gpus_per_node"]),
        str(point.params["source"]),
        figure(metrics["images_per_s"], digits=0),
        figure(metrics["scaling_efficiency"], digits=3),
        figure(metrics["of_synthetic"], digits=3),
        figure(metrics["data_stall_fraction"], digits=3),
        figure(metrics["read_gbps"], digits=3),
        _range(metrics["images_per_s_predicted"]),
        "-" if (error := metrics["prediction_error"].value) is None else f"{error:+.1%}",
        flag_text(point.flags),
    )


def _range(predicted: Metric) -> str:
    if predicted.value is None:
        return "-"
    if predicted.ci95 is None:
        return f"{predicted.value:,.0f}"
    return f"{predicted.ci95[0]:,.0f} to {predicted.ci95[1]:,.0f}"
