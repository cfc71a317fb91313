"""What ranks say about a storage when the harness itself costs part of each step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.results.verdict import settles


@pytest.mark.parametrize(
    ("utilisation", "control", "verdict"),
    [
        (0.95, 0.96, True),  # fed in spite of the harness
        (0.79, 0.97, False),  # 1 / (1/0.79 - 0.031) = 0.81: not fed, harness or not
        (0.88, 0.95, None),  # 1 / (1/0.88 - 0.053) = 0.92: it may be the harness
        (0.95, 0.85, None),  # too busy a machine
        (0.95, None, None),
    ],
)
def test_a_verdict_is_given_only_where_the_harness_cannot_change_it(utilisation, control, verdict):
    assert settles(utilisation, control=control, threshold=0.90) is verdict


@given(st.floats(0.5, 5.0), st.floats(0.0, 0.11), st.floats(0.5, 0.95))
def test_it_never_contradicts_a_step_whose_cost_adds_up(read_share, harness, threshold):
    """Step 1, reading `read_share` of it hidden behind it, the harness adding up to its whole cost to either."""
    alone = 1 / max(1.0, read_share)
    for cost in (0.0, harness / 2, harness):  # part of the cost may hide behind reading
        seen = 1 / (max(1.0, read_share) + cost)
        verdict = settles(seen, control=1 / (1 + harness), threshold=threshold)
        assert verdict is None or verdict is (alone >= threshold) or abs(alone - threshold) < 1e-9
