"""Standard streams that are closed, full or read by nobody, and signals before the command is there."""

import json
import os
import signal
import subprocess
import sys

import pytest

INTERRUPTED_WHILE_IMPORTED = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "iobench.cli":
            os.kill(os.getpid(), signal.SIGINT)

import iobench.__main__
sys.meta_path.insert(0, Interrupts())
sys.argv = ["iobench", "doctor", *sys.argv[1:]]
iobench.__main__.main()
"""


def iobench(*words, **streams):
    return subprocess.Popen([sys.executable, "-m", "iobench", *map(str, words)], text=True, **streams)


def unread_pipe():
    """The end of a pipe to write to, whose other end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def test_where_nobody_reads_what_is_told_the_work_is_done_all_the_same(page_set):
    for unread in (unread_pipe(), os.open("/dev/full", os.O_WRONLY)):
        process = iobench("index", page_set.folder, "--json", stdout=subprocess.PIPE, stderr=unread)
        os.close(unread)
        assert json.loads(process.communicate(timeout=30)[0])["num_records"] == 130
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("unwritable", "said"),
    [
        (unread_pipe, "who read it has closed it"),
        (lambda: os.open("/dev/full", os.O_WRONLY), "No space left on device"),
    ],
)
@pytest.mark.parametrize("words", [("schema",), ("presets", "--jsn", "--json")])
def test_a_document_that_cannot_be_written_is_an_error_of_the_environment(unwritable, said, words):
    stdout = unwritable()
    process = iobench(*words, stdout=stdout, stderr=subprocess.PIPE)
    os.close(stdout)
    told = process.communicate(timeout=30)[1]
    assert "Traceback" not in told
    assert "Exception ignored" not in told
    if words[1:] == ("--jsn", "--json"):
        assert process.returncode == 2
    else:
        assert process.returncode == 4
        assert f"iobench: stdout: {said}" in told


def test_closed_streams_are_not_given_to_files_that_are_opened(page_set, tmp_path):
    def close():
        for number in (0, 1, 2):
            os.close(number)

    out = tmp_path / "run"
    words = ("load", page_set.folder, "--batch-size", 4, "--seconds", 0.05, "--set", "blocks=2", "--out", out)
    assert iobench(*words, preexec_fn=close, cwd=tmp_path).wait(timeout=60) == 0
    assert json.loads((out / "record.json").read_text())["kind"] == "load"


def test_an_interrupt_while_the_command_is_imported_is_told_as_later_ones_are():
    words = [sys.executable, "-c", INTERRUPTED_WHILE_IMPORTED, "--json"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 130
    assert json.loads(done.stdout) == {"error": {"type": "Interrupted", "message": "interrupted", "exit_status": 130}}
    assert done.stderr == "iobench: interrupted\n"


def test_a_terminal_that_is_closed_ends_a_command_as_ctrl_c_does(page_set, tmp_path):
    words = ("load", page_set.folder, "--batch-size", 4, "--num-workers", 1, "--seconds", 60, "--out", tmp_path / "run")
    process = iobench(*words, stderr=subprocess.PIPE, cwd=tmp_path)
    process.stderr.readline()  # it has begun
    process.send_signal(signal.SIGHUP)
    told = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert told.endswith("iobench: interrupted\n")
    assert list(tmp_path.iterdir()) == []
