"""What stands between two PCI devices that would speak to each other: the IOMMU, and access control (ACS).

    config space   0x00 standard header ...   0x100 extended capabilities, each  u16 id, u16 version:4 | next:12
                   ACS (id 0x000D)            +4 u16 what the port can do   +6 u16 what is switched on

With ACS switched on a bridge sends what is meant for its neighbour up to the root, where it is slow or lost.
Configuration beyond the first 64 bytes is shown to root alone.  (PCI Express Base Specification, 7.7.8 and 7.7.11.)
"""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

from .finding import Seen, text_of
from .kernel import boot_words

GROUPS = Path("/sys/kernel/iommu_groups")
DEVICES = Path("/sys/bus/pci/devices")
BRIDGE_CLASS = "0x0604"
EXTENDED_CONFIG = 0x100
ACS_ID = 0x000D
ACS_REDIRECTS = 0x1C  # request redirect, completion redirect, upstream forwarding
CONFIG_BYTES = 4096
DIRECT = ("identity",)


def iommu(_path: Path) -> Seen:
    """Whether an IOMMU translates what devices send each other; GPUDirect Storage wants it off or passing through."""
    groups = list(GROUPS.glob("*"))
    words = [word for word in boot_words() if "iommu" in word]
    if not groups:
        return Seen(True, "off: devices reach memory directly")
    kinds = Counter(text_of(group / "type") or "not told" for group in groups)
    told = ", ".join(f"{count} groups {kind}" for kind, count in kinds.items())
    text = f"on: {told}" + (f" ({' '.join(words)})" if words else "")
    if all(kind in DIRECT for kind in kinds):
        return Seen(True, f"{text}: passing through")
    return Seen(None, f"{text}: translating", "only for GPUs that read storage directly: boot with iommu=pt or off")


def access_control(_path: Path) -> Seen:
    """Whether a PCI bridge sends traffic between its neighbours by way of the root."""
    bridges = [folder for folder in DEVICES.glob("*") if (text_of(folder / "class") or "").startswith(BRIDGE_CLASS)]
    if not bridges:
        return Seen(True, "no PCI bridges")
    controls = {folder.name: acs_control((folder / "config").read_bytes()) for folder in bridges}
    if all(control is None for control in controls.values()):
        return Seen(None, f"{len(bridges)} PCI bridges, which tell root alone", "run as root to see it")
    redirecting = sorted(name for name, control in controls.items() if (control or 0) & ACS_REDIRECTS)
    if not redirecting:
        return Seen(True, f"off on all of {len(bridges)} PCI bridges")
    shown = ", ".join(redirecting[:4]) + (" and others" if len(redirecting) > 4 else "")
    advice = "only for GPUs that read storage directly: switch ACS off in the firmware, or with setpci"
    return Seen(None, f"on at {len(redirecting)} of {len(bridges)} PCI bridges ({shown})", advice)


def acs_control(config: bytes) -> int | None:
    """The ACS control register of a device's configuration, 0 where it has none; None where only root may see it."""
    if len(config) < CONFIG_BYTES:
        return None
    offset, visited = EXTENDED_CONFIG, set[int]()
    while offset >= EXTENDED_CONFIG and offset not in visited:
        visited.add(offset)
        identity, link = struct.unpack_from("<HH", config, offset)
        if identity == ACS_ID:
            (control,) = struct.unpack_from("<H", config, offset + 6)
            return int(control)
        offset = link >> 4
    return 0
