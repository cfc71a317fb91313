"""Efficiency, predictions and limits of grids: by hand, and as properties of systems that are known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.results.scaling import (
    Layout,
    Prediction,
    ScalingError,
    Seen,
    base_layout,
    cycle_rate,
    efficiency,
    first_limited,
    predict,
    prediction_error,
    rate_ratio,
    same_size,
)

ranks = st.integers(1, 64)
rates = st.floats(1.0, 1e6)


def constant(value, repetitions=3):
    return dict.fromkeys(range(repetitions), value)


def test_efficiency_is_the_rate_of_a_rank_over_that_of_the_base():
    found = efficiency({0: 360.0, 1: 380.0}, 4, {0: 100.0, 1: 100.0}, 1)
    assert found.samples == pytest.approx((0.90, 0.95))
    assert found.value == pytest.approx((0.90 * 0.95) ** 0.5)
    assert found.n == 2


def test_only_repetitions_that_both_cells_have_are_compared():
    found = rate_ratio({0: 50.0, 2: 90.0}, {1: 100.0, 2: 100.0})
    assert (found.value, found.n, found.ci95) == (pytest.approx(0.9), 1, None)
    assert rate_ratio({0: 1.0}, {1: 1.0}).value is None


def test_what_moves_both_cells_of_a_repetition_leaves_no_trace():
    found = rate_ratio({0: 80.0, 1: 160.0, 2: 40.0}, {0: 100.0, 1: 200.0, 2: 50.0})
    assert found.ci95 == pytest.approx((0.8, 0.8))


def test_a_rate_of_zero_has_no_ratio():
    with pytest.raises(ScalingError):
        rate_ratio({0: 0.0}, {0: 1.0})
    with pytest.raises(ScalingError):
        prediction_error(Prediction(1.0, 1.0, 1.0, ""), 0.0)


@given(rate=rates, counts=st.lists(ranks, min_size=2, max_size=5, unique=True))
def test_on_the_linear_line_efficiency_is_one_and_nothing_is_limited(rate, counts):
    cells = {(Layout(1, n), source): constant(rate * n) for n in counts for source in ("synthetic", "direct")}
    least = min(counts)
    for (layout, _), samples in cells.items():
        found = efficiency(samples, layout.num_ranks, constant(rate * least), least)
        assert found.value == pytest.approx(1.0)
    assert first_limited(cells, "direct") is None
    assert first_limited(cells, "synthetic") is None


@given(compute=rates, supply=rates, counts=st.lists(ranks, min_size=2, max_size=6, unique=True))
def test_a_shared_limit_is_predicted_exactly_from_any_smaller_cells(compute, supply, counts):
    *smaller, largest = sorted(counts)
    found = predict(largest, [Seen(n, compute * n, supply) for n in smaller])
    assert found is not None
    assert found.value == pytest.approx(min(compute * largest, supply))
    assert found.low == found.value


@given(compute=rates, each=rates, counts=st.lists(ranks, min_size=3, max_size=6, unique=True))
def test_a_limit_of_each_rank_is_predicted_exactly_from_two_sizes(compute, each, counts):
    *smaller, largest = sorted(counts)
    found = predict(largest, [Seen(n, compute * n, each * n) for n in smaller])
    assert found is not None
    assert found.value == pytest.approx(min(compute, each) * largest)


@given(seen=st.lists(st.builds(Seen, ranks, rates, st.none() | rates), max_size=8), count=ranks)
def test_a_prediction_lies_in_its_range_and_needs_a_smaller_cell(seen, count):
    found = predict(count, seen)
    assert (found is None) == all(cell.num_ranks >= count for cell in seen)
    if found is not None:
        assert 0 < found.low <= found.value <= found.high


def test_one_size_leaves_open_whether_a_source_gives_more_readers_more():
    found = predict(4, [Seen(1, 100.0, 150.0)])
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((150.0, 150.0, 400.0))
    assert found.basis == "1 smaller size(s), up to 1 ranks"


def test_a_cell_that_fell_behind_leaves_the_linear_line_open():
    found = predict(4, [Seen(1, 100.0, None), Seen(2, 150.0, None)])
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((225.0, 225.0, 300.0))  # half as much again, or twice


def test_cells_of_one_size_count_as_one():
    found = predict(4, [Seen(1, 100.0, 120.0), Seen(2, 190.0, 120.0), Seen(2, 190.0, 120.0)])
    assert found is not None
    assert found.value == pytest.approx(120.0)


def test_an_error_is_positive_where_too_much_was_predicted():
    assert prediction_error(Prediction(110.0, 110.0, 110.0, ""), 100.0) == pytest.approx(0.10)


@given(train=rates, validate=rates, share=st.floats(0.001, 1.0))
def test_an_epoch_with_validation_takes_the_time_of_both(train, validate, share):
    images, seconds = 1000 * (1 + share), 1000 / train + 1000 * share / validate
    assert cycle_rate(train, validate, share) == pytest.approx(images / seconds)


def test_the_first_cell_that_its_source_limits_is_named_with_what_it_loses():
    rates_by_ranks = {1: 100.0, 2: 200.0, 4: 250.0, 8: 250.0}
    cells = {(Layout(1, n), "direct"): constant(rate) for n, rate in rates_by_ranks.items()}
    cells |= {(Layout(1, n), "synthetic"): constant(100.0 * n) for n in rates_by_ranks}
    found = first_limited(cells, "direct")
    assert found is not None
    assert (found.layout, found.by) == (Layout(1, 4), "source")
    assert found.missed == pytest.approx(1 - 250 / 400)
    assert str(found) == "direct: 1x4 is the first cell that waits for its data, and loses 38% by it"
    assert first_limited(cells, "synthetic") is None


def test_where_synthetic_batches_fall_below_the_line_meetings_are_the_limit():
    cells = {(Layout(n, 1), "synthetic"): constant(rate) for n, rate in {1: 100.0, 2: 198.0, 4: 300.0}.items()}
    found = first_limited(cells, "synthetic")
    assert found is not None
    assert (found.layout, found.by) == (Layout(4, 1), "meetings")
    assert found.missed == pytest.approx(0.25)


def test_a_loss_that_the_interval_does_not_show_is_no_limit():
    cells = {
        (Layout(1, 1), "synthetic"): constant(100.0),
        (Layout(1, 1), "direct"): {0: 60.0, 1: 100.0, 2: 100.0},
    }
    assert first_limited(cells, "direct") is None


def test_layouts_of_one_size_stand_together_with_the_fewest_nodes_first():
    layouts = [Layout(n, g) for n in (1, 2, 4) for g in (1, 2, 4)]
    assert same_size(layouts) == [
        (Layout(1, 2), Layout(2, 1)),
        (Layout(1, 4), Layout(2, 2), Layout(4, 1)),
        (Layout(2, 4), Layout(4, 2)),
    ]
    assert base_layout(layouts) == Layout(1, 1)
    assert base_layout([Layout(2, 1), Layout(1, 2)]) == Layout(1, 2)
