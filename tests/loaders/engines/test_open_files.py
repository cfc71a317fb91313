"""Files stay open from read to read, a bounded number of them, and nobody waits for somebody else's slow open."""

import os
import threading
from pathlib import Path

from iobench.loaders.engines.open_files import OpenFile, OpenFiles


def open_file(path):
    return OpenFile(os.open(path, os.O_RDONLY))


def test_the_file_used_longest_ago_is_let_go(numbered_files, open_files):
    paths, files = numbered_files(4), OpenFiles(3)
    for path in (*paths[:3], paths[0], paths[3]):
        files.opened(path, open_file)
    assert [open_files(path) for path in paths] == [1, 0, 1, 1]
    files.close()
    assert [open_files(path) for path in paths] == [0, 0, 0, 0]


def test_a_file_that_is_let_go_stays_open_for_who_still_reads_it(numbered_files, open_files):
    paths, files = numbered_files(2), OpenFiles(1)
    held = files.opened(paths[0], open_file)
    files.opened(paths[1], open_file)
    assert open_files(paths[0]) == 1
    assert os.pread(held.fd, 1, 0) == b"\0"
    del held
    assert open_files(paths[0]) == 0


def test_who_opens_a_file_meanwhile_gets_the_same_one(numbered_files, open_files):
    (path,), files = numbered_files(1), OpenFiles(2)
    second = []

    def slow(path):
        second.append(files.opened(path, open_file))
        return open_file(path)

    assert files.opened(path, slow) is second[0]
    assert open_files(path) == 1


def test_a_slow_open_holds_nobody_up():
    files, going, opened = OpenFiles(2), threading.Event(), threading.Event()

    def hanging(path):
        opened.set()
        assert going.wait(20)
        return path

    thread = threading.Thread(target=files.opened, args=(Path("far"), hanging))
    thread.start()
    assert opened.wait(20)
    assert files.opened(Path("near"), str) == "near"
    going.set()
    thread.join()
    assert files.opened(Path("far"), lambda _: None) == Path("far")
