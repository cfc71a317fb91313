"""`iobench doctor`: what can be used here, why the rest cannot, and what to do about it.  Nothing here hangs.

Packages are looked up, not imported: an import of a GPU library without a driver may spin for ever.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..loaders.evidence import counter_for
from ..loaders.page_cache import resident_bytes
from ..loaders.readers import DirectRefusedError, ReadError, direct_refused
from ..results.environment import mount_of

NEEDED_OPEN_FILES = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: whether it is available, what was seen, and the way out where it is not."""

    name: str
    available: bool | None
    seen: str
    advice: str = ""


def examine(path: Path) -> list[Finding]:
    """Look at this machine, and at the file system that `path` is on or will be on."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return [
        _python(),
        *_packages(),
        _horovod(),
        _gpu(),
        _gds(),
        _file_system(folder),
        _counter(folder),
        _direct(path if path.is_file() else folder),
        _residency(path if path.is_file() else folder),
        _open_files(),
    ]


def _python() -> Finding:
    return Finding("python", True, f"{sys.version.split()[0]} at {os.cpu_count()} logical cores")


def _packages() -> Iterator[Finding]:
    for name, advice in (("torch", "pip install iobench"), ("numpy", "pip install iobench")):
        version = _version(name)
        yield Finding(name, version is not None, version or "not installed", "" if version else advice)


def _horovod() -> Finding:
    version = _version("horovod")
    if version is None:
        return Finding(
            "ranks (horovod)",
            False,
            "not installed: one rank works, more ranks and `qualify` do not",
            "run `make setup` in a clone of iobench, which builds it against the installed torch",
        )
    spec = importlib.util.find_spec("horovod")
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    if any(folder.glob("torch/mpi_lib*.so") for folder in folders):
        return Finding("ranks (horovod)", True, f"{version}, built for torch")
    advice = "run `make setup` in a clone of iobench"
    return Finding("ranks (horovod)", False, f"{version}, built without torch", advice)


def _gpu() -> Finding:
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    if devices:
        return Finding("GPU", True, f"{len(devices)} NVIDIA device(s); routes into its memory are not there yet")
    return Finding("GPU", False, "no /dev/nvidia*: accelerators are emulated", "use a machine with an NVIDIA driver")


def _gds() -> Finding:
    missing = []
    if not Path("/proc/driver/nvidia-fs/stats").exists():
        missing.append("no nvidia-fs module")
    if importlib.util.find_spec("kvikio") is None:
        missing.append("kvikio not installed")
    seen = "; ".join(missing) or "nvidia-fs and kvikio are here"
    return Finding("route gds", not missing, seen, "batches go to host memory" if missing else "")


def _file_system(folder: Path) -> Finding:
    mount = mount_of(folder)
    free = shutil.disk_usage(folder).free
    return Finding("file system", True, f"{mount.fstype} from {mount.source}, {free / 1e9:.1f} GB free")


def _counter(folder: Path) -> Finding:
    counter = counter_for([folder])
    if counter.counter_class == "exact":
        return Finding("byte counter", True, f"exact: {counter.reason}")
    return Finding("byte counter", False, counter.reason, "figures are reported as `route not proven`")


def _direct(place: Path) -> Finding:
    sample = place if place.is_file() else _any_file(place)
    if sample is None:
        return Finding("engine direct", None, "no file to try O_DIRECT on", "name a data folder or a file")
    try:
        refused = direct_refused(sample)
    except (DirectRefusedError, ReadError) as error:
        refused = f"reading {sample.name} failed: {error.strerror}"
    return Finding(
        "engine direct", refused is None, refused or "O_DIRECT works", "use --engine buffered" if refused else ""
    )


def _residency(place: Path) -> Finding:
    sample = place if place.is_file() else _any_file(place)
    if sample is None:
        return Finding("residency", None, "no file to ask about", "name a data folder or a file")
    if resident_bytes(sample) is None:
        return Finding("residency", False, "the kernel does not tell", "own the files, or use Linux 6.5 or newer")
    return Finding("residency", True, "the kernel tells what is in the page cache")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= NEEDED_OPEN_FILES
    return Finding("open files", enough, f"limit {soft}, at most {hard}", "" if enough else "ulimit -n 4096")


def _any_file(folder: Path) -> Path | None:
    try:
        files = (entry for entry in sorted(folder.iterdir()) if entry.is_file() and entry.stat().st_size)
        return next((entry for entry in files if os.access(entry, os.R_OK)), None)
    except OSError:
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
