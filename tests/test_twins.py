"""What is shown on a GPU is shown without one as well, as far as bytes can show it: every GPU test names its twins."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
GPU, TWIN = "pytest.mark.gpu", "pytest.mark.twin"


@dataclass(frozen=True)
class Function:
    """A test function: where it is, whether it needs a GPU, and what it says shows the same without."""

    file: Path
    name: str
    needs_gpu: bool
    twins: tuple[str, ...]


def functions_of(file: Path, text: str) -> Iterator[Function]:
    tree = ast.parse(text)
    marks = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node.targets[0])
    ]
    whole_file = any(GPU in ast.unparse(mark) for mark in marks)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            words = [ast.unparse(decorator) for decorator in node.decorator_list]
            named = [each for each in node.decorator_list if ast.unparse(each).startswith(f"{TWIN}(")]
            twins = tuple(ast.literal_eval(name) for each in named for name in each.args)
            yield Function(file, node.name, whole_file or GPU in words, twins)


def parameters_without_cpu(text: str) -> list[str]:
    """Lists of parameters of which one needs a GPU, and none says "cpu"."""
    lists = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.List)]
    written = [ast.unparse(node) for node in lists]
    return [words for words in written if "pytest.param(" in words and GPU in words and "'cpu'" not in words]


def all_tests() -> list[Function]:
    files = sorted(TESTS.rglob("test_*.py"))
    return [test for file in files for test in functions_of(file, file.read_text())]


def lonely(tests: list[Function]) -> list[str]:
    """GPU tests without a twin, and twins that are none: not there, or in need of a GPU themselves."""
    anywhere = {(test.file, test.name) for test in tests if not test.needs_gpu}
    found = []
    for test in tests:
        if test.needs_gpu and not test.twins:
            found.append(f"{test.file.name}::{test.name} names no twin")
        for twin in test.twins:
            file, _, name = twin.rpartition("::")
            if (test.file.with_name(file) if file else test.file, name) not in anywhere:
                found.append(f"{test.file.name}::{test.name}: {twin} does not run without a GPU")
    return found


def test_every_test_on_a_gpu_has_a_twin_that_runs_without_one():
    tests = all_tests()
    assert sum(test.needs_gpu for test in tests) > 10
    assert lonely(tests) == []


def test_where_a_gpu_is_one_of_several_devices_the_cpu_is_another():
    files = [file for file in sorted(TESTS.rglob("test_*.py")) if file != Path(__file__)]
    assert [words for file in files for words in parameters_without_cpu(file.read_text())] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@pytest.mark.gpu\ndef test_a(): pass", ["t.py::test_a names no twin"]),
        ("pytestmark = [pytest.mark.gpu]\ndef test_a(): pass", ["t.py::test_a names no twin"]),
        ("@pytest.mark.gpu\n@pytest.mark.twin('test_b')\ndef test_a(): pass\ndef test_b(): pass", []),
        (
            "@pytest.mark.gpu\n@pytest.mark.twin('u.py::test_b')\ndef test_a(): pass\ndef test_b(): pass",
            ["t.py::test_a: u.py::test_b does not run without a GPU"],
        ),
        (
            "pytestmark = pytest.mark.gpu\n@pytest.mark.twin('test_a')\ndef test_a(): pass",
            ["t.py::test_a: test_a does not run without a GPU"],
        ),
    ],
)
def test_a_test_that_stands_alone_is_found(text, words):
    assert lonely(list(functions_of(Path("t.py"), text))) == words


def test_a_list_of_devices_without_the_cpu_is_found():
    marked = "pytest.param('cuda', marks=[pytest.mark.gpu])"
    assert parameters_without_cpu(f"DEVICES = ['cpu', {marked}]") == []
    assert len(parameters_without_cpu(f"DEVICES = [{marked}]")) == 1
