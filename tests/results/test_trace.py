"""Traces, held to the rules of the trace event format."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from iobench.results.trace import Process, Span, Track, trace_text, tracks_of


def require_valid(text):
    """What the format asks of an object with complete events; returns the events that are not metadata."""
    document = json.loads(text)
    events = document["traceEvents"]
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    processes = {event["pid"] for event in events if event["name"] == "process_name"}
    spans = [event for event in events if event["ph"] == "X"]
    for event in events:
        assert event["ph"] in ("M", "X")
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
    for event in spans:
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        assert (event["pid"], event["tid"]) in named
        assert event["pid"] in processes
    for track in named:
        require_nested([event for event in spans if (event["pid"], event["tid"]) == track])
    return spans


def require_nested(events):
    """On a track an event is over before the next begins, or the next lies inside it, as viewers add up: exactly."""
    open_ = []
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        while open_ and open_[-1] <= event["ts"]:
            open_.pop()
        assert not open_ or event["ts"] + event["dur"] <= open_[-1]
        open_.append(event["ts"] + event["dur"])


def test_a_trace_is_the_one_written_by_hand():
    spans = [Span("wait", 5_000, 6_500), Span("read", 8_000, 9_000, {"bytes": 4})]
    whole = {"cat": "iobench", "ph": "X", "pid": 7, "tid": 1}
    name = "rank 0 (its first 2 spans; 2 more were not kept)"
    assert json.loads(trace_text([Process(7, "rank 0", [Track("steps", spans)], dropped=2)], note_ns=812.4)) == {
        "displayTimeUnit": "ms",
        "otherData": {"made_by": "iobench", "dropped_spans": "2", "noting_a_span_ns": "812"},
        "traceEvents": [
            {"name": "process_name", "ph": "M", "pid": 7, "tid": 0, "args": {"name": name}},
            {"name": "thread_name", "ph": "M", "pid": 7, "tid": 1, "args": {"name": "steps"}},
            {"name": "thread_sort_index", "ph": "M", "pid": 7, "tid": 1, "args": {"sort_index": 1}},
            {"name": "wait", "ts": 0.0, "dur": 1.5, **whole},
            {"name": "read", "ts": 3.0, "dur": 1.0, "args": {"bytes": 4}, **whole},
        ],
    }


def spans_between(times):
    """One span from the first to the second time, one from the third to the fourth, and so on."""
    ordered = sorted(times)
    return [Span("span", start, end) for start, end in zip(ordered[::2], ordered[1::2], strict=False)]


tracks = st.lists(st.lists(st.integers(0, 10**12), max_size=8, unique=True), max_size=3)


@given(st.lists(tracks, max_size=3), st.text(max_size=20))
def test_any_spans_make_a_valid_trace(processes, name):
    made = [
        Process(pid, name, [Track(name, spans_between(times)) for times in tracks])
        for pid, tracks in enumerate(processes)
    ]
    spans = require_valid(trace_text(made))
    assert len(spans) == sum(len(times) // 2 for tracks in processes for times in tracks)
    if spans:
        assert min(event["ts"] for event in spans) == 0


@given(st.lists(st.integers(0, 10**13), min_size=2, max_size=20, unique=True))
def test_spans_that_follow_each_other_without_a_gap_are_no_part_of_each_other(marks):
    """In seconds or microseconds 2789.713 + 20980.138 is more than 23769.851: a viewer would nest the next span."""
    marks = sorted(marks)
    steps = [Span(f"step {number}", *pair) for number, pair in enumerate(pairwise(marks))]
    spans = require_valid(
        trace_text([Process(1, "rank", [Track("steps", [Span("block", marks[0], marks[-1]), *steps])])])
    )
    ends = [span["ts"] + span["dur"] for span in spans]
    assert ends[1:-1] == [span["ts"] for span in spans[2:]]
    assert ends[-1] == ends[0]


def test_times_are_kept_to_the_nanosecond():
    spans = require_valid(
        trace_text([Process(1, "rank", [Track("t", [Span("a", 0, 1), Span("b", 999_999_999, 10**12 + 1)])])])
    )
    found = [round(value * 1000) for span in spans for value in (span["ts"], span["dur"])]
    assert found == [0, 1, 999_999_999, 10**12 + 1 - 999_999_999]


def test_no_spans_make_an_empty_trace():
    assert require_valid(trace_text([])) == []


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.integers(0, 20)), max_size=30))
def test_what_overlaps_in_threads_of_one_name_is_told_apart(found):
    """Threads of one name may follow each other before the first has ended: no span is lost, no track has crossings."""
    rows = [(thread, "read", start * 1000, (start + long) * 1000, 7) for thread, start, long in found]
    tracks = tracks_of(rows)
    spans = require_valid(trace_text([Process(1, "rank", tracks)]))
    origin = min((start for _, _, start, _, _ in rows), default=0)
    assert sorted((span["ts"], span["dur"]) for span in spans) == sorted(
        ((start - origin) / 1000, (end - start) / 1000) for _, _, start, end, _ in rows
    )


def test_tracks_are_named_by_their_threads_those_that_were_given_names_first():
    rows = [("reader-10", "read", 0, 1, 0), ("reader-2", "read", 0, 1, 5), ("Main", "wait", 0, 9, 0)]
    rows += [("reader-2", "read", 4, 6, 0), ("reader-2", "read", 5, 8, 0)]
    tracks = tracks_of(rows, names={"Main": "the loop", "other": "not there"})
    assert [(track.name, len(track.spans)) for track in tracks] == [
        ("the loop", 1),
        ("reader-2", 2),
        ("reader-2 (2)", 1),
        ("reader-10", 1),
    ]
    assert tracks[1].spans[0].args == {"bytes": 5}
