"""What ran when, as a trace that ui.perfetto.dev and chrome://tracing open: the JSON object form of trace events.

    Process (a rank, or the command)  pid  -> one "process_name" event
      Track (a thread, or a loop)     tid  -> one "thread_name" event, and one "X" event (complete: ts and dur) a Span

Times are microseconds since the earliest span; all of a file have to be of one clock.  What was not kept is said in the
process's name, where every viewer shows it, and in "otherData".
Format: Trace Event Format, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Row = tuple[str, str, int, int, int]  # thread, what, start and end in ns, bytes


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
    """What one process did; `dropped` spans, the last ones, were not kept."""

    pid: int
    name: str
    tracks: Sequence[Track]
    dropped: int = 0


def tracks_of(rows: Iterable[Row], *, names: Mapping[str, str] | None = None) -> list[Track]:
    """A track for each thread that rows are of, those of `names` first and called as it says.

    A thread may end while one of the same name has begun: what would overlap without lying inside goes to a second
    track, since viewers draw spans of one track as a stack.
    """
    names = names or {}
    found: dict[str, list[Span]] = {}
    for thread, what, start_ns, end_ns, num_bytes in rows:
        args = {"bytes": num_bytes} if num_bytes else {}
        found.setdefault(thread, []).append(Span(what, start_ns, end_ns, args))
    first = [thread for thread in names if thread in found]
    others = sorted(found.keys() - names.keys(), key=lambda name: (len(name), name))
    return [
        Track(names.get(thread, thread) + (f" ({number})" if number > 1 else ""), spans)
        for thread in [*first, *others]
        for number, spans in enumerate(_stacks(found[thread]), 1)
    ]


def _stacks(spans: Iterable[Span]) -> list[list[Span]]:
    """The spans in as few rows as make every one of them lie beside or inside the others of its row."""
    rows: list[list[Span]] = []
    under_way: list[list[int]] = []  # of each row the ends of the spans that are not over
    for span in sorted(spans, key=_outer_first):
        for row, ends in zip(rows, under_way, strict=True):
            while ends and ends[-1] <= span.start_ns:
                ends.pop()
            if not ends or span.end_ns <= ends[-1]:
                row.append(span)
                ends.append(span.end_ns)
                break
        else:
            rows.append([span])
            under_way.append([span.end_ns])
    return rows


def _outer_first(span: Span) -> tuple[int, int]:
    return span.start_ns, -span.end_ns


def trace_text(processes: Sequence[Process], *, note_ns: float | None = None) -> str:
    """The trace as JSON, an event a line; noting a span took the thread `note_ns`, which the trace says."""
    starts = [span.start_ns for process in processes for track in process.tracks for span in track.spans]
    origin = min(starts, default=0)
    events = [json.dumps(event) for process in processes for event in _events(process, origin)]
    said = {"made_by": "iobench", "dropped_spans": str(sum(process.dropped for process in processes))}
    other = json.dumps(said | ({} if note_ns is None else {"noting_a_span_ns": f"{note_ns:.0f}"}))
    body = ",\n".join(events)
    return f'{{"displayTimeUnit": "ms", "otherData": {other}, "traceEvents": [\n{body}\n]}}\n'


def _events(process: Process, origin: int) -> Iterator[dict[str, object]]:
    yield _named("process_name", process.pid, 0, process.name + _left_out(process))
    for tid, track in enumerate(process.tracks, 1):
        yield _named("thread_name", process.pid, tid, track.name)
        yield {"name": "thread_sort_index", "ph": "M", "pid": process.pid, "tid": tid, "args": {"sort_index": tid}}
        for span in sorted(track.spans, key=_outer_first):
            event: dict[str, object] = {
                "name": span.name,
                "cat": "iobench",
                "ph": "X",
                "ts": _us(span.start_ns - origin),
                "dur": _us(span.end_ns - origin) - _us(span.start_ns - origin),
                "pid": process.pid,
                "tid": tid,
            }
            yield {**event, "args": dict(span.args)} if span.args else event


def _us(time_ns: int) -> float:
    """Microseconds, to 1/1024: viewers add ts and dur up, and with such fractions the sum is exact.

    A sum that is a little beyond the next event's ts would make that one part of this.
    """
    return round(time_ns * 1024 / 1000) / 1024


def _left_out(process: Process) -> str:
    kept = sum(len(track.spans) for track in process.tracks)
    return f" (its first {kept} spans; {process.dropped} more were not kept)" if process.dropped else ""


def _named(kind: str, pid: int, tid: int, name: str) -> dict[str, object]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
