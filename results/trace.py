"""What ran when, as a trace that ui.perfetto.dev and chrome://tracing open: the JSON object form of trace events.

    Process (a rank, or the command)  pid  -> one "process_name" event
      Track (a thread, or a loop)     tid  -> one "thread_name" event, and one "X" event (complete: ts and dur) a Span

Times are microseconds since the earliest span; all of a file have to be of one clock.
Format: Trace Event Format, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of time on a track, in ns of any one clock; of two spans of a track one is over, or lies inside."""

    name: str
    start_ns: int
    end_ns: int
    args: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Track:
    """What one thread or one loop did."""

    name: str
    spans: Sequence[Span]


@dataclass(frozen=True, slots=True)
class Process:
    """What one process did."""

    pid: int
    name: str
    tracks: Sequence[Track]


def trace_text(processes: Sequence[Process], *, dropped: int = 0) -> str:
    """The trace as JSON, an event a line; `dropped` spans were not kept, which the trace says."""
    starts = [span.start_ns for process in processes for track in process.tracks for span in track.spans]
    origin = min(starts, default=0)
    events = [json.dumps(event) for process in processes for event in _events(process, origin)]
    other = json.dumps({"made_by": "iobench", "dropped_spans": str(dropped)})
    body = ",\n".join(events)
    return f'{{"displayTimeUnit": "ms", "otherData": {other}, "traceEvents": [\n{body}\n]}}\n'


def _events(process: Process, origin: int) -> Iterator[dict[str, object]]:
    yield _named("process_name", process.pid, 0, process.name)
    for tid, track in enumerate(process.tracks, 1):
        yield _named("thread_name", process.pid, tid, track.name)
        yield {"name": "thread_sort_index", "ph": "M", "pid": process.pid, "tid": tid, "args": {"sort_index": tid}}
        for span in sorted(track.spans, key=lambda span: (span.start_ns, -span.end_ns)):
            event: dict[str, object] = {
                "name": span.name,
                "cat": "iobench",
                "ph": "X",
                "ts": (span.start_ns - origin) / 1000,
                "dur": (span.end_ns - span.start_ns) / 1000,
                "pid": process.pid,
                "tid": tid,
            }
            yield {**event, "args": dict(span.args)} if span.args else event


def _named(kind: str, pid: int, tid: int, name: str) -> dict[str, object]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
