"""What loaders did when, as traces.

load           the loop that asks for batches, and every reader thread below it
load --peers   a process for each road: its consumer, and the reader threads of ours
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..loaders.traced import Recorder
from ..results.trace import Process, trace_text, tracks_of

LOOP = {"MainThread": "the loop"}
CONSUMER = {"MainThread": "the consumer"}


def trace_of_load(recorder: Recorder) -> str:
    """The trace of one process as JSON: a track for the loop, then one for each thread that read."""
    tracks = tracks_of(recorder.spans, names=LOOP)  # of a copy: a reader thread may still end a read
    process = Process(os.getpid(), "iobench load", tracks, dropped=recorder.dropped)
    return trace_text([process], note_ns=recorder.cost_ns())


def trace_of_roads(noted: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """The trace of a comparison as JSON: a process for each road, by its label and what it noted (RoadProcess.trace).

    Of others' loaders there is what their consumer waited for; our reader threads are beside it.
    """
    roads = list(noted)
    processes = [
        Process(road["pid"], label, tracks_of(road["spans"], names=CONSUMER), dropped=road["dropped"])
        for label, road in roads
    ]
    return trace_text(processes, note_ns=max((road["note_ns"] for _, road in roads), default=None))
