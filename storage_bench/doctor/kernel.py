"""The running kernel: its release, what it was built with, what it was started with."""

from __future__ import annotations

import gzip
import platform
import re
from pathlib import Path

from .finding import text_of

CONFIG = Path("/proc/config.gz")


def kernel_release() -> tuple[int, int]:
    """Major and minor, (6, 8); (0, 0) where the name says nothing."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def kernel_option(name: str) -> bool | None:
    """Whether the kernel was built with CONFIG_...; None where its configuration is not to be found."""
    text = _config()
    return None if text is None else re.search(rf"^{name}=[ym]$", text, re.MULTILINE) is not None


def boot_words() -> list[str]:
    """The words of the kernel's command line."""
    return (text_of("/proc/cmdline") or "").split()


def _config() -> str | None:
    """Where the kernel shows it, else where distributions put it beside the kernel or its modules."""
    release = platform.release()
    try:
        return gzip.decompress(CONFIG.read_bytes()).decode(errors="replace")
    except (OSError, EOFError, gzip.BadGzipFile):
        places = (f"/boot/config-{release}", f"/lib/modules/{release}/config", f"/lib/modules/{release}/build/.config")
        return next((text for place in places if (text := text_of(place))), None)
