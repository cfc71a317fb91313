"""Where a run took place: the machine, the software, and the file system under the data.

What cannot be read is None, or an empty list beside its reason.  No user names, home directories, environment
variables or credentials get in.  Nothing here waits for ever: GPUs and file systems that do not answer are left out
with the reason.
"""

from __future__ import annotations

import os
import platform
import re
import threading
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .mounts import MountError, block_devices, mount_of, text_of
from .privacy import public_option, public_path, without_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Answer = TypeVar("Answer")

PATIENCE_S = 5.0

DISTRIBUTIONS = {
    "torch": ("torch",),
    "horovod": ("horovod",),
    "numpy": ("numpy",),
    "kvikio": ("kvikio-cu13", "kvikio-cu12", "kvikio"),
    "nvidia-dali": ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110"),
}


def collect(path: Path | None = None) -> dict[str, Any]:
    """The machine and the software, and with a path the file system and block devices under it."""
    gpus, gpus_reason = _gpus()
    return {
        "host": platform.node(),
        "os": _os_name(),
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu": {
            "model": _cpu_model(),
            "logical_cores": os.cpu_count(),
            "usable_cores": len(os.sched_getaffinity(0)),
            "governor": text_of(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        },
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "in_container": _in_container(),
        "gpus": gpus,
        "gpus_reason": gpus_reason,
        "python": platform.python_version(),
        "iobench": _version(("iobench",)),
        "versions": {name: _version(names) for name, names in DISTRIBUTIONS.items()},
        "storage": None if path is None else _storage(path),
    }


def _storage(path: Path) -> dict[str, Any]:
    """The file system under `path`; one that does not answer in time leaves only the reason."""
    found, reason = _within(PATIENCE_S, lambda: _ask_storage(path), who="the file system")
    return {"path": public_path(path), **(found or {}), "reason": reason}


def _ask_storage(path: Path) -> dict[str, Any]:
    mount = mount_of(path)
    space = os.statvfs(mount.mount_point)
    devices = block_devices(mount)
    return {
        "mount_point": public_path(mount.mount_point),
        "fstype": mount.fstype,
        "source": without_names(mount.source),
        "options": [public_option(option) for option in mount.options],
        "free_bytes": space.f_bavail * space.f_frsize,
        "devices": devices,
        "devices_reason": None if devices else f"{mount.fstype} lies on no block device that this machine shows",
    }


def _gpus() -> tuple[list[dict[str, Any]], str | None]:
    """NVIDIA GPUs as NVML tells them; an empty list comes with its reason."""
    if find_spec("pynvml") is None:
        return [], "nvidia-ml-py is not installed (extra `gpu`)"
    answer, reason = _within(PATIENCE_S, _ask_nvml, who="NVML")
    return answer or ([], reason)


def _ask_nvml() -> tuple[list[dict[str, Any]], str | None]:
    nvml: Any = import_module("pynvml")
    try:
        nvml.nvmlInit()
        driver = nvml.nvmlSystemGetDriverVersion()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        gpus = [
            {
                "name": nvml.nvmlDeviceGetName(handle),
                "memory_bytes": nvml.nvmlDeviceGetMemoryInfo(handle).total,
                "driver": driver,
            }
            for handle in handles
        ]
        nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        return [], f"NVML: {error}"
    return gpus, None if gpus else "NVML finds no GPU"


def _within(seconds: float, ask: Callable[[], Answer], *, who: str) -> tuple[Answer | None, str | None]:
    """The answer of `ask`, or None and the reason; a call stuck in the kernel is left to its daemon thread."""
    answers: list[Answer] = []
    refusals: list[str] = []

    def run() -> None:
        try:
            answers.append(ask())
        except (OSError, MountError) as error:
            refusals.append(without_names(f"{who}: {error}"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0], None
    if thread.is_alive():
        return None, f"{who} did not answer within {seconds:g} s"
    return None, refusals[0] if refusals else f"{who}: failed, the error stands on stderr"


def _version(distributions: Sequence[str]) -> str | None:
    """The version of the first of these distributions that is installed; nothing is imported."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _os_name() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _cpu_model() -> str | None:
    model = re.search(r"^model name\s*:\s*(.+)$", text_of(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return model[1] if model else platform.machine() or None


def _in_container() -> bool:
    """Docker, podman, Kubernetes, LXC and systemd-nspawn leave one of these marks."""
    if any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")):
        return True
    return re.search(r"docker|kubepods|containerd|lxc", text_of(Path("/proc/1/cgroup")) or "") is not None
