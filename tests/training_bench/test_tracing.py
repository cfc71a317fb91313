"""Traces of ranks: from marks written by hand, with clocks of several hosts, and within bounds."""

import json

from iobench.training_bench.tracing import MAX_STEPS, trace_of_ranks, trace_of_training

MS = 1_000_000
LABELS = ["direct, 2 ranks", "synthetic, 2 ranks"]


def result(rank, *blocks, pid=None, host="node1"):
    logs = [{"block": which, "round": number, "steps_ns": steps} for which, number, steps in blocks]
    return {"rank": rank, "pid": 100 + rank if pid is None else pid, "host": host, "blocks": logs}


def steps(start, count):
    """Steps of 10 ms: 2 waiting for data, 5 computing, 1 waiting for others, 2 of anything else."""
    marks = [start + 10 * MS * number for number in range(count)]
    return [[at, at + 2 * MS, at + 7 * MS, at + 8 * MS] for at in marks]


def spans_of(text):
    document = json.loads(text)
    spans = [event for event in document["traceEvents"] if event["ph"] == "X"]
    return spans, document["otherData"]["dropped_spans"]


def test_a_block_holds_its_steps_and_a_step_its_parts():
    spans, dropped = spans_of(trace_of_ranks([result(0, (1, 3, steps(50 * MS, 2)))], LABELS))
    assert [(span["name"], span["ts"], span["dur"]) for span in spans] == [
        ("synthetic, 2 ranks, round 3", 0.0, 18_000.0),
        ("step 0", 0.0, 10_000.0),
        ("data wait", 0.0, 2_000.0),
        ("compute", 2_000.0, 5_000.0),
        ("sync wait", 7_000.0, 1_000.0),
        ("step 1", 10_000.0, 8_000.0),
        ("data wait", 10_000.0, 2_000.0),
        ("compute", 12_000.0, 5_000.0),
        ("sync wait", 17_000.0, 1_000.0),
    ]
    assert dropped == "0"


def test_ranks_of_one_host_share_its_clock_and_other_hosts_begin_with_their_own():
    near = result(0, (0, 0, steps(50 * MS, 1))), result(1, (0, 0, steps(53 * MS, 1)))
    far = result(2, (0, 0, steps(9_000 * MS, 1)), host="node2", pid=100)
    spans, _ = spans_of(trace_of_ranks([*near, far], LABELS))
    assert [span["ts"] for span in spans if span["name"] == "step 0"] == [0.0, 3_000.0, 0.0]
    assert len({span["pid"] for span in spans}) == 3  # also where two hosts gave the same number


def test_long_runs_keep_whole_blocks_within_the_bound_and_count_the_rest():
    long = [(0, number, steps(number * 10**12, MAX_STEPS // 4)) for number in range(4)]
    spans, dropped = spans_of(trace_of_ranks([result(0, *long), result(1, *long)], LABELS))
    assert len(spans) == 2 * 2 * (4 * MAX_STEPS // 4 + 1)
    assert int(dropped) == 2 * 2 * (4 * MAX_STEPS // 4 + 1)


def test_a_rank_without_blocks_is_there_without_spans():
    assert spans_of(trace_of_ranks([result(0), result(1, (0, 0, []))], LABELS)) == ([], "0")


def test_reads_of_a_rank_are_beside_its_steps_and_those_before_its_first_step_are_left_out():
    noted = {"spans": [["iobench-reader-0", "read", at * MS, (at + 1) * MS, 4096] for at in (40, 51)], "note_ns": 700.2}
    text = trace_of_ranks([{**result(0, (0, 0, steps(50 * MS, 1))), **noted, "spans_dropped": 3}], LABELS)
    spans, dropped = spans_of(text)
    reads = [(span["ts"], span["dur"], span["args"]) for span in spans if span["name"] == "read"]
    assert (reads, dropped) == ([(1_000.0, 1_000.0, {"bytes": 4096})], "3")
    document = json.loads(text)
    assert document["otherData"]["noting_a_span_ns"] == "700"
    assert "3 more were not kept" in document["traceEvents"][0]["args"]["name"]


def test_a_real_training_has_its_optimiser_and_on_a_gpu_its_compute_stream():
    host = [[90 * MS, 92 * MS, 95 * MS, 96 * MS, 97 * MS]]
    stream = [[0, 1 * MS, 6 * MS, 7 * MS, 8 * MS]]
    told = {"rank": 0, "pid": 7, "host": "node1", "steps_ns": host, "stream_ns": stream}
    text = trace_of_training([told])
    tracks = {e["tid"]: e["args"]["name"] for e in json.loads(text)["traceEvents"] if e["name"] == "thread_name"}
    found = {(tracks[span["tid"]], span["name"]): (span["ts"], span["dur"]) for span in spans_of(text)[0]}
    assert found["steps", "optimiser"] == (6_000.0, 1_000.0)
    assert found["compute stream", "compute"] == (1_000.0, 5_000.0)
    assert {track for track, _ in found} == {"steps", "compute stream"}
