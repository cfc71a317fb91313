"""What a person sees: progress that is told once it is whole, amounts in the unit that fits, names of any bytes."""

import os

import pytest

from iobench.terminal import Screen, amount, counted, say


def test_a_part_that_is_done_is_told_once_and_what_is_told_again_of_it_waits(capsys):
    with Screen() as screen:
        for share in (0.1, 0.2, 1.0, 1.0, 1.0):
            screen.show("evict", share, "files")
        screen.show("load", 1.0, "images/s")
    assert capsys.readouterr().err.splitlines() == [
        "evict         10%  files",
        "evict        100%  files",
        "load         100%  images/s",
    ]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (7_680_000, "7.68 MB"),
        (64e6, "64.0 MB"),
        (2e9, "2.00 GB"),
        (270_336e9, "270.3 TB"),
    ],
)
def test_an_amount_has_the_unit_that_fits(num_bytes, text):
    assert amount(num_bytes) == text


def test_one_of_something_is_no_plural():
    assert [counted(number, "shard") for number in (0, 1, 2)] == ["0 shards", "1 shard", "2 shards"]


def test_a_name_that_is_no_text_is_spelled(capsys):
    say(os.fsdecode(b"na\xefve/\xc3\xa9"))
    assert capsys.readouterr().err == "na\\xefve/é\n"
