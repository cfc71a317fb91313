"""The search for the largest number of ranks that is fed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.training_bench.search import Search, bisect, next_window, window


def search(truth, low, high, hint=None):
    """What a search finds on a storage that feeds `truth`, and what it tried."""
    trials, tried = bisect(low, high, hint=hint), []
    try:
        count = next(trials)
        while True:
            tried.append(count)
            count = trials.send(count <= truth)
    except StopIteration as found:
        return found.value, tried


@given(st.integers(1, 5), st.integers(0, 60), st.integers(0, 70), st.none() | st.integers(0, 70))
def test_the_largest_number_that_is_fed_is_found_and_nothing_is_tried_twice(low, span, truth, hint):
    high = low + span
    found, tried = search(truth, low, high, hint)
    assert found == min(max(truth, low - 1), high)
    assert len(set(tried)) == len(tried)
    assert all(low <= count <= high for count in tried)
    if hint is None:
        assert len(tried) <= Search(low=low, high=high, threshold=0.9).num_trials


@pytest.mark.parametrize(
    ("truth", "hint", "tried"),
    [(5, 5, [5, 6]), (4, 5, [5, 4]), (6, 5, [5, 6, 8, 7]), (2, 5, [5, 4, 2, 3]), (0, 3, [3, 2, 1]), (16, 16, [16])],
)
def test_a_hint_that_is_right_takes_two_trials_and_one_that_is_near_takes_few(truth, hint, tried):
    assert search(truth, 1, 16, hint) == (truth, tried)


def test_the_window_is_the_number_and_its_two_neighbours_within_what_can_run():
    assert window(4, low=1, high=8) == (3, 4, 5)
    assert window(8, low=1, high=8) == (7, 8)
    assert window(0, low=1, high=8) == (1,)
    assert window(1, low=1, high=1) == (1,)


@pytest.mark.parametrize(
    ("reached", "wanted"),
    [
        ({3: True, 4: True, 5: False}, ()),
        ({3: True, 4: True, 5: True}, (6,)),
        ({3: True, 4: False, 5: False}, (2,)),
        ({3: False, 4: False, 5: False}, (1, 2)),
        ({2: False, 3: False, 4: False}, (1,)),
        ({1: False}, ()),
        ({7: True, 8: True}, ()),
    ],
)
def test_rounds_that_do_not_confirm_the_search_move_on_by_one(reached, wanted):
    assert next_window(reached, low=1, high=8) == wanted
