"""What a person sees: progress that is told once where it is whole, names of any bytes, tables that fit."""

import fcntl
import os
import struct
import subprocess
import sys
import termios

import pytest

from iobench.terminal import Screen, say


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


def test_a_name_that_is_no_text_is_spelled(capsys):
    say(os.fsdecode(b"na\xefve/\xc3\xa9"))
    assert capsys.readouterr().err == "na\\xefve/é\n"


# --- tables on narrow terminals ----------------------------------------------------------------------------------

HEADS = ("engine", "access", "depth", "GB/s", "p50 us", "max us", "")
ROWS = (
    ("direct", "random read", "2", "1.874 ± 0.912", "253 ± 323", "20,886", "noisy"),
    ("buffered", "random read", "2", "2.119 ± 0.873", "342 ± 42", "13,829", ""),
)


def shown(columns, rows=ROWS, heads=HEADS, **how):
    """The table as lines of a terminal with so many columns; None: as lines of a pipe."""
    return printed(columns, f"from iobench.terminal import table; table({heads!r}, {rows!r}, **{how!r})")


def printed(columns, program):
    words = [sys.executable, "-c", program]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    if columns is None:
        done = subprocess.run(words, env=environment, capture_output=True, check=True)
        return done.stderr.decode().splitlines()
    main, side = os.openpty()
    try:
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        subprocess.run(words, env=environment, stderr=side, check=True)
        return os.read(main, 1 << 16).decode().splitlines()
    finally:
        os.close(main)
        os.close(side)


def test_a_pipe_and_a_terminal_that_is_wide_enough_have_the_whole_table():
    lines = shown(None)
    assert len(lines) == 4
    assert lines[2].split()[-2:] == ["20,886", "noisy"]
    assert shown(120) == lines


def test_a_narrow_terminal_is_told_once_what_is_the_same_in_all_rows_and_what_has_no_room():
    lines = shown(40, spare=("max us", "p50 us"), keys=2)
    assert max(map(len, lines)) <= 40
    assert lines[0].split() == ["engine", "GB/s", "p50", "us"]
    assert lines[2].split() == ["direct", "1.874", "±", "0.912", "253", "±", "323"]
    assert lines[3].strip() == "noisy"
    assert lines[4].split()[0] == "buffered"
    told = " ".join(line.strip() for line in lines[5:])
    assert told == "every row: access random read, depth 2 no room for max us: see the report, or a wider terminal"


def test_what_may_not_be_left_out_goes_on_in_another_table_with_the_columns_that_tell_rows_apart():
    lines = shown(30)
    assert max(map(len, lines)) <= 30
    assert [line.split()[0] for line in lines if "engine" in line] == ["engine"] * 2
    for row in ROWS:
        assert all(any(cell in line for line in lines) for cell in row if cell not in ("random read", "2"))


def test_of_a_single_row_nothing_is_left_out():
    lines = shown(40, rows=ROWS[:1], spare=("max us", "p50 us"))
    assert max(map(len, lines)) <= 40
    assert all(any(cell in line for line in lines) for cell in ROWS[0])


@pytest.mark.parametrize("columns", [40, 60])
def test_a_last_column_of_text_is_wrapped(columns):
    text = "a reason that is longer than the terminal is wide, and goes on in the lines below"
    lines = shown(columns, heads=("figure", "note"), rows=(("read_gbps", text), ("au", "short")))
    assert max(map(len, lines)) <= columns
    assert " ".join(line[11:].strip() for line in lines[2:-1]) == text
    assert lines[-1].split() == ["au", "short"]


def test_a_sentence_goes_on_in_the_next_line_of_a_terminal_and_paths_stay_whole():
    text = "The copy lies in /a/path/that-is/longer-than/forty-letters/as/it-is/printed and is whole."
    program = f"from iobench.terminal import say; say({text!r}); say()"
    assert printed(None, program) == [text, ""]
    assert printed(40, program) == [
        "The copy lies in",
        "/a/path/that-is/longer-than/forty-letters/as/it-is/printed",
        "and is whole.",
        "",
    ]
