"""The software: Python, torch, DALI, Horovod and what it was built with.  Looked up, the heavy ones never imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import mmap
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from .finding import Seen, Subject, text_of

DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110")
SETUP = "run `make setup` in a clone of iobench, which builds it against the installed torch"
# Names of classes that are compiled in only with what they stand for.
HOROVOD_MARKS = {"Gloo": b"GlooController", "MPI": b"MPIController", "NCCL": b"NCCLAllreduce"}


def python(_path: Path) -> Seen:
    """The interpreter, and the cores it may use."""
    cores = len(os.sched_getaffinity(0))
    return Seen(True, f"version {sys.version.split()[0]}, may use {cores} of {os.cpu_count()} logical cores")


def torch(_path: Path) -> Seen:
    """Its version, and the CUDA that it was built for."""
    version = _version("torch")
    if version is None:
        return Seen(False, "not installed", "pip install iobench")
    told = "".join(text_of(Path(folder) / "version.py") or "" for folder in _folders("torch"))
    built = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)", told, re.MULTILINE)
    return Seen(True, f"version {version}, built for {f'CUDA {built[1]}' if built else 'the CPU alone'}")


def jpeg_regions(_path: Path) -> Seen:
    """Whether the compiled part is there that decodes only what a crop needs."""
    from ...loaders.images.regions import why_missing

    missing = why_missing()
    if missing is None:
        return Seen(True, "decoder libjpeg-turbo makes no more pixels than a crop needs")
    reason, _, advice = missing.partition("; ")
    return Seen(False, f"{reason}: whole images are decoded", advice)


def horovod(_path: Path) -> Seen:
    """Whether it was built for torch, with which controllers and collectives; read from its library, not started."""
    version = _version("horovod")
    if version is None:
        return Seen(False, "not installed: one rank works, more ranks and `qualify` do not", SETUP)
    libraries = [library for folder in _folders("horovod") for library in Path(folder).glob("torch/mpi_lib*.so")]
    if not libraries:
        return Seen(False, f"version {version}, built without torch", SETUP)
    built = [name for name, mark in HOROVOD_MARKS.items() if _holds(libraries[0], mark)]
    parts = (f"{name} {'yes' if name in built else 'no'}" for name in HOROVOD_MARKS)
    return Seen("Gloo" in built or "MPI" in built, f"version {version}, built for torch: {', '.join(parts)}")


def _package(name: str, advice: str, *, distributions: tuple[str, ...] = ()) -> Callable[[Path], Seen]:
    def look(_path: Path) -> Seen:
        version = next((text for each in distributions or (name,) if (text := _version(each))), None)
        return Seen(True, f"version {version}") if version else Seen(False, "not installed", advice)

    return look


def _holds(library: Path, mark: bytes) -> bool:
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        return memory.find(mark) >= 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folders(name: str) -> list[str]:
    spec = importlib.util.find_spec(name)
    return list(spec.submodule_search_locations or []) if spec else []


SUBJECT = Subject(
    "software",
    __name__,
    {
        "python": python,
        "torch": torch,
        "numpy": _package("numpy", "pip install iobench"),
        "DALI": _package("DALI", "install iobench with its extra `gpu`", distributions=DALI),
        "JPEG crops": jpeg_regions,
        "obstore": _package("obstore", "install iobench with its extra `s3`"),
        "ranks (horovod)": horovod,
    },
)
