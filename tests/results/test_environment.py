"""Where a run took place: machine, versions, GPUs."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from iobench.results.environment import collect
from iobench.results.mounts import mount_of


def test_the_environment_names_machine_software_and_file_system(tmp_path):
    found = collect(tmp_path)
    json.dumps(found)
    assert found["host"] == platform.node()
    assert found["python"] == platform.python_version()
    assert found["cpu"]["logical_cores"] == os.cpu_count()
    assert found["versions"]["numpy"] == pytest.importorskip("numpy").__version__
    assert found["storage"]["fstype"] == mount_of(tmp_path).fstype
    assert found["storage"]["free_bytes"] > 0
    assert found["storage"]["reason"] is None
    assert bool(found["gpus"]) is not bool(found["gpus_reason"])


def test_without_a_path_there_is_no_storage():
    assert collect()["storage"] is None


def test_the_environment_imports_none_of_the_libraries_it_names():
    code = (
        "import sys; from iobench.results.environment import collect; collect();"
        "print([m for m in ('torch', 'horovod', 'numpy', 'kvikio', 'nvidia') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"


def nvml(folder: Path, monkeypatch: pytest.MonkeyPatch, init: str) -> None:
    """Put a stand-in for nvidia-ml-py first on the path, with two GPUs."""
    (folder / "pynvml.py").write_text(f"""
import time
from types import SimpleNamespace
class NVMLError(Exception): pass
def nvmlInit():
    {init}
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return "580.1"
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return f"GPU {{handle}}"
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(total=80_000_000_000)
""")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "pynvml", None)  # so that whatever is imported is gone again after the test
    monkeypatch.delitem(sys.modules, "pynvml")


def test_gpus_are_listed_as_nvml_tells_them(tmp_path, monkeypatch):
    nvml(tmp_path, monkeypatch, "pass")
    found = collect()
    assert [gpu["name"] for gpu in found["gpus"]] == ["GPU 0", "GPU 1"]
    assert found["gpus_reason"] is None


def test_a_driver_that_is_missing_is_the_reason_for_no_gpus(tmp_path, monkeypatch):
    nvml(tmp_path, monkeypatch, "raise NVMLError('Driver Not Loaded')")
    found = collect()
    assert (found["gpus"], found["gpus_reason"]) == ([], "NVML: Driver Not Loaded")


def test_a_driver_that_does_not_answer_holds_nobody_up(tmp_path, monkeypatch):
    nvml(tmp_path, monkeypatch, "time.sleep(600)")
    monkeypatch.setattr("iobench.results.environment.PATIENCE_S", 0.2)
    found = collect()
    assert (found["gpus"], found["gpus_reason"]) == ([], "NVML did not answer within 0.2 s")
