"""The host: kernel interfaces, limits of this process and of its cgroup, NUMA, clocks."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import resource
import time
from pathlib import Path

from ...loaders.topology import read_topology
from .cores import usable_cores
from .finding import Seen, Subject, text_of
from .limits import cgroup_limits
from .pci import access_control, iommu

IO_URING_SETUP = 425  # the same number on every architecture but alpha
NEEDED_OPEN_FILES = 1024
NODES = Path("/sys/devices/system/node")
CPUFREQ = Path("/sys/devices/system/cpu")
CLOCK = Path("/sys/devices/system/clocksource/clocksource0")
QUICK_CLOCKS = ("tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page", "timebase", "stp")
COARSE_CLOCK_NS = 1000

_libc = ctypes.CDLL(None, use_errno=True)


def io_uring(_path: Path) -> Seen:
    """Whether the kernel lets this process use it: a ring of one entry is set up."""
    disabled = text_of("/proc/sys/kernel/io_uring_disabled")
    fd = _libc.syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(120))
    if fd >= 0:
        os.close(fd)
        return Seen(True, "a ring was set up")
    code = ctypes.get_errno()
    if disabled in ("1", "2"):
        advice = "sysctl kernel.io_uring_disabled=0"
        return Seen(False, f"switched off (kernel.io_uring_disabled={disabled})", advice)
    why = {errno.ENOSYS: "not in this kernel", errno.EPERM: "refused, by a container's seccomp filter perhaps"}
    return Seen(False, why.get(code, os.strerror(code)), "only needed by other tools: iobench reads with threads")


def locked_memory(_path: Path) -> Seen:
    """How much memory may be locked: pinned buffers and RDMA registrations count."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    enough = soft == resource.RLIM_INFINITY or os.geteuid() == 0
    advice = "" if enough else "ulimit -l unlimited, or memlock in /etc/security/limits.conf, for RDMA and io_uring"
    return Seen(True if enough else None, f"limit {_size(soft)}, at most {_size(hard)}", advice)


def open_files(_path: Path) -> Seen:
    """How many files may be open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= NEEDED_OPEN_FILES
    return Seen(enough, f"limit {soft}, at most {hard}", "" if enough else "ulimit -n 4096")


def numa(_path: Path) -> Seen:
    """The memory nodes and their cores; with several, where GPU, NIC and NVMe are attached matters."""
    nodes = sorted(NODES.glob("node[0-9]*"), key=lambda node: int(node.name[4:]))
    if len(nodes) <= 1:
        return Seen(True, "one node")
    text = ", ".join(f"{node.name[4:]}: cores {text_of(node / 'cpulist') or 'none'}" for node in nodes)
    return Seen(True, f"{len(nodes)} nodes ({text})", "run near the device: numactl --cpunodebind N --membind N")


def cores(_path: Path) -> Seen:
    """The cores that this process may use."""
    return usable_cores(read_topology(), online=os.cpu_count() or 1)


def memory(_path: Path) -> Seen:
    """Memory in all, and huge pages."""
    fields = dict(line.split(":", 1) for line in (text_of("/proc/meminfo") or "").splitlines())
    total, free = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    huge = fields["HugePages_Total"].strip()
    return Seen(True, f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB available, {huge} huge pages")


def cgroup(_path: Path) -> Seen:
    """Limits that the cgroup of this process sets on cores, memory and devices; a container has them as well."""
    found = cgroup_limits()
    if not found:
        return Seen(True, "no limits on cores, memory or devices")
    return Seen(None, "; ".join(found), "figures are of this cgroup, not of the machine")


def clock(_path: Path) -> Seen:
    """What time is taken from, and how fine it is."""
    source = text_of(CLOCK / "current_clocksource")
    step = _smallest_step_ns()
    fine = step <= COARSE_CLOCK_NS and (source is None or source in QUICK_CLOCKS)
    advice = "" if fine else "a slow clock spoils latencies: see /sys/devices/system/clocksource, or clocksource=tsc"
    return Seen(fine, f"{source or 'not known'}, steps of {step} ns", advice)


def governor(_path: Path) -> Seen:
    """How the cores' frequency is chosen."""
    found = sorted({text for place in CPUFREQ.glob("cpu[0-9]*/cpufreq/scaling_governor") if (text := text_of(place))})
    if not found:
        return Seen(True, "not set by this system (a virtual machine, or the firmware's)")
    slow = found != ["performance"]
    return Seen(not slow, ", ".join(found), "cpupower frequency-set -g performance, while measuring" if slow else "")


def _smallest_step_ns() -> int:
    """The smallest difference that perf_counter_ns shows in a thousand calls."""
    times = [time.perf_counter_ns() for _ in range(1000)]
    return min((b - a for a, b in itertools.pairwise(times) if b > a), default=COARSE_CLOCK_NS * 1000)


def _size(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit / 1e6:.0f} MB"


SUBJECT = Subject(
    "host",
    __name__,
    {
        "io_uring": io_uring,
        "locked memory": locked_memory,
        "open files": open_files,
        "NUMA": numa,
        "cores": cores,
        "memory": memory,
        "cgroup limits": cgroup,
        "clock": clock,
        "frequency": governor,
        "IOMMU": iommu,
        "ACS": access_control,
    },
)
