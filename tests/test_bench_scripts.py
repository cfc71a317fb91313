"""Scripts of tests/bench start where they lie, and what they keep names no machine and no folder of it."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from iobench.results.environment import collect
from iobench.results.record import Metric, read_record, utc_now

SCRIPTS = sorted((Path(__file__).parent / "bench").glob("*.py"))
WITH_WORDS = [script for script in SCRIPTS if "ArgumentParser(" in script.read_text()]


@pytest.fixture
def kept_records(monkeypatch, tmp_path) -> ModuleType:
    """The part that keeps records, as the script `tests/bench/some.py` has it, and with a place of its own."""
    spec = importlib.util.spec_from_file_location("kept_records", SCRIPTS[0].parent / "parts" / "record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(sys, "argv", ["/home/somebody/tests/bench/some.py"])
    return module


def test_a_kept_record_tells_the_machine_and_not_its_name_or_folders(kept_records, tmp_path):
    record = kept_records.record_of(
        "load",
        started=utc_now(),
        words=("--only", "copy"),
        workload={"rounds": 3},
        environment=collect(tmp_path),
        metrics={"wait_s": Metric(value=1.5, unit="s", n=1)},
        warnings=["slow", "slow"],
    )
    kept_records.keep(record, "some")
    path = tmp_path / "reference" / f"some-{os.cpu_count()}-cores.json"
    document = json.loads(path.read_text())
    assert document["command"] == ["python", "tests/bench/some.py", "--only", "copy"]
    assert document["environment"]["host"] is None
    assert document["environment"]["kernel"] == f"Linux {platform.release()}"
    assert document["environment"]["storage"]["path"] == "a temporary folder"
    assert document["warnings"] == ["slow"]
    assert str(tmp_path) not in path.read_text()
    assert read_record(path) == record


@pytest.mark.parametrize(("given", "status"), [(None, None), (0, 0), (4, 4), (KeyboardInterrupt(), 130)])
def test_a_script_ends_with_what_it_found(kept_records, given, status):
    def main():
        if isinstance(given, BaseException):
            raise given
        return given

    with pytest.raises(SystemExit) as end:
        kept_records.run(main)
    assert end.value.code == status


@pytest.mark.slow
@pytest.mark.parametrize("script", WITH_WORDS, ids=lambda script: script.stem)
def test_every_script_starts_from_anywhere(script, tmp_path):
    done = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: {script.name}" in done.stdout
    assert "--keep" in done.stdout
