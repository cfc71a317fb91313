"""Where a run took place: the machine, the software, and the file system under the data.

    path -> mount (/proc/self/mountinfo) -> block device -> through partitions, dm and md -> its leaves (/sys)

What cannot be read is None, or an empty list beside its reason.  No user names, home directories, environment
variables or credentials get in.  Nothing here waits for ever: GPUs and file systems that do not answer are left out
with the reason.
"""

from __future__ import annotations

import os
import platform
import pwd
import re
import threading
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Answer = TypeVar("Answer")

PATIENCE_S = 5.0
SECTOR_BYTES = 512  # the unit of /sys/block/*/size, whatever the device's own sector

DISTRIBUTIONS = {
    "torch": ("torch",),
    "horovod": ("horovod",),
    "numpy": ("numpy",),
    "kvikio": ("kvikio-cu13", "kvikio-cu12", "kvikio"),
    "nvidia-dali": ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110"),
}
PRIVATE_OPTIONS = re.compile(
    r"(?i)(user|username|user_id|group_id|uid|gid|cruid|name|domain|cred.*|pass.*|.*(secret|key|token).*)="
)


class MountError(RuntimeError):
    """No file system is found under a path."""

    exit_status: ClassVar[int] = 4


@dataclass(frozen=True)
class Mount:
    """One mounted file system, as /proc/self/mountinfo has it; `device` is "major:minor"."""

    mount_point: str
    fstype: str
    source: str
    options: tuple[str, ...]
    device: str


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
            "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
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


def mount_of(path: Path) -> Mount:
    """The file system that holds `path`, symbolic links followed; the path itself need not exist yet.

    FUSE file systems carry their subtype (fuse.glusterfs).  Waits for as long as the file system does not answer.
    """
    return covering(parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8")), Path(path).resolve())


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts of /proc/self/mountinfo, in its order (proc_pid_mountinfo(5)).

    27 1 254:0 / /mnt rw,relatime [optional fields] - ext4 /dev/vda1 rw,discard
          device  root  point options               fstype source super options
    """
    return [_parse_mount(line) for line in text.splitlines() if " - " in line]


def covering(mounts: Sequence[Mount], path: Path) -> Mount:
    """The mount with the longest mount point that is a parent of `path`; of two at one point the later, upper one."""
    parents = {str(parent) for parent in (path, *path.parents)}
    held_by = [mount for mount in mounts if mount.mount_point in parents]
    if not held_by:
        raise MountError(f"{path}: no file system in /proc/self/mountinfo holds it; give an absolute path")
    return max(reversed(held_by), key=lambda mount: len(mount.mount_point))


def block_devices(mount: Mount, *, sysfs: Path = Path("/sys")) -> list[dict[str, Any]]:
    """The disks that hold a mount: partitions taken back to their disk, dm and md followed to their leaves.

    Empty for file systems that lie on no block device of this machine (NFS, FUSE, tmpfs, overlay).
    """
    number = _device_number(mount)
    if number is None or not (sysfs / "dev/block" / number).exists():
        return []
    disks = dict.fromkeys(_leaves((sysfs / "dev/block" / number).resolve()))
    return [_describe_disk(disk) for disk in disks]


def public_path(path: Path | str) -> str:
    """A path that may be shown to others: the home directory becomes ~, the user's own name elsewhere $USER."""
    text = str(path)
    home = os.path.expanduser("~").rstrip("/")
    if home.startswith("/") and (text == home or text.startswith(home + "/")):
        text = "~" + text[len(home) :]
    name = _user_name()
    return "/".join("$USER" if name and part == name else part for part in text.split("/"))


def public_text(text: str) -> str:
    """A message that may be shown to others: every path in it as `public_path` shows it."""
    return " ".join(public_path(word) if "/" in word else word for word in text.split(" "))


def _parse_mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    _, _, device, _, point, options, *_ = before.split(" ")
    fstype, source, super_options = [*after.split(" "), "", ""][:3]
    merged = dict.fromkeys([*options.split(","), *super_options.split(",")])
    return Mount(
        mount_point=_unescape(point),
        fstype=_unescape(fstype),
        source=_unescape(source),
        options=tuple(_unescape(option) for option in merged if option),
        device=device,
    )


def _unescape(text: str) -> str:
    r"""Blanks and the like are written as octal: \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _device_number(mount: Mount) -> str | None:
    """The mount's own device number or, where that is anonymous (btrfs), the one of its source in /dev."""
    if not mount.device.startswith("0:"):
        return mount.device
    if not mount.source.startswith("/dev/"):
        return None
    try:
        number = os.stat(mount.source).st_rdev
    except OSError:
        return None
    return f"{os.major(number)}:{os.minor(number)}"


def _leaves(device: Path) -> Iterable[Path]:
    """The disks below one device folder of /sys."""
    if (device / "partition").exists():
        device = device.parent
    below = sorted((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
    for slave in below:
        yield from _leaves(slave.resolve())
    if not below:
        yield device


def _describe_disk(disk: Path) -> dict[str, Any]:
    sectors = _text(disk / "size")
    rotational = _text(disk / "queue/rotational")
    scheduler = re.search(r"\[(.+?)\]", _text(disk / "queue/scheduler") or "")
    return {
        "name": disk.name,
        "model": _text(disk / "device/model"),
        "size_bytes": None if sectors is None else int(sectors) * SECTOR_BYTES,
        "rotational": None if rotational is None else rotational == "1",
        "scheduler": scheduler[1] if scheduler else _text(disk / "queue/scheduler"),
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
        "source": _without_names(mount.source),
        "options": [_public_option(option) for option in mount.options],
        "free_bytes": space.f_bavail * space.f_frsize,
        "devices": devices,
        "devices_reason": None if devices else f"{mount.fstype} lies on no block device that this machine shows",
    }


def _public_option(option: str) -> str:
    key, _, _ = option.partition("=")
    return f"{key}=(hidden)" if PRIVATE_OPTIONS.match(option) else _without_names(option)


def _without_names(text: str) -> str:
    """Without `user:password@` and without the names below /home."""
    text = re.sub(r"(^|//|=)[^/@=\s]+@", r"\1", text)
    return re.sub(r"/home/[^/:,\s]+", "/home/$USER", public_path(text))


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
            refusals.append(_without_names(f"{who}: {error}"))

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
    model = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return model[1] if model else platform.machine() or None


def _in_container() -> bool:
    """Docker, podman, Kubernetes, LXC and systemd-nspawn leave one of these marks."""
    if any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")):
        return True
    return re.search(r"docker|kubepods|containerd|lxc", _text(Path("/proc/1/cgroup")) or "") is not None


def _user_name() -> str | None:
    """The login name, None for root (which names no person) and for numbers without one."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name if os.getuid() else None
    except KeyError:
        return None


def _text(path: Path) -> str | None:
    """The stripped text of a small file of /proc or /sys, None where there is none to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
