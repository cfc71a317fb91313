"""Which mount holds a file, asked of the kernel by its number and not guessed from the path.

    open(path, O_PATH) -> /proc/self/fdinfo/FD "mnt_id: 27" -> the line of /proc/self/mountinfo that begins with 27

A path alone does not tell: mounts may lie over each other, and a folder may be mounted in several places.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .counter import Roots


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo (proc_pid_mountinfo(5)).

    `device` is "major:minor", `root` the part of the file system that is mounted, `options` those of the mount and of
    the file system.
    """

    mount_id: int
    device: str
    root: Path
    point: Path
    fstype: str
    source: str
    options: tuple[str, ...]

    @property
    def settings(self) -> dict[str, str]:
        """Its options by name; those without a value have an empty one."""
        return dict(option.partition("=")[::2] for option in self.options)


def mount_of(path: Path, *, roots: Roots = Roots()) -> Mount | None:  # noqa: B008
    """The mount that holds `path`, which must exist; None where the kernel does not show it (a detached mount).

    Raises OSError where `path` cannot be looked up.  The file itself is not opened.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info = (roots.proc / "self/fdinfo" / str(fd)).read_text()
    finally:
        os.close(fd)
    found = re.search(r"^mnt_id:\s*(\d+)$", info, re.MULTILINE)
    if found is None:
        return None
    return read_mounts(roots=roots).get(int(found[1]))


def read_mounts(*, roots: Roots = Roots()) -> dict[int, Mount]:  # noqa: B008
    """All mounts of this process by their number."""
    text = (roots.proc / "self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    mounts = (_parse(line) for line in text.splitlines() if " - " in line)
    return {mount.mount_id: mount for mount in mounts}


def unescape(text: str) -> str:
    r"""Blanks, tabs, line ends and backslashes are written in octal: \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _parse(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    number, _, device, root, point, options, *_ = before.split(" ")
    fstype, source, of_super_block = [*after.split(" "), "", ""][:3]
    merged = dict.fromkeys([*options.split(","), *of_super_block.split(",")])
    return Mount(
        mount_id=int(number),
        device=device,
        root=Path(unescape(root)),
        point=Path(unescape(point)),
        fstype=unescape(fstype),
        source=unescape(source),
        options=tuple(unescape(option) for option in merged if option),
    )
