"""Commands that measure storage and what reads it: storage, load."""

from __future__ import annotations

import shlex
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import Screen
from .folders import measure_checkpoints, measure_names
from .journal import Journal, require_writable
from .options import (
    ENVIRONMENT,
    ConfigFile,
    DataPath,
    DataSource,
    Dtype,
    EngineFlag,
    HostFile,
    Hosts,
    ImageField,
    Json,
    LabelField,
    Out,
    Sets,
    Shape,
    Ssh,
    Trace,
    app,
    data_source,
    hosts_given,
)


@app.command()
def storage(
    path: DataPath,
    engine: EngineFlag = None,
    access: Annotated[str | None, typer.Option(help="sequential, random or shard-replay")] = None,
    operation: Annotated[
        str | None, typer.Option(help="read, write or read,write; writes go to files of their own")
    ] = None,
    destination: Annotated[str | None, typer.Option(help="where reads end: host, gpu, or host,gpu")] = None,
    block_size: Annotated[str | None, typer.Option(help="4K..64M; several with commas")] = None,
    queue_depth: Annotated[str | None, typer.Option(help="reads in flight per thread; several with commas")] = None,
    threads: Annotated[str | None, typer.Option(help="streams at once; several with commas")] = None,
    page_cache: Annotated[str | None, typer.Option(help="cold, warm or cold,warm")] = None,
    seconds: Annotated[float | None, typer.Option(help="seconds of one time block")] = None,
    blocks: Annotated[int | None, typer.Option(help="time blocks of each point")] = None,
    adaptive: Annotated[
        bool | None, typer.Option("--adaptive", help="find the smallest load within 3 % of the peak")
    ] = None,
    np: Annotated[int | None, typer.Option("--np", min=1, max=256, help="clients at once")] = None,
    hosts: Hosts = None,
    hostfile: HostFile = None,
    ssh: Ssh = "ssh",
    metadata: Annotated[
        bool, typer.Option("--metadata", help="rates of names instead: create, stat, list ...")
    ] = False,
    files: Annotated[int | None, typer.Option(help="files in the folder, with --metadata  [10000]")] = None,
    checkpoint: Annotated[str | None, typer.Option(metavar="SIZE", help="write and restore SIZE bytes instead")] = None,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Storage rate at every combination of the given lists, interleaved, with counters on each point."""
    from ..configs import load as load_config
    from ..storage_bench.sweep.command import measure_storage
    from ..storage_bench.workload import StorageConfig

    flags = {
        "engine": engine,
        "access": access,
        "operation": operation,
        "destination": destination,
        "block_size": block_size,
        "queue_depth": queue_depth,
        "threads": threads,
        "page_cache": page_cache,
        "seconds": seconds,
        "blocks": blocks,
        "adaptive": adaptive,
        "clients": np,
        "files": files,
        "checkpoint": checkpoint,
    }
    if metadata or checkpoint is not None:
        if metadata and checkpoint is not None:
            raise typer.BadParameter("--metadata and --checkpoint are two runs; give one of them")
        if hosts or hostfile:
            raise typer.BadParameter("--metadata and --checkpoint measure this host; leave --hosts and --hostfile out")
        measure = measure_names if metadata else measure_checkpoints
        measure(path, flags, config, set_ or (), out, json=json)
        return
    settings = load_config(StorageConfig, file=config, sets=set_ or (), flags=flags)
    given = hosts_given(hosts, hostfile)
    journal = Journal("storage", path, out, json=json)
    with Screen() as screen:
        outcome = measure_storage(
            path, settings, show=screen.show, hosts=given, ssh=shlex.split(ssh), keep=journal.keep_with
        )
    with suppress(typer.Exit) if outcome.failed else nullcontext():  # a point that failed weighs more than doubts
        journal.finish_with(outcome)
    if outcome.failed:
        raise typer.Exit(ENVIRONMENT)


@app.command()
def load(
    source: DataSource,
    engine: EngineFlag = None,
    destination: Annotated[str | None, typer.Option(help="where batches go: host or gpu  [host]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images in a batch")] = None,
    shuffle: Annotated[str | None, typer.Option(help="off, shards, blocks or records")] = None,
    num_workers: Annotated[int | None, typer.Option(help="reader threads; chosen by a probe if not given")] = None,
    page_cache: Annotated[str | None, typer.Option(help="cold or warm")] = None,
    seconds: Annotated[float | None, typer.Option(help="seconds of one time block")] = None,
    peers: Annotated[str | None, typer.Option(help="beside ours, interleaved: preadv, torch, tfrecord, dali")] = None,
    decoder: Annotated[
        str | None, typer.Option(help="auto, libjpeg-turbo, simplejpeg, nvimgcodec, dali; none: bytes")
    ] = None,
    transform: Annotated[str | None, typer.Option(help="of encoded images: train, validation or none")] = None,
    shape: Shape = None,
    dtype: Dtype = None,
    image_field: ImageField = None,
    label_field: LabelField = None,
    trace: Trace = None,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """What the loader delivers by itself: images/s, GB/s and CPU seconds per GB; with --peers beside other loaders."""
    from ..configs import load as load_config
    from ..loaders.traced import Recorder
    from ..storage_bench.load import measure_load
    from ..storage_bench.load_setup import LoadConfig
    from ..storage_bench.load_telling import outcome_of
    from ..storage_bench.tracing import trace_of_load

    flags = {
        "engine": engine,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "num_workers": num_workers,
        "page_cache": page_cache,
        "seconds": seconds,
    }
    samples = {"shape": shape, "dtype": dtype, "image_field": image_field, "label_field": label_field}
    samples |= {"decoder": decoder, "transform": transform, "destination": destination}
    path = data_source(source)
    if peers is not None:
        _refuse_for_peers(path, {name: value for name, value in samples.items() if name != "transform"})
        flags |= {"peers": peers, "transform": transform}
        _load_beside(Path(source), flags, config, set_, out, json=json, trace=trace)
        return
    settings = load_config(LoadConfig, file=config, sets=set_ or (), flags={**flags, **samples})
    require_writable(trace)
    recorder = None if trace is None else Recorder()
    journal = Journal("load", path, out, json=json)
    with Screen() as screen:
        result = measure_load(
            path,
            settings,
            on_block=lambda done, total, rate: screen.show("load", done / total, f"{rate:.0f} images/s"),
            on_prepare=lambda part, done, total: screen.show(part, done / total, f"{done} of {total}"),
            recorder=recorder,
            keep=lambda result: journal.keep_with(outcome_of(result, settings)),
        )
    journal.finish_with(
        outcome_of(result, settings),
        trace=(trace, lambda: trace_of_load(recorder)) if trace and recorder else None,
    )


def _refuse_for_peers(path: Path | str, samples: dict[str, str | None]) -> None:
    """Other loaders read files, and raw images of uint8 or JPEGs as TensorFlow's scripts write them."""
    if isinstance(path, str):
        raise typer.BadParameter("--peers compares loaders on files; give a folder, or leave --peers out")
    if given := [f"--{name.replace('_', '-')}" for name, value in samples.items() if value is not None]:
        raise typer.BadParameter(f"{', '.join(given)}: not with --peers, whose loaders cannot be told it; leave it out")


def _load_beside(
    path: Path,
    flags: dict[str, Any],
    config: Path | None,
    sets: list[str] | None,
    out: Path | None,
    *,
    json: bool,
    trace: Path | None,
) -> None:
    from ..configs import load as load_config
    from ..storage_bench.load_telling import outcome_of_peers
    from ..storage_bench.peers import PeersConfig, compare_peers
    from ..storage_bench.tracing import trace_of_roads

    settings = load_config(PeersConfig, file=config, sets=sets or (), flags=flags)
    require_writable(trace)
    journal = Journal("load", path, out, json=json)
    with Screen() as screen:
        result = compare_peers(
            path,
            settings,
            on_block=lambda done, total, road, rate: screen.show("peers", done / total, f"{road}: {rate:.0f} images/s"),
            traced=trace is not None,
            keep=lambda result: journal.keep_with(outcome_of_peers(result, settings)),
        )
    journal.finish_with(
        outcome_of_peers(result, settings),
        trace=(trace, lambda: trace_of_roads(result.noted)) if trace else None,
    )
