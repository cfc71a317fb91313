"""What a run of the loader did when, as a trace: the loop that asks for batches, and every reader thread below it."""

from __future__ import annotations

import os
from collections import defaultdict

from ..loaders.traced import Recorder
from ..results.trace import Process, Span, Track, trace_text

LOOP = "MainThread"


def trace_of_load(recorder: Recorder) -> str:
    """The trace of one process as JSON: a track for the loop, then one for each thread that read."""
    spans: dict[str, list[Span]] = defaultdict(list, {LOOP: []})
    for seen in list(recorder.spans):  # a reader thread may still end a read
        args = {"bytes": seen.num_bytes} if seen.num_bytes else {}
        spans[seen.thread].append(Span(seen.what, seen.start_ns, seen.end_ns, args))
    names = [LOOP, *sorted(set(spans) - {LOOP}, key=lambda name: (len(name), name))]
    tracks = [Track("the loop" if name == LOOP else name, spans[name]) for name in names]
    return trace_text([Process(os.getpid(), "iobench load", tracks)], dropped=recorder.dropped)
