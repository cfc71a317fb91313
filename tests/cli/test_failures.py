"""What an error means to who gave the command."""

import errno
import os

import pytest
import typer

from iobench.cli import app
from iobench.cli.failures import status_of
from iobench.loaders.remote import ObjectError


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.EACCES, "permissions"),
        (errno.EROFS, "another place"),
        (errno.ENOSPC, "room"),
        (errno.EIO, "dmesg"),
        (errno.ENOENT, "path that exists"),
        (errno.ESTALE, "nobody changes"),
        (errno.EDQUOT, "quota"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_what_the_system_refuses_is_told_with_the_way_out(number, way_out):
    status, message = status_of(OSError(number, os.strerror(number), "there/a.tfrecord"))
    assert status == 4
    assert message.startswith(f"there/a.tfrecord: {os.strerror(number)}; ")
    assert way_out in message


def test_names_that_the_shell_put_for_a_pattern_are_told_by_the_first_of_them():
    with pytest.raises(typer.TyperException) as caught:
        app(["load", *(f"data/{number}.tfrecord" for number in range(1000))], standalone_mode=False)
    status, message = status_of(caught.value)
    assert status == 2
    assert message.startswith("unexpected argument data/1.tfrecord and 998 more; put patterns as 'data/*.tfrecord'")


def test_an_error_of_our_own_says_its_way_out_itself():
    error = ObjectError(errno.EACCES, "the server refuses it (403)", "s3://bucket/key")
    assert status_of(error) == (4, "s3://bucket/key: the server refuses it (403)")


def test_wrong_usage_is_2_and_what_nobody_foresaw_has_no_status():
    assert status_of(typer.BadParameter("leave it out")) == (2, "Invalid value: leave it out (iobench --help)")
    assert status_of(ZeroDivisionError("by zero")) == (None, "by zero")
