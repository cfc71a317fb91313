"""The knee is the smallest load within 3 % of the peak, and is found without running every load."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iobench.storage_bench.sweep.knee import Knee, Rules, next_step

RULES = Rules()


def search(rate_of, loads, rules=RULES, *, most=1000):
    """Measure what is asked for until the knee is known; the knee and all rounds."""
    rounds = []
    while not isinstance(step := next_step(rounds, loads, rules), Knee):
        assert set(step) <= set(loads)
        assert len(rounds) < most
        rounds.append({load: rate_of(load) for load in step})
    return step, rounds


def saturating(at, slope=1.0):
    """Rises in proportion to the load up to `at`, then stays."""
    return lambda load: slope * min(load, at)


@pytest.mark.parametrize("at", [1, 2, 3, 8, 13, 16, 31, 48, 64])
def test_where_the_rate_stops_rising_is_the_knee(at):
    knee, _ = search(saturating(at), range(1, 65))
    # 3 % below a rate of 64 are 62.08, so that 63 would do, and 32 for no less than 62.06
    assert knee.load == min(load for load in range(1, 65) if min(load, at) >= 0.97 * at)
    assert knee.decided


def test_far_fewer_blocks_are_run_than_the_whole_product_takes():
    knee, rounds = search(saturating(24), range(1, 257))
    assert knee.load == 24
    assert len({load for rates in rounds for load in rates}) <= 14
    assert sum(map(len, rounds)) <= 120


def test_the_doubling_ends_where_two_doublings_bring_nothing():
    _, rounds = search(saturating(4), [2**power for power in range(12)])
    assert max(load for rates in rounds for load in rates) == 16


def test_a_storage_that_gives_less_beyond_its_best_has_its_knee_before_that():
    knee, _ = search(lambda load: min(load, 10) / (1 + max(0, load - 12) / 20), range(1, 65))
    # doubling sees 8 at 8 and 8.3 at 16; halving meets 10 at 12 on its way
    assert knee.peak_load == 12
    assert knee.load == 10


def test_a_rate_that_still_rises_at_the_last_load_says_so():
    knee, _ = search(lambda load: load, [1, 2, 4, 8])
    assert (knee.load, knee.peak_load, knee.rising) == (8, 8, True)
    assert knee.ratio is None
    assert not search(saturating(4), [1, 2, 4, 8])[0].rising


def test_one_load_is_its_own_knee():
    knee, rounds = search(lambda _: 5.0, [7])
    assert (knee.load, knee.peak_load, knee.rising) == (7, 7, False)
    assert len(rounds) == RULES.pilot_rounds


def test_a_neighbour_that_noise_does_not_tell_apart_is_left_undecided():
    random = np.random.default_rng(0)
    knee, _ = search(lambda load: min(load, 7.216) * random.normal(1, 0.03), range(1, 9), Rules(max_pairs=5))
    assert not knee.decided


@settings(deadline=None, max_examples=60)
@given(
    rates=st.lists(st.floats(0.1, 100), min_size=1, max_size=40),
    gaps=st.lists(st.integers(1, 9), min_size=40, max_size=40),
)
def test_of_any_rising_rates_the_smallest_within_three_percent_of_those_tried_is_found(rates, gaps):
    loads = np.cumsum(gaps[: len(rates)]).tolist()
    curve = dict(zip(loads, sorted(rates), strict=True))
    knee, rounds = search(curve.__getitem__, loads)
    peak = curve[knee.peak_load]
    assert peak == max(curve[load] for rates in rounds for load in rates)
    near = [load for load in loads if curve[load] >= 0.97 * peak]
    # at the very edge rounding decides
    assert (
        knee.load == near[0]
        or curve[knee.load] == pytest.approx(0.97 * peak)
        or curve[near[0]] == pytest.approx(0.97 * peak)
    )


@settings(deadline=None, max_examples=40)
@given(
    at=st.integers(1, 100),
    noise=st.floats(0, 0.2),
    seed=st.integers(0, 1000),
    num_loads=st.integers(1, 128),
)
def test_however_noisy_the_search_ends_with_a_load_that_was_tried(at, noise, seed, num_loads):
    random = np.random.default_rng(seed)
    loads = list(range(1, num_loads + 1))
    knee, rounds = search(lambda load: min(load, at) * np.exp(random.normal(0, noise)), loads, most=150)
    tried = {load for rates in rounds for load in rates}
    assert {knee.load, knee.peak_load} <= tried
    assert knee.load <= knee.peak_load
    if knee.ratio is not None:
        assert knee.ratio_ci95[0] <= knee.ratio <= knee.ratio_ci95[1]
