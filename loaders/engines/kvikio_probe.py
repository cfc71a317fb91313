"""Whether kvikio can be used on this machine, decided without importing it.

Without a driver kvikio fails at every read, host memory included, and its cuFile side may spin for ever; so nobody
touches it before this has been asked.  libcuda is loaded here, but spoken to in a process of its own: cuInit would
spoil CUDA for children forked from this one, and a broken driver may never answer.

    cuDriverGetVersion  cuInit
    success             success     host memory now, CUDA memory where a reader for it exists
    success             an error    host memory only, compatibility mode forced on (no GPU, or a stand-in library)
    an error            -           not usable: kvikio's own start-up fails or hangs
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ANSWER_LIMIT_S = 1.5
DRIVER_LIMIT_S = 20.0  # with a kernel driver and no persistence mode cuInit takes seconds for each GPU

_KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
_ELSE = "or use another engine"
_QUESTION = """
import ctypes

cuda = ctypes.CDLL("libcuda.so.1")
version, name = ctypes.c_int(), ctypes.c_char_p()
for code in cuda.cuDriverGetVersion(ctypes.byref(version)), cuda.cuInit(0):
    cuda.cuGetErrorName(code, ctypes.byref(name))
    print((name.value or b"error %d" % code).decode() if code else "")
"""


@dataclass(frozen=True, slots=True)
class KvikioProbe:
    """`missing`: why kvikio cannot be used, and the way out.  `cuda_error`: what cuInit fails with.  None: all well."""

    missing: str | None
    cuda_error: str | None = None


class _SilentDriverError(Exception):
    """Nobody answered."""


def kvikio_unavailable() -> str | None:
    """Why kvikio cannot be used here, with the way out, or None; within two seconds where there is no driver."""
    return probe_kvikio().missing


def probe_kvikio() -> KvikioProbe:
    """Ask whether kvikio is installed, whether libcuda.so.1 loads, and what the driver behind it answers."""
    if importlib.util.find_spec("kvikio") is None:
        return KvikioProbe(f"kvikio is not installed; install iobench with its extra `gpu`, {_ELSE}")
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        why = f"libcuda.so.1 cannot be loaded ({error}), and kvikio needs it even to read into host memory"
        return KvikioProbe(f"{why}; install the NVIDIA driver, {_ELSE}")
    try:
        version_error, cuda_error = _ask_driver(DRIVER_LIMIT_S if _KERNEL_DRIVER.exists() else ANSWER_LIMIT_S)
    except _SilentDriverError as error:
        return KvikioProbe(f"{error}; see whether `nvidia-smi` answers, {_ELSE}")
    if version_error:
        why = f"libcuda.so.1 is not a driver's: cuDriverGetVersion answers {version_error}"
        return KvikioProbe(f"{why}; put the driver's own before it on the library path, {_ELSE}")
    return KvikioProbe(None, cuda_error or None)


def _ask_driver(limit_s: float) -> tuple[str, str]:
    """The errors of cuDriverGetVersion and of cuInit, empty where they succeed."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _QUESTION],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        answer, complaint = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()  # not waited for: a process that is stuck inside the driver does not end before the driver does
        raise _SilentDriverError(f"the CUDA driver did not answer within {limit_s:g} s") from None
    lines = answer.splitlines()
    if process.returncode or len(lines) != 2:
        last = (complaint.splitlines() or [f"exit status {process.returncode}"])[-1]
        raise _SilentDriverError(f"asking the CUDA driver failed ({last})")
    return lines[0], lines[1]
