"""The main job: qualify; and presets, which lists what it can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import Screen, say
from .journal import Journal, command_line, print_json
from .options import (
    DONE,
    ENVIRONMENT,
    INVALID,
    MISSED,
    ConfigFile,
    DataPath,
    EngineFlag,
    Json,
    LocalFolder,
    Out,
    Sets,
    app,
    local_folder,
)


@app.command()
def qualify(
    path: DataPath,
    preset: Annotated[str, typer.Option(help="a preset's name; iobench presets lists them")] = "quick",
    accelerator: Annotated[str | None, typer.Option(help="h100, a100 or seconds per step (all emulated)")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images per rank  [the published one]")] = None,
    required_gpus: Annotated[int | None, typer.Option(help="how many accelerators the storage must feed")] = None,
    max_ranks: Annotated[int | None, typer.Option(help="the most ranks to run on this host")] = None,
    engine: EngineFlag = None,
    measure_seconds: Annotated[float | None, typer.Option(help="measuring time at most")] = None,
    epochs: Annotated[int | None, typer.Option(help="epochs over which a copy may pay back")] = None,
    dataset_bytes: Annotated[str | None, typer.Option(help="size of the real data set, as 150G")] = None,
    local: LocalFolder = None,
    config: ConfigFile = None,
    set_: Sets = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """The main job: one verdict about the storage under PATH, with a record and a report."""
    from ..configs import load as load_config
    from ..qualify import QualifyConfig, add_history
    from ..qualify import qualify as measure

    flags = {
        "accelerator": accelerator,
        "batch_size": batch_size,
        "required_gpus": required_gpus,
        "max_ranks": max_ranks,
        "engine": engine,
        "measure_seconds": measure_seconds,
        "copy.epochs": epochs,
        "copy.dataset_bytes": dataset_bytes,
    }
    settings = load_config(QualifyConfig, preset=preset, file=config, sets=set_ or (), flags=flags)
    _refuse_far_from_anything(path)
    journal = Journal("qualify", path, out, json=json)
    with Screen() as screen:
        record = measure(
            path,
            settings,
            local=local_folder(local),
            preset=preset,
            command=command_line(),
            show=screen.show,
            keep=journal.keep,
        )
    record = add_history(record, journal.runs)
    journal.write(record)
    outcome = record.verdict.outcome if record.verdict else "insufficient"
    raise typer.Exit({"pass": DONE, "fail": MISSED}.get(outcome, INVALID))


def _refuse_far_from_anything(path: Path) -> None:
    """A new folder for data is made, but not the folders above it: they would lie on another disk than was meant."""
    if not path.exists() and not path.absolute().parent.is_dir():
        raise NoSuchPlaceError(
            f"{path}: not there, nor the folder above it; see how it is spelled and whether its file system is mounted,"
            f" or make {path.absolute().parent} first"
        )


class NoSuchPlaceError(OSError):
    """What is to be qualified is nowhere near anything that exists."""

    exit_status = ENVIRONMENT


@app.command()
def presets(json: Json = False) -> None:
    """The presets of `iobench qualify`: how long each takes, and what it requires of a storage."""
    from dataclasses import asdict

    from ..qualify.presets import all_presets

    found = all_presets()
    if json:
        print_json({"presets": [asdict(preset) for preset in found]})
    for preset in found:
        say(f"{preset.name}  (at most {preset.minutes:.0f} min of measuring)")
        say(f"    {preset.requirement}")
        say(f"    {preset.about}")
    say("iobench qualify PATH --preset NAME; every setting can be overridden, as --required-gpus 4 or --set KEY=VALUE")
