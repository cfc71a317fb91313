"""What a person sees: progress that is told once where it is whole, names of any bytes."""

import os

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
