"""What `make setup GPU=1` asks of the system before anything is downloaded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[1] / "setup" / "check_system.sh"


@pytest.fixture
def check(tmp_path):
    """Runs check_system.sh with PATH as the system has it, and a CUDA toolkit in tmp_path/cuda or none."""
    for program in ("g++", "make", "cmake"):
        if not any(os.access(f"{folder}/{program}", os.X_OK) for folder in ("/usr/bin", "/bin")):
            pytest.skip(f"{program} is not in /usr/bin")
    if any(os.access(f"{folder}/nvcc", os.X_OK) for folder in ("/usr/bin", "/bin")):
        pytest.skip("nvcc is in /usr/bin: it cannot be taken away")

    def run(**more):
        environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "CUDA_HOME": str(tmp_path / "cuda"), **more}
        return subprocess.run(
            [shutil.which("bash"), CHECK], env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_a_gpu_build_needs_a_cuda_compiler_and_says_where_it_comes_from(check):
    done = check(GPU="1")
    assert done.returncode == 4
    assert "a CUDA compiler (nvcc, for GPU=1" in done.stderr
    assert "nvidia-cuda-toolkit" in done.stderr


def test_a_build_without_a_gpu_needs_none(check):
    assert check().returncode == 0
    assert check(GPU="0").returncode == 0


def test_a_toolkit_that_is_named_is_enough(check, tmp_path):
    compiler = tmp_path / "cuda" / "bin" / "nvcc"
    compiler.parent.mkdir(parents=True)
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    assert check(GPU="1").returncode == 0
