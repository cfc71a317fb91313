"""How the minutes are shared out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.gpu_check.budget import fit, share
from iobench.gpu_check.job import END_S, START_S
from iobench.gpu_check.part import Part
from iobench.gpu_check.parts import PARTS as OF_THE_CHECK


def part(name, seconds, least_s):
    return Part(name, name, "load", seconds, least_s, "none")


def spent(parts, left_s):
    """What each part is given when each takes just its share."""
    given_s = []
    for number in range(len(parts)):
        seconds = share(parts[number:], left_s)
        given_s.append(seconds)
        left_s -= seconds or 0.0
    return given_s


def test_with_time_enough_each_part_has_what_it_would_like():
    assert spent([part("a", 30, 10), part("b", 50, 5)], 500) == [30, 50]


def test_short_time_is_shared_as_parts_would_like_to_have_more():
    # 15 s are everybody's least; of the 26 s beyond them a would like 20 and b 45: 40 % of it each
    assert spent([part("a", 30, 10), part("b", 50, 5)], 41) == [18, 23]


def test_the_last_parts_are_left_out_where_not_even_the_least_of_all_fits():
    a, b, c = spent([part("a", 30, 10), part("b", 50, 5), part("c", 10, 6)], 15.5)
    assert a == pytest.approx(10 + 20 * 0.5 / 65)  # of the half second beyond the least of both
    assert b == pytest.approx(15.5 - a)
    assert c is None


def test_where_nothing_fits_nobody_gets_anything():
    assert share([part("a", 30, 10)], 9.9) is None
    assert fit([part("a", 30, 10)], -3.0) == []


@pytest.mark.parametrize("writing_data_s", [0, 60])
def test_all_parts_of_the_check_fit_into_nine_minutes_and_most_have_what_they_would_like(writing_data_s):
    parts = [part(each.name, START_S + each.seconds, START_S + each.least_s) for each in OF_THE_CHECK]
    given_s = spent(parts, 9 * 60 - END_S - writing_data_s)
    assert None not in given_s
    assert all(seconds >= 0.8 * each.seconds for seconds, each in zip(given_s, parts, strict=True))


PARTS = st.lists(
    st.tuples(st.floats(0.1, 50), st.floats(0, 100)).map(lambda times: part("x", times[0] + times[1], times[0])),
    min_size=1,
    max_size=8,
)


@given(PARTS, st.floats(-5, 600))
def test_never_more_than_is_there_never_less_than_the_least(parts, left_s):
    given_s = spent(parts, left_s)
    assert sum(seconds or 0.0 for seconds in given_s) <= max(0.0, left_s) + 1e-6
    for each, seconds in zip(parts, given_s, strict=True):
        assert seconds is None or each.least_s - 1e-9 <= seconds <= each.seconds + 1e-9


@given(PARTS, st.floats(0, 600))
def test_a_part_is_left_out_only_where_its_least_is_not_left(parts, left_s):
    for each, seconds in zip(parts, spent(parts, left_s), strict=True):
        assert (seconds is None) == (each.least_s > left_s)
        left_s -= seconds or 0.0
