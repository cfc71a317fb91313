"""cuFile: where its library is, and what its configuration says.

    $CUFILE_ENV_PATH_JSON, else /etc/cufile.json:  JSON with // and /* */ comments, and commas before closing brackets

    properties.allow_compat_mode   host memory where a direct way is not possible (the default), instead of an error
    properties.force_compat_mode   host memory always
    properties.use_pci_p2pdma, block.nvme.use_pci_p2pdma     peer-to-peer DMA instead of nvidia-fs

$CUFILE_ALLOW_COMPAT_MODE, $CUFILE_FORCE_COMPAT_MODE and $CUFILE_USE_PCIP2PDMA win over the file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...results.privacy import public_path
from .finding import Seen

PLACE = Path("/etc/cufile.json")
VARIABLE = "CUFILE_ENV_PATH_JSON"
OVERRIDES = {
    "CUFILE_ALLOW_COMPAT_MODE": "allow_compat",
    "CUFILE_FORCE_COMPAT_MODE": "force_compat",
    "CUFILE_USE_PCIP2PDMA": "use_p2pdma",
}
LIBRARY_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/*/lib", "/usr/lib/*-linux-gnu", "/usr/lib64")
_SWITCHES = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}
_TOKENS = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/|,(?=\s*[}\]])', re.DOTALL)


class CufileConfigError(ValueError):
    """The configuration is not what cuFile reads; the message says where."""

    exit_status = 4


@dataclass(frozen=True, slots=True)
class CufileConfig:
    """What matters of it; without a file these are cuFile's defaults.  `problem`: why the file could not be read."""

    path: Path | None = None
    allow_compat: bool = True
    force_compat: bool = False
    use_p2pdma: bool = False
    log_level: str = "ERROR"
    problem: str = ""


def configuration() -> CufileConfig:
    """The configuration a program started from here gets, with what the environment changes in it."""
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else PLACE
    if not path.exists():
        problem = f"${VARIABLE} names {named}, which does not exist" if named else ""
        return _with_environment(CufileConfig(problem=problem))
    try:
        found = read_configuration(path)
    except (CufileConfigError, OSError) as error:
        found = CufileConfig(path, problem=str(error))
    return _with_environment(found)


def read_configuration(path: Path) -> CufileConfig:
    """One file's settings; raises CufileConfigError with file and line."""
    try:
        document = parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CufileConfigError(f"{path}: {error}; compare it with the one beside cuFile's samples") from error
    properties, nvme = _table(document, "properties"), _table(_table(document, "block"), "nvme")
    return CufileConfig(
        path=path,
        allow_compat=bool(properties.get("allow_compat_mode", True)),
        force_compat=bool(properties.get("force_compat_mode", False)),
        use_p2pdma=bool(properties.get("use_pci_p2pdma", False) or nvme.get("use_pci_p2pdma", False)),
        log_level=str(_table(document, "logging").get("level", "ERROR")),
    )


def parse(text: str) -> dict[str, Any]:
    """JSON with comments as a mapping; raises ValueError with the line of the first mistake.

    Comments become blanks of the same lines, so that the line in a message is that of the file.
    """
    plain = _TOKENS.sub(lambda found: found[0] if found[0][0] == '"' else re.sub(r"[^\n]", " ", found[0]), text)
    plain = _TOKENS.sub(lambda found: found[0] if found[0][0] == '"' else " ", plain)  # commas before former comments
    document = json.loads(plain)
    if not isinstance(document, dict):
        raise ValueError("line 1: not an object { ... }")
    return document


def look_at_configuration(_path: Path) -> Seen:
    """What cuFile is told to do, and what of it hides the way that bytes take."""
    found = configuration()
    if found.problem:
        return Seen(False, found.problem, f"mend it, or name another one in ${VARIABLE}")
    where = f"{found.path}" if found.path else f"no {PLACE}: defaults"
    if found.force_compat:
        return Seen(False, f"{where}: host memory is forced (force_compat_mode)", "set it to false for a direct route")
    words = ["peer-to-peer DMA" if found.use_p2pdma else "nvidia-fs"]
    words.append("host memory where that is not possible" if found.allow_compat else "else an error")
    advice = "set allow_compat_mode to false while measuring: then nothing goes another way unseen"
    loud = found.log_level in ("INFO", "DEBUG", "TRACE")
    words += [f"log level {found.log_level}, which costs time"] if loud else []
    return Seen(True, f"{where}: {', '.join(words)}", advice if found.allow_compat and found.path else "")


def find_libraries() -> list[str]:
    """Every libcufile that would be found: of NVIDIA's wheels, and of a CUDA toolkit."""
    wheels = [Path(place) for place in _package_folders("nvidia")]
    folders = [*(place for wheel in wheels for place in wheel.glob("*/lib"))]
    folders += [place for pattern in LIBRARY_FOLDERS for place in Path("/").glob(pattern.lstrip("/"))]
    found = {str(library.resolve()): None for folder in folders for library in folder.glob("libcufile.so*")}
    return [public_path(library) for library in found]


def _package_folders(name: str) -> list[str]:
    spec = importlib.util.find_spec(name)
    return list(spec.submodule_search_locations or []) if spec else []


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _with_environment(found: CufileConfig) -> CufileConfig:
    """Variables of the environment win over the file."""
    told: dict[str, Any] = {key: _SWITCHES.get(os.environ.get(name, "").lower()) for name, key in OVERRIDES.items()}
    return replace(found, **{key: value for key, value in told.items() if value is not None})
