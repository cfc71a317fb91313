"""A storage that fails: bad blocks, hangs, a device that goes away, on a real file system that does so on demand."""

import errno
import os
import time

import pytest


def test_the_file_system_shows_what_lies_below(faults):
    (faults.backing / "a").write_bytes(b"0123456789")
    assert (faults.mount / "a").read_bytes() == b"0123456789"
    (faults.mount / "b").write_bytes(b"x")
    assert (faults.backing / "b").read_bytes() == b"x"


def test_faults_come_and_go_while_it_is_mounted(faults):
    path = faults.mount / "a"
    (faults.backing / "a").write_bytes(os.urandom(3 << 20))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    faults.set("eio a 1048576 4096")
    assert len(os.pread(fd, 4096, 0)) == 4096
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        os.pread(fd, 4096, 1 << 20)
    faults.set("gone 19")
    with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
        path.stat()
    faults.set("hang 0.2")
    begin = time.monotonic()
    path.stat()
    assert time.monotonic() - begin >= 0.2
    faults.set("short 100")
    again = os.open(path, os.O_RDONLY)
    assert len(os.pread(again, 4096, 0)) == 100
    faults.set()
    assert len(os.pread(fd, 4096, 1 << 20)) == 4096
    os.close(fd)
    os.close(again)
