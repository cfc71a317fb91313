"""Validation inference: `iobench infer`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..terminal import Screen, figure, table
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
from .scale import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..results.record import Metric, Point


SPELLED = {  # options whose names are not their keys'
    "num_ranks": "--np",
    "models": "--model",
    "batch_sizes": "--batch-size",
    "warmup_batches": "--warmup",
    "prefetch_threads": "--threads",
    "latency_bound_s": "--latency-bound",
}
MORE = {"rate_within_bound_images_per_s": "within bound", "top1_agreement": "as fp32"}  # columns of what was asked for


@app.command()
def infer(
    path: DataPath,
    np: Annotated[int | None, typer.Option("--np", min=1, max=256, help="ranks  [1]")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME,...", help="networks  [resnet50]")] = None,
    accelerator: Annotated[
        str | None, typer.Option(help="h100, a100 or seconds per batch (emulated); cpu, cuda (measured)  [h100]")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="cpu, cuda: fp32, bf16 or fp16  [fp32]")] = None,
    weights: Annotated[Path | None, typer.Option(help="cpu, cuda: checkpoint of iobench train  [random]")] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="N,...", help="images a batch, to sweep  [128]")] = None,
    sources: Annotated[str | None, typer.Option(metavar="NAME,...", help="direct, staged, synthetic  [direct]")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="batches of warm-up in each block  [10]")] = None,
    batches: Annotated[int | None, typer.Option(min=1, help="batches that count, of each source  [400]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=64, help="threads that read ahead  [13]")] = None,
    queue_depth: Annotated[int | None, typer.Option(min=1, help="batches read ahead, as memory allows  [32]")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="interleaved rounds  [4]")] = None,
    hosts: Hosts = None,
    hostfile: HostFile = None,
    ssh: Ssh = "ssh",
    roofline: Annotated[bool, typer.Option("--roofline", help="which part of the machine is the limit")] = False,
    latency_bound: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="find the highest rate of arrivals with p99 under this")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="time the rounds of a network may take  [600]")] = None,
    preset: Annotated[str | None, typer.Option(help="hpe-validation, or five-models on two cores")] = None,
    transform: Transform = None,
    engine: EngineFlag = None,
    local: LocalFolder = None,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Answer batches as in large-batch validation: throughput, latency, data wait, and how full the queue is."""
    from ..configs import load as load_config
    from ..training_bench.infer.plan import InferConfig
    from ..training_bench.infer.roofs import with_infer_roofline
    from ..training_bench.infer.run import checkpoint_of, run_infer
    from ..training_bench.infer.setup import InferRun
    from ..training_bench.places import Places
    from ..training_bench.real.asked import refuse_torchrun

    refuse_torchrun()
    given = hosts_given(hosts, hostfile)
    if roofline and given:
        raise typer.BadParameter("--roofline measures the roofs of this host; leave --hosts out")
    flags = {
        "num_ranks": np or sum(host.slots for host in given) or None,
        "models": _words(model),
        "accelerator": accelerator,
        "precision": precision,
        "batch_sizes": numbers("--batch-size", batch_size),
        "sources": _words(sources),
        "warmup_batches": warmup,
        "batches": batches,
        "prefetch_threads": threads,
        "queue_depth": queue_depth,
        "rounds": rounds,
        "latency_bound_s": latency_bound,
        "seconds": seconds,
        "engine": engine,
        "transform": transform,
    }
    settings = load_config(
        InferConfig,
        preset=preset,
        folder="validations",
        file=config,
        sets=set_ or (),
        flags=flags,
        spelled=SPELLED,
    )
    journal = Journal("infer", path, out, json=json)
    run = InferRun(
        path=path,
        config=settings,
        local=local_folder(local),
        weights=None if weights is None else checkpoint_of(weights),
        places=Places(given, tuple(shlex.split(ssh))),
    )
    with Screen() as screen:
        outcome = run_infer(run, show=screen.show)
        if roofline:
            outcome = with_infer_roofline(outcome, run, show=screen.show)
    show_inference([point for point in outcome.points if point.params["stage"] == "infer"])
    journal.finish_with(outcome)


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",")]


def show_inference(points: Sequence[Point]) -> None:
    """One row for each network, batch size and source."""
    first = points[0].params
    kind = " (emulated)" if first["emulated"] else ""
    scaled = ", step time scaled per image" if any(point.params["scaled"] for point in points) else ""
    more = [name for name in MORE if any(_known(point, name) for point in points)]
    times = ("wait ms", "stall", "p50 ms", "p99 ms", "max ms")
    table(
        ("model", "batch", "source", "images/s", *times, "queue", "empty", *(MORE[name] for name in more), ""),
        [_row(point, more) for point in points],
        title=f"Inference, {first['num_ranks']} x {first['accelerator']}{kind}{scaled} "
        f"(mean and 95 % interval over time blocks)",
    )


def _row(point: Point, more: Sequence[str]) -> tuple[str, ...]:
    from ..results.wording import flag_text

    metrics = point.metrics
    return (
        str(point.params["model"]),
        str(point.params["batch_size"]),
        str(point.params["source"]),
        figure(metrics["images_per_s"], digits=1),
        _milliseconds(metrics["data_wait_s"]),
        figure(metrics["data_stall_fraction"], digits=3),
        _milliseconds(metrics["latency_p50_s"]),
        _milliseconds(metrics["latency_p99_s"]),
        _milliseconds(metrics["latency_max_s"]),
        figure(metrics["queue_batches"], digits=1),
        figure(metrics["queue_empty_fraction"], digits=2),
        *(figure(metrics.get(name), digits=3) for name in more),
        flag_text(point.flags),
    )


def _known(point: Point, name: str) -> bool:
    return name in point.metrics and point.metrics[name].value is not None


def _milliseconds(metric: Metric) -> str:
    return "-" if metric.value is None else f"{metric.value * 1e3:.1f}"
