"""The main job, on one page: does this storage feed the accelerators, and would a local copy do better?

    data -> storage rate -> loader -> local copy -> ranks -> fed: predicted, measured -> copy or not -> verdict

Each part is a bench of its own; here they are put in a row, given their share of the time, and judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..results.privacy import public_path
from ..results.quantities import counted
from ..results.record import RunRecord, utc_now
from ..storage_bench.accelerators import resolve_accelerator
from ..storage_bench.launching.launch import require_ranks
from ..storage_bench.staging import on_same_device, remove_stage, require_folder
from .copying import decide_copy, make_copy
from .data import ensure_data, open_data
from .presets import requirement_text
from .ranks import needed_seconds, required_ranks, run_ranks
from .record import make_record, unfinished_record
from .run import Run, Show
from .settings import QualifyConfig
from .storage import measure_loader, predict
from .sustain import sustain

RESERVE, MOST_RESERVED = 1.5, 0.6  # times the least time of the required ranks; of the time allowed


def qualify(
    path: Path,
    config: QualifyConfig,
    *,
    local: Path,
    preset: str | None,
    command: Sequence[str],
    show: Show,
    keep: Callable[[RunRecord], None],
) -> RunRecord:
    """Run the whole job on the data in `path` (generated first where it is empty) and return its record.

    Raises the error of the part that failed, which names its way out, or KeyboardInterrupt.  What was measured until
    then is given to `keep`, as a record without a verdict.
    """
    started = utc_now()
    require_ranks(2)
    accelerator = resolve_accelerator(config.accelerator, batch_size=config.batch_size, model=config.model)
    run = Run(path, local, config, accelerator, show)
    ensure_data(run)
    open_data(run)
    if not on_same_device(path, local):
        require_folder(local)
    reserve_time(run)
    show("plan", 1.0, announce(run))
    try:
        return _measure(run, preset=preset, command=command, started=started)
    except (KeyboardInterrupt, OSError, ValueError, RuntimeError) as error:
        if run.points:
            keep(unfinished_record(run, error, preset=preset, command=command, started=started))
        raise


def _measure(run: Run, *, preset: str | None, command: Sequence[str], started: str) -> RunRecord:
    predicted = predict(run)
    measure_loader(run)
    staged, refused = make_copy(run)
    try:
        measured = run_ranks(run, predicted, staged)
        choice = decide_copy(run, staged, refused)
    finally:
        if staged is not None:
            remove_stage(staged.target)
    lasting = sustain(run)
    if measured.contradicts(predicted):
        run.warnings.append(f"predicted {predicted.value} accelerators fed, measured {measured.value}")
    return make_record(run, predicted, measured, choice, lasting, preset=preset, command=command, started=started)


def reserve_time(run: Run) -> None:
    """Keep the time that the required number of ranks takes, and say where there is hardly any other."""
    needed = needed_seconds(run)
    run.reserved_s = RESERVE * needed
    if run.reserved_s > MOST_RESERVED * run.config.measure_seconds:
        run.reserved_s = MOST_RESERVED * run.config.measure_seconds
        run.warnings.append(
            f"{run.config.measure_seconds:g} s of measuring are short for {counted(required_ranks(run), 'rank')}, "
            f"whose steps alone take {needed:.0f} s; allow --measure-seconds {RESERVE * needed / MOST_RESERVED:.0f}"
        )


def announce(run: Run) -> str:
    """What the job will take, told before it begins."""
    where, disk = public_path(run.local), min(run.total_bytes, run.config.disk_bytes)
    copied = f"{disk / 1e9:.2f} GB for a local copy in {where}"
    if on_same_device(run.path, run.local):
        copied = f"no local copy, {where} is on the device of the data"
    plan = (
        f"requirement: {requirement_text(run.config, record_bytes=run.record_bytes)}\n"
        f"at most {run.config.total_seconds:.0f} s of measuring on {counted(run.num_images, 'image')} "
        f"({run.total_bytes / 1e9:.2f} GB) with {run.engine} reads ({run.engine_reason}); up to "
        f"{counted(run.max_ranks, 'rank')}; {copied}"
    )
    notes = [*(f"scaled: {text}" for text in run.scaled), *(f"warning: {text}" for text in run.warnings)]
    return "\n".join([plan, *notes])
