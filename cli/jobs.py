"""The command that runs ranks on batches of one source: train."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import Screen
from .journal import Journal, require_writable
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
    Trace,
    Transform,
    app,
    hosts_given,
    local_folder,
)


@app.command()
def train(
    path: DataPath,
    np: Annotated[int | None, typer.Option("--np", min=1, max=256, help="ranks  [1, or all slots of --hosts]")] = None,
    accelerator: Annotated[
        str, typer.Option(help="h100, a100 or seconds per step (emulated); cpu, cuda (real)")
    ] = "h100",
    model: Annotated[str, typer.Option(help="whose step times, or on cpu and cuda what is trained")] = "resnet50",
    batch_size: Annotated[int | None, typer.Option(min=1, help="images per rank  [the published one]")] = None,
    steps: Annotated[
        int | None, typer.Option(min=2, help="counted steps per round  [10; to find: as time allows]")
    ] = None,
    source: Annotated[str, typer.Option(help="direct, staged or synthetic")] = "direct",
    local: LocalFolder = None,
    engine: EngineFlag = None,
    transform: Transform = None,
    hosts: Hosts = None,
    hostfile: HostFile = None,
    ssh: Ssh = "ssh",
    find_max: Annotated[bool, typer.Option("--find-max", help="find how many of --np ranks are fed")] = False,
    au_threshold: Annotated[
        float | None, typer.Option(min=0.01, max=0.99, help="the AU that counts as fed  [the model's]")
    ] = None,
    roofline: Annotated[bool, typer.Option("--roofline", help="which part of the machine is the limit")] = False,
    hops: Annotated[bool, typer.Option("--hops", help="what each hop from memory to storage adds to a step")] = False,
    seconds: Annotated[float | None, typer.Option(min=1, help="time the rounds may take  [60; cpu, cuda: 300]")] = None,
    precision: Annotated[str | None, typer.Option(help="cpu, cuda: fp32, bf16 or fp16  [fp32]")] = None,
    scaling: Annotated[str | None, typer.Option(help="cpu, cuda: batch size of a rank (weak) or all (strong)")] = None,
    validate: Annotated[Path | None, typer.Option(help="cpu, cuda: data to validate on at the end")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="cpu, cuda: folder of checkpoints")] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(min=1, help="steps between them  [one at the end]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint")] = False,
    trace: Trace = None,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Run ranks that compute on batches from one source: emulated beside a synthetic control, or a real training."""
    from ..configs import load as load_config
    from ..storage_bench.emulate import WORKLOADS
    from ..training_bench.command import run_train
    from ..training_bench.places import Places
    from ..training_bench.real.asked import refuse_torchrun
    from ..training_bench.roofs import with_roofline
    from ..training_bench.tracing import trace_of_ranks
    from ..training_bench.train_run import TrainConfig

    refuse_torchrun()
    require_writable(trace)
    given = hosts_given(hosts, hostfile)
    places = Places(given, tuple(shlex.split(ssh)))
    if roofline and given:
        raise typer.BadParameter("--roofline measures the roofs of this host; leave --hosts out")
    num_ranks = np or sum(host.slots for host in given) or 1
    if accelerator in ("cpu", "cuda"):
        if find_max or au_threshold or (seconds and not hops):
            raise typer.BadParameter(
                "--find-max, --au-threshold, and without --hops --seconds, are of emulated accelerators; "
                "give --steps to a real training"
            )
        if hops and trace:
            raise typer.BadParameter("--trace shows a training from its first step; leave --hops out")
        if hops and (validate or checkpoint or checkpoint_steps or resume):
            raise typer.BadParameter(
                "--hops trains in blocks on every source, and what it learns is no training's: leave --validate, "
                "--checkpoint and --resume out"
            )
        _train_really(
            Journal("train", path, out, json=json),
            {"precision": precision, "checkpoint_steps": checkpoint_steps, "transform": transform},
            config,
            set_,
            path=path,
            model=model,
            device=accelerator,
            num_ranks=num_ranks,
            places=places,
            steps=steps or (10 if hops else 100),
            batch_size=batch_size,
            scaling=scaling or "weak",
            source=source,
            engine=engine or "auto",
            local=local_folder(local),
            validate_on=validate,
            checkpoint=checkpoint,
            resume=resume,
            roofline=roofline,
            hops_s=(seconds or 300.0) if hops else None,
            trace=trace,
        )
        return
    if precision or scaling or validate or checkpoint or checkpoint_steps or resume:
        raise typer.BadParameter(
            "--precision, --scaling, --validate, --checkpoint, --checkpoint-steps and --resume are of real training: "
            "--accelerator cpu or cuda"
        )
    if model not in WORKLOADS:
        raise typer.BadParameter(f"--model {model}: choose {', '.join(WORKLOADS)}")
    settings = load_config(TrainConfig, file=config, sets=set_ or (), flags={"transform": transform})
    journal = Journal("train", path, out, json=json)
    with Screen() as screen:
        outcome = run_train(
            path,
            settings,
            num_ranks=num_ranks,
            places=places,
            accelerator=accelerator,
            batch_size=batch_size,
            steps=steps,
            source=source,
            engine=engine or "auto",
            local=local_folder(local),
            seconds=seconds or 60.0,
            show=screen.show,
            find_max=(au_threshold or WORKLOADS[model].au_threshold) if find_max else None,
            hops=hops,
            model=model,
            traced=trace is not None,
        )
        workload = {**settings.model_dump(mode="json"), **outcome.workload}
        if roofline:
            outcome = with_roofline(outcome, path, workload, show=screen.show)
    journal.finish_with(
        outcome,
        workload=workload,
        trace=(trace, lambda: trace_of_ranks(outcome.logs, outcome.block_labels)) if trace else None,
    )


def _train_really(
    journal: Journal,
    flags: dict[str, Any],
    config: Path | None,
    sets: list[str] | None,
    *,
    roofline: bool = False,
    hops_s: float | None = None,
    trace: Path | None = None,
    **asked: Any,
) -> None:
    """A real training; with `hops_s` seconds for its hops, in blocks on every source."""
    from ..configs import load as load_config
    from ..training_bench.real.asked import RealRun
    from ..training_bench.real.hop_run import run_real_hops
    from ..training_bench.real.plan import RealConfig
    from ..training_bench.real.run import run_real
    from ..training_bench.roofs import with_roofline
    from ..training_bench.tracing import trace_of_training

    settings = load_config(RealConfig, file=config, sets=sets or (), flags=flags)
    with Screen() as screen:
        run = RealRun(config=settings, traced=trace is not None, **asked)
        if hops_s is None:
            outcome = run_real(run, show=screen.show)
        else:
            outcome = run_real_hops(run, seconds=hops_s, show=screen.show)
        if roofline:
            outcome = with_roofline(outcome, asked["path"], outcome.workload, show=screen.show)
    journal.finish_with(outcome, trace=(trace, lambda: trace_of_training(outcome.logs)) if trace else None)
