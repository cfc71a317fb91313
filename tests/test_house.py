"""The house keeps its order: who may import whom, what the root holds, what is installed, what the command loads."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"loaders", "configs", "results", "storage_bench", "training_bench"}
MAY_IMPORT: dict[str, set[str]] = {
    "loaders": set(),
    "configs": set(),
    "results": set(),
    "storage_bench": {"loaders", "results"},
    "training_bench": {"storage_bench", "loaders", "results"},
    "cli": ROOMS | {"qualify", "gpu_check", "terminal"},  # the roof
    "qualify": ROOMS,
    "gpu_check": ROOMS - {"configs"},
    "terminal": {"results"},
    "__main__": {"cli"},
    "__init__": set(),
}
HEAVY = {"torch", "numpy", "pydantic", "scipy", "jinja2", "horovod", "kvikio", "nvidia"}


def package_files() -> list[Path]:
    rooms = {*ROOMS, "qualify", "gpu_check", "cli"}
    return sorted([*ROOT.glob("*.py"), *(file for room in rooms for file in (ROOT / room).rglob("*.py"))])


def imported_modules(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield every imported name with its full path; relative imports are resolved from `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = tuple(node.module.split(".")) if node.module else ()
            yield from ((*base, *module, alias.name) for alias in node.names)


def imported_rooms(file: Path) -> set[str]:
    package = ("iobench", *file.relative_to(ROOT).parent.parts)
    modules = imported_modules(ast.parse(file.read_text()), package)
    return {module[1] for module in modules if module[0] == "iobench" and len(module) > 1}


def floor_of(file: Path) -> str:
    first = "__main__" if file.name == "__main__.py" else file.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("file", package_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_room_imports_only_rooms_below_it(file: Path) -> None:
    floor = floor_of(file)
    assert floor in MAY_IMPORT, f"{file.relative_to(ROOT)} is new: say here what it may import"
    allowed = MAY_IMPORT[floor] | {floor, "__version__"}
    assert imported_rooms(file) <= allowed, f"{file.relative_to(ROOT)} may import {sorted(allowed)} only"


@pytest.mark.parametrize("file", package_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_room_is_imported_by_its_bare_name(file: Path) -> None:
    package = ("iobench", *file.relative_to(ROOT).parent.parts)
    first_names = {module[0] for module in imported_modules(ast.parse(file.read_text()), package)}
    assert not first_names & MAY_IMPORT.keys()


def test_relative_imports_are_resolved_as_python_does() -> None:
    source = "from ..results.record import Metric\nfrom . import plan\nfrom .. import __version__\nimport os.path\n"
    found = set(imported_modules(ast.parse(source), ("iobench", "loaders")))
    assert found == {
        ("iobench", "results", "record", "Metric"),
        ("iobench", "loaders", "plan"),
        ("iobench", "__version__"),
        ("os", "path"),
    }


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert not [str(file) for file in package_files() if drawers & {file.stem, file.parent.name}]


def test_the_root_package_holds_only_its_docstring_and_version() -> None:
    docstring, version = ast.parse((ROOT / "__init__.py").read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(version).startswith("__version__ = ")


def test_the_packages_listed_for_installation_are_the_folders() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = ROOMS | {"gpu_check"}
    code = {folder for room in rooms for folder in (file.parent for file in (ROOT / room).rglob("*.py"))} | {
        ROOT / "qualify",
        ROOT / "cli",
    }
    data = {
        ROOT / "configs" / "grids",
        ROOT / "configs" / "validations",
        ROOT / "configs" / "presets",
        ROOT / "results" / "templates",
        ROOT / "results" / "schema",
    }
    folders = {".".join(("iobench", *folder.relative_to(ROOT).parts)) for folder in code | data}
    assert set(settings["packages"]) == folders | {"iobench"}
    assert all((ROOT / room / "__init__.py").exists() for room in ROOMS)
    assert any((ROOT / "configs" / "presets").glob("*.toml"))


def test_every_direct_dependency_has_an_exact_pin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    names = {re.split(r"[<>=\[]", wanted)[0] for wanted in [*project["dependencies"], *itertools.chain(*extras)]}
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = dict(line.split("==") for line in lines if line)
    assert names <= set(pins)


def test_help_answers_without_a_heavy_library(tmp_path: Path) -> None:
    code = f"""
import sys
from iobench.cli import main
sys.argv = ["iobench", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("heavy:", sorted({HEAVY!r} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_from_the_repository_root_no_room_is_imported_by_its_bare_name() -> None:
    code = f"import sys, iobench.loaders; print(sorted({ROOMS!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
