"""What every rank did when, as a trace: its steps, of the marks that it logs anyway, and what its reader threads did.

process  rank 0 on node1, pid 4711
  track  |------------------------- direct, 2 ranks, round 0 ---------------------------|
         |---- step 0 ----------------------------------||---- step 1 ---- ...
         |- data wait -||--- compute ---||- sync wait -|
  track  iobench-reader-0   |- read -|- read -| ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..loaders.traced import Recorder
from ..results.trace import Process, Row, Span, Track, trace_text, tracks_of

MAX_STEPS = 20_000  # of all ranks: five spans each
PARTS = ("data wait", "compute", "sync wait", "optimiser")  # emulated accelerators have no optimiser


def trace_of_ranks(results: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    """The trace of a launch as JSON: `results` as the ranks gave them, `labels` what each of the plan's blocks is.

    Hosts have clocks of their own: each begins with its own first step.  Of long runs every rank's first blocks are
    kept, and what was not is counted.
    """
    room = MAX_STEPS // max(1, len(results))
    pids = Counter(result["pid"] for result in results)
    begun = _begun(results)
    processes = []
    for result in results:
        spans: list[Span] = []
        left, dropped = room, 0
        for log in result["blocks"]:
            steps = [[mark - begun[result["host"]] for mark in marks] for marks in log["steps_ns"]]
            if len(steps) <= left:
                left -= len(steps)
                spans += _of_block(f"{labels[log['block']]}, round {log['round']}", steps)
            else:
                left, dropped = 0, dropped + len(steps) * len(log["steps_ns"][0]) + 1
        stream = [Track("compute stream", found)] if (found := _of_stream(result, room, begun[result["host"]])) else []
        tracks = [Track("steps", spans), *stream, *tracks_of(_from(begun[result["host"]], result.get("spans", ())))]
        unique = result["pid"] if pids[result["pid"]] == 1 else result["rank"] + 1
        dropped += result.get("spans_dropped", 0)
        processes.append(Process(unique, f"rank {result['rank']} on {result['host']}", tracks, dropped=dropped))
    costs = [result["note_ns"] for result in results if "note_ns" in result]
    return trace_text(processes, note_ns=max(costs, default=None))


def trace_of_training(results: Sequence[Mapping[str, Any]]) -> str:
    """The trace of a real training; on CUDA with a track for each rank's compute stream.

    The stream has a clock of its own, which is taken to have begun with the host's first mark.
    """
    logs = [{"block": 0, "round": 0, "steps_ns": result["steps_ns"]} for result in results]
    told = [{**result, "blocks": [log]} for result, log in zip(results, logs, strict=True)]
    return trace_of_ranks(told, ["training"])


def _of_stream(result: Mapping[str, Any], room: int, begun: int) -> list[Span]:
    """What the compute stream did, as `_of_block`; nothing where there is none, or more than there is room for."""
    rows: Sequence[Sequence[int]] = result.get("stream_ns") or ()
    if not rows or len(rows) > room:
        return []
    first = result["blocks"][0]["steps_ns"][0][0] - begun
    return list(_of_block("training", [[first + mark for mark in marks] for marks in rows]))


def recorded(recorder: Recorder | None) -> dict[str, Any]:
    """What a rank's result holds of its recorder; nothing without one."""
    if recorder is None:
        return {}
    return {"spans": recorder.spans, "spans_dropped": recorder.dropped, "note_ns": recorder.cost_ns()}


def _from(begun: int, rows: Iterable[Row]) -> Iterator[Row]:
    """Rows by the clock of their host; what was before its first step, as filling memory is, is left out."""
    for thread, what, start_ns, end_ns, num_bytes in rows:
        if start_ns >= begun:
            yield thread, what, start_ns - begun, end_ns - begun, num_bytes


def _begun(results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The first mark of each host."""
    found: dict[str, int] = {}
    for result in results:
        first = min((log["steps_ns"][0][0] for log in result["blocks"] if log["steps_ns"]), default=0)
        found[result["host"]] = min(found.get(result["host"], first), first)
    return found


def _of_block(name: str, steps: Sequence[Sequence[int]]) -> Iterator[Span]:
    """The block, its steps, and the parts of each; a step ends where the next one begins."""
    if not steps:
        return
    ends = [later[0] for _, later in pairwise(steps)] + [steps[-1][-1]]
    yield Span(name, steps[0][0], ends[-1])
    for number, (marks, end) in enumerate(zip(steps, ends, strict=True)):
        yield Span(f"step {number}", marks[0], end)
        for part, (start, stop) in zip(PARTS, pairwise(marks), strict=False):
            yield Span(part, start, stop)
