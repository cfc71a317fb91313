"""nvidia-fs: what the GPUDirect Storage module moved from storage into GPU memory, for all processes.

    GDS Version: 1.16.0.x
    NVFS statistics(ver: 4.0)
    IO stats: Enabled, peer IO stats: Enabled
    Reads                           : n=1048576 ok=1048576 err=0 readMiB=1048576 io_state_err=0

In MiB, and only while `IO stats` are enabled (module parameter rw_stats_enabled); else the figure is left out, or 0.
Source: nvfs_stats_show() in nvfs-stat.c of NVIDIA/gds-nvidia-fs.  PCI peer-to-peer DMA (CUDA 12.8) does not pass here,
and WEKA's reads are not counted (NVIDIA's troubleshooting guide, 12.12).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .counter import CounterClass, Roots

MIB = 1 << 20
RESOLUTION_BYTES = MIB


@dataclass(frozen=True)
class NvidiaFsCounter:
    """Bytes read by the module since it was loaded."""

    stats: Path
    name: str = "nvidia_fs_read_bytes"
    counter_class: CounterClass = "exact"
    reason: str = "MiB that nvidia-fs read"
    leaves: tuple[str, ...] = ()

    def read_bytes(self) -> int | None:
        """Bytes, in steps of a MiB; None without the module, or where it does not count."""
        try:
            text = self.stats.read_text()
        except OSError:
            return None
        counts = re.search(r"\breadMiB=(\d+)", text)
        if counts is None or re.search(r"^IO stats: Disabled", text, re.MULTILINE):
            return None
        return int(counts[1]) * MIB


def nvidia_fs_counter(*, roots: Roots = Roots()) -> NvidiaFsCounter:  # noqa: B008
    """The module's counter, whether or not it is loaded."""
    return NvidiaFsCounter(roots.proc / "driver/nvidia-fs/stats")
