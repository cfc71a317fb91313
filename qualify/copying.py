"""The local copy: made, timed, and weighed against reading in place."""

from __future__ import annotations

from ..results.break_even import CopyChoice, choose_copy
from ..results.privacy import public_path
from ..results.quantities import counted
from ..results.record import Point, new_run_id
from ..storage_bench.staging import StageResult, on_same_device, remove_stage, room_for, stage, stage_point
from ..storage_bench.workload import data_files
from ..training_bench.summary import find_point
from .ranks import required_ranks
from .run import Run

COPY_SHARE = 0.25


def make_copy(run: Run) -> tuple[StageResult | None, CopyChoice | None]:
    """The timed copy, or the outcome that makes one pointless."""
    if on_same_device(run.path, run.local):
        text = (
            f"A local copy in {public_path(run.local)} would lie on the same device as the data; name another --local."
        )
        return None, CopyChoice("same device: not applicable", text, None)
    where, sample = public_path(run.local), min(run.total_bytes, run.config.disk_bytes)
    if reason := room_for(max(run.real_bytes, sample), run.local):
        return None, CopyChoice("does not fit", f"{where}: {reason}", None)
    smallest = data_files(run.path)[0].size_bytes  # copies are of whole shards, from the first one on
    if smallest > sample:
        text = f"{where}: one shard takes {smallest / 1e9:.2f} GB, more than disk_bytes = {sample / 1e9:.2f} GB allow"
        return None, CopyChoice("does not fit", text, None)
    limit = min(sample, max(smallest, _affordable_bytes(run)))
    target = run.local / f"staged-{new_run_id('stage')}"
    try:
        with run.measuring():
            result = stage(
                run.path,
                target,
                streams=run.config.copy_.streams,
                limit_bytes=limit,
                progress=lambda phase, done, total: run.show(phase, done / total, f"{done / 1e9:.2f} GB"),
            )
    except BaseException:  # half a copy in a folder of its own is of no use to the next run
        remove_stage(target)
        raise
    run.measured_bytes += result.copied_bytes
    run.points.append(stage_point(result))
    if result.evidence is not None and (doubt := result.evidence.invalid_reason()):
        run.copy_invalid = f"the time of copying: {doubt}"
    return result, None


def _affordable_bytes(run: Run) -> int:
    """What can be copied, and read back, in its share of the time at the storage's rate."""
    rates = [point.metrics["read_gbps"].value or 0.0 for point in run.points if point.params["stage"] == "storage"]
    return round(max(rates, default=0.0) * 1e9 * run.share_s(COPY_SHARE) / 2)


def decide_copy(run: Run, staged: StageResult | None, refused: CopyChoice | None) -> CopyChoice:
    """Whether a copy pays, from epochs at the rates that the required number of ranks had."""
    if refused is not None or staged is None:
        return refused or CopyChoice("not distinguishable", "No copy was made.", None)
    asked = required_ranks(run)
    if run.copy_invalid or staged.copy_gbps is None:
        return CopyChoice("not distinguishable", f"The copy was not measured: {run.copy_invalid or 'no bytes'}", None)
    images = run.real_bytes / run.record_bytes
    first = {source: _epoch_s(images, find_point(run.points, source, asked)) for source in ("direct", "staged")}
    direct, copied = first["direct"], first["staged"]
    if direct is None or copied is None:
        text = (
            f"Too few steps were made by {counted(asked, 'rank')} within the time allowed to compare the two sources."
        )
        return CopyChoice("not distinguishable", text, None)
    later = direct, copied
    if run.cache_holds:
        cached = _cached_epoch_s(run, images, asked)
        if cached is None:
            text = "Later epochs would come from the page cache, whose rate was not measured."
            return CopyChoice("not distinguishable", text, None)
        later = cached, cached
    return choose_copy(
        copy_s=run.real_bytes / 1e9 / staged.copy_gbps,
        direct_first_s=direct,
        direct_later_s=later[0],
        staged_first_s=copied,
        staged_later_s=later[1],
        epochs=run.config.copy_.epochs,
    )


def _epoch_s(images: float, point: Point | None) -> tuple[float, float, float] | None:
    """Seconds of an epoch at a point's rate, with its interval; None where there is none that means something."""
    rate = None if point is None or "insufficient" in point.flags else point.metrics["images_per_s"]
    if rate is None or not rate.value or rate.ci95 is None or rate.ci95[0] <= 0:
        return None
    low, high = rate.ci95
    return images / rate.value, images / high, images / low


def _cached_epoch_s(run: Run, images: float, num_ranks: int) -> tuple[float, float, float] | None:
    """Seconds of an epoch from the page cache: as fast as the loader reads, or as the accelerators compute.

    It costs the same whichever way the first epoch was read, so that its uncertainty cancels and is left out.
    """
    control = find_point(run.points, "synthetic", num_ranks)
    if run.warm_rate is None or not run.warm_rate.value or control is None:
        return None
    computed = control.metrics["images_per_s"].value
    if not computed:
        return None
    seconds = images / min(run.warm_rate.value * num_ranks, computed)
    return seconds, seconds, seconds
