"""What is ended by a signal, in a process of its own: exit status, what it says, and the record that is left."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from iobench.results.headlines import answer_of
from iobench.results.record import read_record

BLOCKS = 1000


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGTERM, ("storage", "--engine", "buffered", "--block-size", "64K", "--set", "blocks=1000")),
        pytest.param(
            *(signal.SIGINT, ("load", "--num-workers", "1", "--batch-size", "8", "--set", "blocks=1000")),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_signal_leaves_a_record_that_says_interrupted_and_130(page_set, tmp_path, number, words):
    said = tmp_path / "said"
    command = [sys.executable, "-m", "iobench", words[0], str(page_set.folder), *words[1:], "--seconds", "0.05"]
    with said.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--json", "--out", str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    deadline = time.monotonic() + 60
    while not re.search(r"GB/s|images/s", said.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)  # until it tells of a block
    time.sleep(0.3)
    os.kill(process.pid, number)
    printed = process.communicate(timeout=30)[0]
    assert process.returncode == 130, said.read_text()
    assert json.loads(printed) == {"error": {"type": "Interrupted", "message": "interrupted", "exit_status": 130}}
    assert "Traceback" not in said.read_text()
    record = read_record(tmp_path / "run")
    assert record.workload["failed"] == "interrupted"
    assert record.warnings[0] == "stopped before its end: interrupted"
    assert 1 <= record.points[0].metrics["read_gbps"].n < BLOCKS
    assert answer_of(record).lines == ("Stopped before its end: interrupted",)
    assert (tmp_path / "run" / "report.html").is_file()
