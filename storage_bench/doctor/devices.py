"""The disks under a mount, and how their queues are set.

    mount -> block device -> through dm and md (slaves) -> disks -> /sys/block/NAME/queue

A stack of them reads from the top: dm-0 on md0 on nvme0n1 on nvme1n1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...results.mounts import Mount, block_devices
from .finding import text_of

SYS = Path("/sys")


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk, as /sys/block has it; None where the kernel does not say."""

    name: str
    model: str | None
    size_bytes: int | None
    rotational: bool | None
    scheduler: str | None
    num_requests: int | None
    num_queues: int
    logical_bytes: int | None
    physical_bytes: int | None
    max_read_kib: int | None
    read_ahead_kib: int | None
    numa_node: int | None

    @property
    def is_nvme(self) -> bool:
        """Whether it is an NVMe device, here or over a fabric; by its name, as the kernel gives it."""
        return self.name.startswith("nvme")

    @property
    def advice(self) -> str:
        """What to set otherwise, or nothing."""
        if self.is_nvme and self.scheduler not in (None, "none"):
            return f"echo none > /sys/block/{self.name}/queue/scheduler"
        return ""

    def __str__(self) -> str:
        words = [self.name, *([self.model] if self.model else [])]
        words += [f"{self.size_bytes / 1e9:.0f} GB"] if self.size_bytes else []
        words += {True: ["rotating"], False: ["not rotating"], None: []}[self.rotational]
        words.append(f"scheduler {self.scheduler or 'not known'}")
        words.append(f"{self.num_queues or 1} queue(s) of {self.num_requests}")
        words.append(f"sectors {self.logical_bytes}/{self.physical_bytes} B")
        words.append(f"requests of at most {self.max_read_kib} KiB, read-ahead {self.read_ahead_kib} KiB")
        words += [f"NUMA node {self.numa_node}"] if self.numa_node is not None and self.numa_node >= 0 else []
        return ", ".join(words)


def disks_of(mount: Mount, *, sysfs: Path = SYS) -> list[Disk]:
    """The disks that hold a mount; none for file systems that lie on no block device of this machine."""
    return [_disk(row, sysfs / "block" / row["name"]) for row in block_devices(mount, sysfs=sysfs)]


def stack_of(mount: Mount, *, sysfs: Path = SYS) -> list[str]:
    """The devices from the mounted one down to the disks, `["dm-0", "md0", "nvme0n1", "nvme1n1"]`."""
    number = mount.device
    if number.startswith("0:"):
        if not mount.source.startswith("/dev/"):
            return []
        node = os.stat(mount.source).st_rdev
        number = f"{os.major(node)}:{os.minor(node)}"
    return list(dict.fromkeys(_below((sysfs / "dev/block" / number).resolve())))


def _below(device: Path) -> Iterator[str]:
    yield device.name
    slaves = sorted((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
    for slave in slaves:
        yield from _below(slave.resolve())


def _disk(row: dict[str, object], folder: Path) -> Disk:
    queue = folder / "queue"
    size, rotational = row["size_bytes"], row["rotational"]
    return Disk(
        name=folder.name,
        model=str(row["model"]) if row["model"] else None,
        size_bytes=size if isinstance(size, int) else None,
        rotational=rotational if isinstance(rotational, bool) else None,
        scheduler=str(row["scheduler"]) if row["scheduler"] else None,
        num_requests=_number(queue / "nr_requests"),
        num_queues=len(list((folder / "mq").iterdir())) if (folder / "mq").is_dir() else 0,
        logical_bytes=_number(queue / "logical_block_size"),
        physical_bytes=_number(queue / "physical_block_size"),
        max_read_kib=_number(queue / "max_sectors_kb"),
        read_ahead_kib=_number(queue / "read_ahead_kb"),
        numa_node=_number(folder / "device/numa_node"),
    )


def _number(path: Path) -> int | None:
    text = text_of(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None
