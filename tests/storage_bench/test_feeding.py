"""Which numbers of readers are measured for a prediction, and what is recorded of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.storage_bench.feeding import candidate_readers, new_rates, pilot_rates, reader_point
from iobench.storage_bench.sweep.recorded import storage_point
from iobench.storage_bench.sweep.run import run_points
from iobench.storage_bench.workload import StorageConfig


def candidates(rates, *, most=8, demand=0.5):
    return candidate_readers(rates, demand_gbps=demand, threshold=0.9, max_readers=most)


def test_the_numbers_around_the_largest_fed_one_are_measured():
    # one takes 0.45 GB/s at the threshold: of 2 GB/s four are fed (1.8), five are not (2.25)
    assert candidates({1: 1.0, 2: 2.0, 4: 2.0, 8: 2.0}) == (3, 4, 5)


def test_rates_between_the_pilots_numbers_are_interpolated():
    # 2 readers get 1 GB/s, 4 get 2: 3 get 1.5 and need 1.35; 4 need 1.8; 8 get 2 and need 3.6; 5 get 2 and need 2.25
    assert candidates({1: 0.5, 2: 1.0, 4: 2.0, 8: 2.0}) == (3, 4, 5)
    assert candidates({1: 1.0, 4: 1.3}) == (1, 2, 3)


def test_only_one_reader_is_measured_where_none_is_fed():
    assert candidates({1: 0.1, 8: 0.1}) == (1,)


def test_nothing_beyond_the_most_that_may_run_is_measured():
    assert candidates({1: 100.0, 8: 100.0}) == (7, 8)
    assert candidates({1: 100.0}, most=1) == (1,)


def test_what_was_measured_corrects_what_the_pilot_said():
    pilot = {1: 1.0, 2: 2.0, 4: 2.0, 8: 2.0}
    assert candidates({**pilot, 3: 1.0, 4: 1.0, 5: 1.0}) == (1, 2, 3)


@given(
    st.dictionaries(st.integers(1, 32), st.floats(0.001, 100), min_size=1),
    st.integers(1, 32),
    st.floats(0.01, 10),
)
def test_candidates_are_neighbours_that_may_run(rates, most, demand):
    found = candidates({min(count, most): rate for count, rate in rates.items()}, most=most, demand=demand)
    assert found
    assert all(1 <= count <= most for count in found)
    assert list(found) == list(range(found[0], found[-1] + 1))


def test_a_pilot_tries_powers_of_two_and_the_most_that_may_run(page_set, monkeypatch):
    monkeypatch.setattr("iobench.storage_bench.feeding.PILOT_S", 0.05)
    rates = pilot_rates(
        page_set.folder, StorageConfig(batch_size=8), engine="buffered", reads_in_flight=1, max_readers=6
    )
    assert sorted(rates) == [1, 2, 4, 6]
    assert all(rate > 0 for rate in rates.values())


def test_readers_replay_the_loader_and_are_recorded_with_the_reason_for_the_engine(page_set):
    config = StorageConfig(batch_size=8, seconds=0.05, blocks=3)
    results = new_rates(engine="buffered", reason="asked for", reads_in_flight=2, readers=(1, 3))
    run_points(page_set.folder, results, config)
    assert [result.point for result in results] == [
        reader_point("buffered", readers=count, reads_in_flight=2) for count in (1, 3)
    ]
    for result in results:
        assert result.ceiling_gbps > 0
        point = storage_point(result, page_set.folder)
        assert point.params["access"] == "shard-replay"
        assert point.metrics["read_gbps"].n == 3
        assert point.read_path.page_cache == "cold"


def test_a_latency_over_all_reads_is_told_with_the_interval_of_the_blocks(page_set):
    config = StorageConfig(batch_size=8, seconds=0.05, blocks=3)
    (result,) = results = new_rates(engine="buffered", reason="asked for", reads_in_flight=2, readers=(1,))
    run_points(page_set.folder, results, config)
    metric = storage_point(result, page_set.folder).metrics["latency_p99_us"]
    assert metric.value == result.percentile_us(99)
    assert metric.samples == pytest.approx([block.latencies.percentile_us(99) for block in result.blocks])
