"""Whether there is a GPU to be checked: asked of the driver and of torch's files, without importing torch."""

from __future__ import annotations

from pathlib import Path

from ..storage_bench.doctor import gpu, software
from ..storage_bench.doctor.asking import Witness
from .part import GpuMissingError

ADVICE = "docs/gpu.md says how to set one up, --twin runs the check's CPU twin"


def require_gpu() -> None:
    """Raise GpuMissingError, in one line, where CUDA does not start or torch is built for the CPU alone.

    Takes no longer than the doctor: a driver that does not answer is said to be silent.
    """
    missing = what_is_missing()
    if missing:
        raise GpuMissingError(f"no NVIDIA GPU can be used here: {'; '.join(missing)}; {ADVICE}")


def what_is_missing() -> list[str]:
    """What keeps a GPU from being used, one reason each; empty where CUDA starts and torch was built for it."""
    root = Path("/")
    asked = {finding.name: finding for finding in Witness(gpu.SUBJECT, root).findings()}
    found = [f"CUDA: {asked['CUDA'].seen}"] if asked["CUDA"].available is not True else []
    torch = software.torch(root)
    if torch.available is not True or "CPU alone" in torch.text:
        found.append(f"torch: {torch.text}")
    return found
