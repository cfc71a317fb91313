"""The name of a decoder with its version, as this process has it; imports nothing, for processes that are measured."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_TURBO = re.compile(rb"libjpeg-turbo version (\d+(?:\.\d+)+)")


def with_version(name: str) -> str:
    """`simplejpeg 1.9.0`; what is not known here, or comes with its version already, as it is."""
    found = ""
    if name == "libjpeg-turbo":
        found = _turbo_version()
    elif name == "simplejpeg":
        with suppress(PackageNotFoundError):
            found = version(name)
    return f"{name} {found}" if found else name


@cache
def _turbo_version() -> str:
    """Of the copies of libjpeg-turbo that this process has mapped, each as its own file says."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        paths = dict.fromkeys(line.split(maxsplit=5)[-1] for line in lines if "/libjpeg" in line)
        found = [match for path in paths if (match := _TURBO.search(Path(path).read_bytes()))]
    except OSError:
        return ""
    return " or ".join(dict.fromkeys(match[1].decode() for match in found))
