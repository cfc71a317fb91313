"""Figures as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.results.quantities import (
    amount,
    binary_size,
    counted,
    duration,
    interval_text,
    number,
    percent,
    quantity,
    scale_for,
    span_of_time,
)
from iobench.results.record import Metric, not_measured


@pytest.mark.parametrize(
    ("value", "half_width", "text"),
    [
        (2.05123, 0.031, "2.051"),
        (2.05123, 0.31, "2.05"),
        (114_660.4, 310.0, "114,660"),
        (0.000123456, 0.0000021, "0.0001235"),
        (0.0, None, "0"),
        (3, None, "3"),
        (1234567.0, None, "1,234,567"),
        (0.0123456, None, "0.01235"),
        (-0.5, None, "\N{MINUS SIGN}0.5000"),
        (12.0, 0.0, "12"),
    ],
)
def test_a_number_has_the_digits_that_its_interval_supports(value, half_width, text):
    assert number(value, half_width=half_width) == text


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_a_number_is_never_shown_as_zero_unless_it_is(value):
    shown = number(value).replace(",", "").replace("\N{MINUS SIGN}", "-")
    assert (float(shown) == 0) == (value == 0)


@pytest.mark.parametrize(
    ("unit", "largest", "shown"),
    [
        ("s", 0.224, "ms"),
        ("s", 2.24, "s"),
        ("s", 2e-5, "µs"),
        ("us", 96_000.0, "ms"),
        ("bytes", 912_000_000, "MB"),
        ("GB/s", 0.62, "MB/s"),
        ("GB/s", 62.0, "GB/s"),
        ("images/s", 0.001, "images/s"),
        ("1", 0.5, ""),
        ("fraction", 0.5, ""),
        ("s", 0.0, "s"),
    ],
)
def test_a_unit_is_scaled_to_its_figures(unit, largest, shown):
    assert scale_for(unit, [None, largest, largest / 3]).unit == shown


def test_a_quantity_has_its_unit_and_its_interval_in_the_same_scale():
    metric = Metric(value=0.6233, unit="GB/s", ci95=(0.6161, 0.6305), n=8)
    assert quantity(metric) == "623.3 MB/s"
    assert interval_text(metric) == "616.1 to 630.5"


def test_counts_are_shown_whole():
    metric = Metric(value=6.0, unit="accelerators", ci95=(5.0, 6.0), n=8)
    assert (quantity(metric), interval_text(metric)) == ("6 accelerators", "5 to 6")
    assert amount(1, "accelerators") == "1 accelerator"


def test_what_was_not_measured_is_no_number():
    assert quantity(not_measured("s", "no GPU")) == "not measured"
    assert interval_text(not_measured("s", "no GPU")) == ""


@pytest.mark.parametrize(
    ("unit", "shown"),
    [("images/s", "0 to 17,377"), ("GB/s", "0 to 17,377"), ("fraction", "\N{MINUS SIGN}7,282 to 17,377")],
)
def test_no_rate_is_shown_below_nothing(unit, shown):
    assert interval_text(Metric(value=7398.0, unit=unit, ci95=(-7282.0, 17377.0), n=8)) == shown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (402.3e9, "bytes", "402 GB"),
        (25.04e9, "bytes", "25.0 GB"),
        (0.9, "1", "0.9"),
        (2, "accelerators", "2 accelerators"),
        (0.553, "GB/s", "553 MB/s"),
        (0, "bytes", "0 B"),
    ],
)
def test_an_amount_has_three_digits(value, unit, text):
    assert amount(value, unit) == text


def test_sizes_spans_and_counts_read_as_they_are_written():
    assert [binary_size(size) for size in (4 << 20, 65_536, 1000, 3 << 30)] == ["4 MiB", "64 KiB", "1,000 B", "3 GiB"]
    assert [duration(seconds) for seconds in (4.2, 431.7, 7260)] == ["4.2 s", "7 min 12 s", "2 h 1 min"]
    assert [counted(count, "rank") for count in (0, 1, 3)] == ["0 ranks", "1 rank", "3 ranks"]
    assert [counted(count, "image") for count in (1_281_167, 2.5)] == ["1,281,167 images", "2.5 images"]
    assert percent(0.0256) == "2.6\N{NO-BREAK SPACE}%"


def test_a_span_of_time_names_the_day_once():
    start = "2024-06-07T10:15:00+00:00"
    assert span_of_time(start, "2024-06-07T10:23:41+00:00") == "2024-06-07 10:15 to 10:23 UTC"
    assert span_of_time(start, "2024-06-08T00:01:00+00:00") == "2024-06-07 10:15 to 2024-06-08 00:01 UTC"
    assert span_of_time("noon", "dusk") == "noon to dusk"


def test_numbers_beyond_all_measure_are_powers_of_ten():
    assert number(1.2e308) == "1.2e+308"
    assert number(3e-12) == "3e-12"
    assert number(999e12) == "999,000,000,000,000"
    assert amount(1e300, "GB/s") == "1e+300 GB/s"
    assert percent(1e300) == "1e+302\N{NO-BREAK SPACE}%"
