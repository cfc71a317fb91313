"""Copy or not: worked examples by hand, and what must hold for any figures."""

from hypothesis import given
from hypothesis import strategies as st

from iobench.results.break_even import choose_copy


def exact(seconds):
    return seconds, seconds, seconds


def copy_choice(copy_s, direct, staged, *, later=None, epochs=10):
    """Later epochs cost what the first one does, unless told otherwise; each is (seconds, low, high)."""
    direct_later, staged_later = later or (direct, staged)
    return choose_copy(
        copy_s=copy_s,
        direct_first_s=direct,
        direct_later_s=direct_later,
        staged_first_s=staged,
        staged_later_s=staged_later,
        epochs=epochs,
    )


def test_a_copy_pays_back_in_the_epoch_that_makes_up_for_it():
    # direct 10, 20, 30, 40 ...; copy 25 + 2, 4, 6, 8 ...: 27, 29, 31, 33 -> the fourth
    choice = copy_choice(25.0, exact(10.0), exact(2.0))
    assert choice.outcome == "copy after E"
    assert choice.break_even_epochs == 4
    assert choice.break_even_range == (4, 4)
    assert choice.direct_s[:2] == (10.0, 20.0)
    assert choice.staged_s[:2] == (27.0, 29.0)


def test_a_first_cold_epoch_alone_can_pay_for_the_copy_or_never():
    warm = (exact(1.0), exact(1.0))
    assert copy_choice(5.0, exact(10.0), exact(2.0), later=warm).break_even_epochs == 1
    assert copy_choice(9.0, exact(10.0), exact(2.0), later=warm).outcome == "never"


def test_a_copy_that_reads_no_faster_never_pays():
    choice = copy_choice(1.0, exact(10.0), exact(10.0))
    assert (choice.outcome, choice.break_even_epochs) == ("never", None)


def test_intervals_that_allow_both_answers_are_not_distinguishable():
    choice = copy_choice(8.0, (10.0, 9.0, 11.0), (9.5, 8.5, 10.5))
    assert (choice.outcome, choice.break_even_epochs) == ("not distinguishable", None)


def test_the_range_of_the_break_even_comes_from_the_intervals():
    # best case: direct 12, staged 1, 25 / 11 -> 3 epochs; worst: direct 8, staged 3, 25 / 5 -> 6
    choice = copy_choice(25.0, (10.0, 8.0, 12.0), (2.0, 1.0, 3.0))
    assert (choice.break_even_epochs, choice.break_even_range) == (4, (3, 6))


SECONDS = st.floats(0.1, 1000)


@given(copy_s=SECONDS, firsts=st.tuples(SECONDS, SECONDS), later=st.tuples(SECONDS, SECONDS), epochs=st.integers(1, 40))
def test_the_break_even_is_the_first_epoch_at_which_the_sums_say_so(copy_s, firsts, later, epochs):
    choice = choose_copy(
        copy_s=copy_s,
        direct_first_s=exact(firsts[0]),
        direct_later_s=exact(later[0]),
        staged_first_s=exact(firsts[1]),
        staged_later_s=exact(later[1]),
        epochs=epochs,
    )

    def gain(count):
        return firsts[0] + (count - 1) * later[0] - copy_s - firsts[1] - (count - 1) * later[1]

    paid = [count for count in range(1, epochs + 1) if gain(count) > 1e-9]
    if choice.break_even_epochs is None:
        assert not paid
    else:
        assert choice.outcome == "copy after E"
        assert gain(choice.break_even_epochs) > -1e-9
        assert not [count for count in paid if count < choice.break_even_epochs]


@given(st.tuples(SECONDS, SECONDS, SECONDS), st.tuples(SECONDS, SECONDS, SECONDS), SECONDS)
def test_a_break_even_lies_in_its_range(direct, staged, copy_s):
    direct, staged = ((mid, low, high) for low, mid, high in map(sorted, (direct, staged)))
    choice = copy_choice(copy_s, direct, staged)
    if choice.break_even_epochs is not None:
        soonest, latest = choice.break_even_range
        assert soonest <= choice.break_even_epochs <= latest
