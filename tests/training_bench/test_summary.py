"""From logs of steps, made up by hand, to points: parts that add up, samples per block, flags."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.loaders.evidence import DeviceCounter
from iobench.storage_bench.accelerators import Accelerator
from iobench.training_bench.plan import Block, RankPlan
from iobench.training_bench.summary import find_point, find_straggler, summarise_ranks

MS = 1_000_000
STEP_S = 0.010
ACCELERATOR = Accelerator("test", STEP_S, 4, False, "test")
PARTS = ("compute_s", "data_wait_s", "sync_wait_s", "overhead_s")


def make_plan(*blocks, depth=1, rounds=2, folder="/"):
    return RankPlan(
        num_ranks=max(block.num_ranks for block in blocks),
        blocks=blocks,
        rounds=rounds,
        budget_s=60.0,
        folders={"direct": folder, "staged": folder},
        engines={"direct": "direct", "staged": "buffered"},
        record_bytes=4096,
        image_shape=(8, 8, 3),
        accelerator="test",
        step_time_s=STEP_S,
        batch_size=4,
        reader_threads=2,
        prefetch_depth=depth,
    )


def block(source="direct", num_ranks=1, drop=2, count=10):
    return Block(source=source, num_ranks=num_ranks, drop_steps=drop, count_steps=count, limit_s=9.0)


def steps(*parts, start=1000):
    """Times of one step after another, each (wait, compute, sync, overhead) in ns."""
    rows, now = [], start
    for wait, compute, sync, overhead in parts:
        rows.append([now, now + wait, now + wait + compute, now + wait + compute + sync])
        now += wait + compute + sync + overhead
    return rows


def log(which, rows, *, number=0, delivered=0, payload=0, device=None, resident=None, process=None):
    return {
        "block": which,
        "round": number,
        "steps_ns": rows,
        "read_s": 2.0,
        "delivered_bytes": delivered,
        "payload_bytes": payload,
        "device_bytes": device,
        "process_bytes": process,
        "cache_fraction": resident,
    }


def result(rank, *logs):
    return {
        "rank": rank,
        "local_rank": rank,
        "pid": 100 + rank,
        "host": "here",
        "machine": "this one",
        "blocks": list(logs),
        "peak_rss_bytes": 1,
        "wall_s": 1.0,
    }


def summarise(plan, *results, counters=None, background=None):
    return summarise_ranks(plan, ACCELERATOR, results, counters=counters or {}, background_bps=background or {})


def value(point, name):
    return point.metrics[name].value


# --- one rank ----------------------------------------------------------------------------------------------------


def test_a_worked_example_of_one_rank():
    # dropped: 2 steps of anything; counted: 10 of 2 ms wait + 10 ms compute + 1 ms sync + 3 ms overhead = 16 ms
    rows = steps((90 * MS, MS, MS, MS), (90 * MS, MS, MS, MS), *[(2 * MS, 10 * MS, 1 * MS, 3 * MS)] * 10)
    points, invalid = summarise(make_plan(block()), result(0, log(0, rows)))
    (point,) = points
    assert invalid == ()
    # the last step's overhead is outside: 9 overheads over 10 steps, in two stretches of 5 with 4 each
    assert value(point, "data_wait_s") == pytest.approx(0.002)
    assert value(point, "compute_s") == pytest.approx(0.010)
    assert value(point, "sync_wait_s") == pytest.approx(0.001)
    assert value(point, "overhead_s") == pytest.approx(0.003 * 4 / 5)
    step = 0.013 + 0.003 * 4 / 5
    assert value(point, "step_time_s") == pytest.approx(step)
    assert value(point, "images_per_s") == pytest.approx(4 / step)
    assert value(point, "data_stall_fraction") == pytest.approx(0.002 / step)
    assert value(point, "au_mlperf") == pytest.approx(STEP_S / step)
    assert value(point, "au_dlio") == pytest.approx(0.010 / step)
    assert point.params["counted_steps"] == 10


part = st.tuples(*[st.integers(0, 50 * MS)] * 4).map(lambda parts: (parts[0], parts[1] + 1, parts[2], parts[3]))


@given(st.lists(part, min_size=3, max_size=40), st.lists(part, min_size=3, max_size=40))
def test_the_four_parts_add_up_to_the_step(first, second):
    logs = [log(0, steps(*rows), number=number) for number, rows in enumerate((first, second))]
    points, _ = summarise(make_plan(block()), result(0, *logs))
    point = points[0]
    assert sum(value(point, name) for name in PARTS) == pytest.approx(value(point, "step_time_s"))
    assert all(value(point, name) >= -1e-12 for name in PARTS)
    for samples in zip(*(point.metrics[name].samples for name in (*PARTS, "step_time_s")), strict=True):
        assert sum(samples[:4]) == pytest.approx(samples[4])
    assert 0 <= value(point, "data_stall_fraction") <= 1


def test_dropped_steps_count_for_nothing():
    slow, fast = (500 * MS, 10 * MS, 0, 0), (0, 10 * MS, 0, 0)
    points, _ = summarise(make_plan(block(drop=3)), result(0, log(0, steps(slow, slow, slow, *[fast] * 10))))
    assert value(points[0], "data_wait_s") == 0
    assert value(points[0], "au_mlperf") == pytest.approx(1.0)


def test_each_round_gives_samples_of_its_own():
    rounds = [
        log(0, steps(*[(wait * MS, 10 * MS, 0, 0)] * 12), number=number) for number, wait in enumerate((0, 10, 20))
    ]
    points, _ = summarise(make_plan(block()), result(0, *rounds))
    metric = points[0].metrics["data_wait_s"]
    assert metric.n == 6
    assert metric.samples == pytest.approx([0, 0, 0.01, 0.01, 0.02, 0.02])
    assert metric.value == pytest.approx(0.01)
    assert metric.ci95 is not None


def test_a_sleep_that_lasts_too_long_lowers_the_utilisation_of_the_rules_and_not_that_of_dlio():
    rows = steps(*[(0, 12 * MS, 1 * MS, 0)] * 12)  # 12 ms of compute where 10 are nominal
    points, _ = summarise(make_plan(block()), result(0, log(0, rows)))
    assert value(points[0], "au_mlperf") == pytest.approx(10 / 13)
    assert value(points[0], "au_dlio") == pytest.approx(12 / 13)


def dlio_au(loads, computes, barriers):
    """The published formula over one epoch block, from clock readings: (end - start - proc[0]), compute[1:]."""
    now, proc, compute = 0.0, [], []
    for load, work, barrier in zip(loads, computes, barriers, strict=True):
        proc.append(load + work)
        compute.append(work)
        now += load + work + barrier
    return sum(compute[1:]) / (now - 0.0 - sum(proc[:1]))


short = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30), st.integers(0, 5)), min_size=2, max_size=3)


@given(st.tuples(st.integers(0, 90), st.integers(1, 30)), short)
def test_the_utilisation_is_dlios_by_its_published_formula(first, parts):
    """The meeting of the step that is left out, which DLIO counts, is nothing here."""
    parts = [(*first, 0), *parts]
    rows = steps(*[(wait * MS, work * MS, sync * MS, 0) for wait, work, sync in parts])
    points, _ = summarise(make_plan(block(drop=1, count=len(parts) - 1)), result(0, log(0, rows)))
    assert value(points[0], "au_dlio") == pytest.approx(dlio_au(*zip(*parts, strict=True)))


# --- several ranks -----------------------------------------------------------------------------------------------


def test_rates_add_up_over_ranks_and_times_are_their_mean():
    plan = make_plan(block(num_ranks=2))
    waits = {0: 0, 1: 4}
    results = [result(rank, log(0, steps(*[(wait * MS, 10 * MS, 0, 0)] * 12))) for rank, wait in waits.items()]
    (point,), _ = summarise(plan, *results)
    assert value(point, "data_wait_s") == pytest.approx(0.002)
    assert value(point, "step_time_s") == pytest.approx(0.012)
    assert value(point, "images_per_s") == pytest.approx(4 / 0.010 + 4 / 0.014)
    assert [rank.pid for rank in point.ranks] == [100, 101]
    assert [rank.metrics["data_wait_s"].value for rank in point.ranks] == pytest.approx([0, 0.004])
    assert point.params["num_ranks"] == 2


def test_a_subset_of_the_ranks_makes_a_point_of_its_own():
    plan = make_plan(block(num_ranks=1), block(num_ranks=2))
    rows = steps(*[(0, 10 * MS, 0, 0)] * 12)
    points, _ = summarise(plan, result(0, log(0, rows), log(1, rows)), result(1, log(1, rows)))
    assert [len(point.ranks) for point in points] == [1, 2]
    assert value(find_point(points, "direct", 1), "images_per_s") == pytest.approx(400)
    assert value(find_point(points, "direct", 2), "images_per_s") == pytest.approx(800)
    assert find_point(points, "direct", 3) is None
    assert find_point(points, "staged", 1) is None


# --- flags -------------------------------------------------------------------------------------------------------


def points_with_control(control_step_ms, *, count=10, depth=1):
    plan = make_plan(block(count=count), block("synthetic", drop=1, count=4), depth=depth)
    direct = log(0, steps(*[(0, 11 * MS, 0, 0)] * (2 + count)))
    control = log(1, steps(*[(0, round(control_step_ms * MS), 0, 0)] * 5))
    points, _ = summarise(plan, result(0, direct, control))
    return find_point(points, "direct", 1), find_point(points, "synthetic", 1)


@pytest.mark.parametrize(("control_step_ms", "limited"), [(10.0, False), (10.19, False), (10.22, True), (15.0, True)])
def test_a_control_below_98_percent_marks_the_harness_as_the_limit(control_step_ms, limited):
    for point in points_with_control(control_step_ms):
        assert ("harness_limited" in point.flags) is limited


def test_a_point_without_a_control_says_nothing_about_the_storage():
    (point,), _ = summarise(make_plan(block()), result(0, log(0, steps(*[(0, 10 * MS, 0, 0)] * 12))))
    assert "harness_limited" in point.flags


@pytest.mark.parametrize(("count", "depth", "enough"), [(10, 1, True), (9, 1, False), (19, 2, False), (20, 2, True)])
def test_fewer_than_ten_steps_per_batch_of_prefetch_are_insufficient(count, depth, enough):
    direct, control = points_with_control(10.0, count=count, depth=depth)
    assert ("insufficient" in direct.flags) is not enough
    assert "insufficient" not in control.flags


def test_a_block_that_ran_out_of_time_before_a_counted_step_is_null_with_a_reason():
    (point,), _ = summarise(make_plan(block()), result(0, log(0, steps((0, 10 * MS, 0, 0), (0, 10 * MS, 0, 0)))))
    assert "insufficient" in point.flags
    for name, metric in point.metrics.items():
        assert metric.value is None
        assert ("nothing was read" if name == "client_read_gbps" else "no counted step") in metric.reason


# --- evidence ----------------------------------------------------------------------------------------------------

EXACT = DeviceCounter(("8:0",), "exact", "sectors read by sda")
OTHER = DeviceCounter(("8:16",), "exact", "sectors read by sdb")


def evidence_of(*, device, delivered=1000, background=None, resident=0.0, num_ranks=2):
    plan = make_plan(block(num_ranks=num_ranks))
    rows = steps(*[(0, 10 * MS, 0, 0)] * 10, start=0)
    results = [
        result(
            rank,
            log(
                0,
                rows,
                delivered=delivered,
                payload=delivered - 100,
                device=device if rank == 0 else None,
                resident=resident if rank == 0 else None,
            ),
        )
        for rank in range(num_ranks)
    ]
    return summarise(plan, *results, counters={"direct": EXACT}, background=background)


def test_bytes_of_all_ranks_are_held_against_the_device_under_them():
    (point,), invalid = evidence_of(device=2000)
    path = point.read_path
    assert (path.delivered_bytes, path.payload_bytes, path.device_bytes) == (2000, 1800, 2000)
    assert (path.observed_route, path.cache_fraction, path.page_cache) == ("host", 0.0, "cold")
    assert invalid == ()


def test_bytes_that_no_device_gave_make_the_source_invalid():
    _, invalid = evidence_of(device=1000)
    ((source, reason),) = invalid
    assert source == "direct"
    assert "2 ranks" in reason
    assert "asked for cold reads" in reason


def test_what_others_read_is_taken_off_once_and_not_once_per_rank():
    # 100 ms of steps on each of two ranks; others read 200 bytes a second, so 20 bytes meanwhile
    (point,), _ = evidence_of(device=2020, background={"direct": 200.0, "staged": 10_000.0})
    assert point.read_path.device_bytes == 2000


def test_sources_are_held_against_their_own_devices():
    plan = make_plan(block("direct"), block("staged"))
    rows = steps(*[(0, 10 * MS, 0, 0)] * 10, start=0)
    logs = [log(which, rows, delivered=1000, payload=1000, device=1000 + 100 * which) for which in (0, 1)]
    points, _ = summarise(
        plan,
        result(0, *logs),
        counters={"direct": EXACT, "staged": OTHER},
        background={"direct": 0.0, "staged": 1000.0},
    )
    direct, staged = (find_point(points, source, 1).read_path for source in ("direct", "staged"))
    assert (direct.device_bytes, staged.device_bytes) == (1000, 1000)
    assert direct.route_evidence == "sectors read by sda"
    assert staged.route_evidence == "sectors read by sdb"
    assert (direct.engine, staged.engine) == ("direct", "buffered")


def test_a_synthetic_control_has_no_read_path():
    plan = make_plan(block("synthetic"))
    (point,), _ = summarise(plan, result(0, log(0, steps(*[(0, 10 * MS, 0, 0)] * 12))), counters={"direct": EXACT})
    assert point.read_path is None


def test_a_residency_that_was_unknown_once_is_unknown():
    plan = make_plan(block())
    rows = steps(*[(0, 10 * MS, 0, 0)] * 12)
    logs = [log(0, rows, number=number, resident=share) for number, share in enumerate((0.0, None))]
    (point,), _ = summarise(plan, result(0, *logs), counters={"direct": EXACT})
    assert point.read_path.cache_fraction is None
    assert np.isfinite(value(point, "au_mlperf"))


# --- who waits for whom ------------------------------------------------------------------------------------------


def test_the_rank_that_waits_for_data_is_named_with_what_it_cost_the_others():
    # three ranks; rank 1 waits 5 ms for data that the others do not wait for, and all then talk for 1 ms
    fast, slow = (0, 10 * MS, 6 * MS, 0), (5 * MS, 10 * MS, MS, 0)
    results = [result(rank, log(0, steps(*[slow if rank == 1 else fast] * 12))) for rank in range(3)]
    (point,), _ = summarise(make_plan(block(num_ranks=3)), *results)
    late = find_straggler(point)
    assert (late.rank, late.host) == (1, "here")
    assert late.cost_s == pytest.approx(0.005)
    assert late.share == pytest.approx(5 / 16)
    assert late.for_data == pytest.approx(1)
    assert value(point, "communication_s") == pytest.approx(0.001)
    assert value(point, "straggler_wait_s") == pytest.approx(0.005 * 2 / 3)
    assert value(point, "sync_wait_s") == pytest.approx(
        value(point, "communication_s") + value(point, "straggler_wait_s")
    )
    costs = [report.metrics["straggler_cost_s"].value for report in point.ranks]
    assert costs == pytest.approx([0, 0.010, 0])


def test_one_rank_has_no_straggler():
    (point,), _ = summarise(make_plan(block()), result(0, log(0, steps(*[(0, 10 * MS, MS, 0)] * 12))))
    assert find_straggler(point) is None


def test_ranks_that_do_not_meet_wait_for_nobody_and_may_make_different_numbers_of_steps():
    alone = block(num_ranks=2).model_copy(update={"meets": False})
    logs = [result(rank, log(0, steps(*[(0, 10 * MS, 0, 0)] * count))) for rank, count in enumerate((12, 8))]
    (point,), _ = summarise(make_plan(alone), *logs)
    assert value(point, "straggler_wait_s") == 0
    assert point.params["counted_steps"] == 10


# --- energy ------------------------------------------------------------------------------------------------------


def test_a_blocks_joules_are_those_of_all_hosts_over_all_its_images():
    # 12 steps of 4 images on each of 2 ranks of two hosts, which took 30 and 18 J in 2 s and 5 W each when idle
    rows = steps(*[(0, 10 * MS, MS, 0)] * 12)
    told = [
        {**log(0, rows), "energy": {"seconds": 2.0, "joules": {"package": joules}, "reason": None}}
        for joules in (30, 18)
    ]
    points, _ = summarise_ranks(
        make_plan(block(num_ranks=2)),
        ACCELERATOR,
        [result(rank, each) for rank, each in enumerate(told)],
        counters={},
        background_bps={},
        idle_w=5.0,
    )
    assert value(points[0], "joules_per_image") == pytest.approx(48 / 96)
    assert value(points[0], "idle_joules_per_image") == pytest.approx(20 / 96)
    assert value(points[0], "power_w") == pytest.approx(24)


def test_energy_that_nothing_counted_is_null_with_the_reason():
    told = {**log(0, steps(*[(0, MS, 0, 0)] * 12)), "energy": {"seconds": 1.0, "joules": None, "reason": "no RAPL"}}
    (point,), _ = summarise(make_plan(block()), result(0, told))
    assert (value(point, "joules_per_image"), point.metrics["joules_per_image"].reason) == (None, "no RAPL")
