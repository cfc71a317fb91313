"""Traces of ranks: from marks written by hand, with clocks of several hosts, and within bounds."""

import json

from iobench.training_bench.tracing import MAX_STEPS, trace_of_ranks

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
