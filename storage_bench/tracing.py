"""What a run of the loader did when, as a trace: the loop that asks for batches, and every reader thread below it."""

from __future__ import annotations

import os

from ..loaders.traced import Recorder
from ..results.trace import Process, trace_text, tracks_of

LOOP = {"MainThread": "the loop"}


def trace_of_load(recorder: Recorder) -> str:
    """The trace of one process as JSON: a track for the loop, then one for each thread that read."""
    tracks = tracks_of(recorder.spans, names=LOOP)  # of a copy: a reader thread may still end a read
    process = Process(os.getpid(), "iobench load", tracks, dropped=recorder.dropped)
    return trace_text([process], note_ns=recorder.cost_ns())
