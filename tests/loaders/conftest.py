"""Small sets of encoded images in every format, and tests of kvikio's real code on machines without a GPU.

`encoded_set` is each of the formats in turn: the same 130 JPEGs, whose labels are the numbers of their records.

A test marked `stub_libcuda` does not run in this process.  All that were selected run together in one python of their
own, where LD_LIBRARY_PATH shows it the stand-in of tests/stub_libcuda; here each then passes, fails or skips as it did
there.  That process ends when a test, the start or the end takes longer than LIMIT_S: kvikio without a driver may hang
for ever.
"""

import faulthandler
import fcntl
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame

STUB = Path(__file__).parents[1] / "stub_libcuda" / "stub_libcuda.c"
OUTCOMES_FILE = "IOBENCH_TEST_OUTCOMES"  # set in the process that has the stub
LIMIT_S = 60

Outcomes = dict[str, tuple[str, str]]
OUTCOMES = pytest.StashKey[Outcomes]()


@dataclass(frozen=True)
class EncodedSet:
    """A folder of encoded images; record i is `images[i]`, and its label is i."""

    folder: Path
    kind: str
    images: Sequence[bytes]


@pytest.fixture(scope="session")
def encoded_images() -> list[bytes]:
    """130 pictures of several sizes, no two alike."""
    found = []
    for number in range(130):
        random = np.random.default_rng(number)
        levels = np.kron(random.integers(0, 256, (5 + number % 3, 6, 3)), np.ones((9, 9, 1)))
        target = io.BytesIO()
        Image.fromarray(levels.astype(np.uint8)).save(target, "JPEG", quality=90)
        found.append(target.getvalue())
    return found


@pytest.fixture(scope="session", params=["tfrecord", "tar", "folder"])
def encoded_set(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, encoded_images) -> EncodedSet:
    """The same images in each format: shards of 40, or a class for each image."""
    return write_encoded(tmp_path_factory.mktemp(request.param) / "data", request.param, encoded_images)


@pytest.fixture(scope="session")
def write_encoded_set() -> Callable[[Path, str, Sequence[bytes]], EncodedSet]:
    """`write_encoded_set(folder, kind, images)`: other images in one of the formats."""
    return write_encoded


def write_encoded(folder: Path, kind: str, images: Sequence[bytes]) -> EncodedSet:
    folder.mkdir(parents=True)
    if kind == "folder":
        for number, image in enumerate(images):
            (folder / f"{number:03d}").mkdir()
            (folder / f"{number:03d}" / "image.jpg").write_bytes(image)
        return EncodedSet(folder, kind, images)
    parts = [range(start, min(len(images), start + 40)) for start in range(0, len(images), 40)]
    for number, part in enumerate(parts):
        if kind == "tar":
            _write_tar(folder / f"part-{number}.tar", {one: images[one] for one in part})
        else:
            fields = [{"image/encoded": images[one], "image/class/label": one, "image/format": b"JPEG"} for one in part]
            records = [frame(encode_example(some, padded_varints=False)) for some in fields]
            (folder / f"part-{number}.tfrecord").write_bytes(b"".join(records))
    return EncodedSet(folder, kind, images)


def _write_tar(path: Path, images: Mapping[int, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for number, image in images.items():
            for name, content in ((f"{number:03d}.jpg", image), (f"{number:03d}.cls", b"%d" % number)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "stub_libcuda: runs in a process of its own, with a libcuda.so.1 without driver")
    _limit_what_follows()


@pytest.fixture(scope="session")
def build_stub(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`build_stub("old", "new")`: a folder with libcuda.so.1, from the C file with one text replaced."""
    compiler = shutil.which("cc") or shutil.which("gcc")

    def build(old: str = "", new: str = "") -> Path:
        if compiler is None:
            pytest.skip("no C compiler (cc, gcc) to build the stub libcuda with")
        folder = tmp_path_factory.mktemp("stub")
        source = folder / "stub.c"
        source.write_text(STUB.read_text().replace(old, new, 1) if old else STUB.read_text())
        command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", source]
        subprocess.run(command, check=True, timeout=60)
        return folder

    return build


@pytest.fixture(scope="session")
def stub(build_stub: Callable[..., Path]) -> Path:
    """The folder of the stub libcuda.so.1; skips where it or kvikio cannot be had."""
    if importlib.util.find_spec("kvikio") is None:
        pytest.skip("kvikio is not installed (`make setup-test` installs it)")
    return build_stub()


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_python(program, stub=folder)`: a python of its own, with a time limit; `stub=None` is without one."""

    def run(program: str, *, stub: Path | None, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "program.py"
        file.write_text(program)
        return subprocess.run(
            [sys.executable, file],
            env=environment(stub),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    return run


@pytest.fixture(autouse=True)
def _stub_for_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Builds the stub where it will be needed, and ends the process that has it if a test hangs there."""
    if request.node.get_closest_marker("stub_libcuda") is None:
        yield
    elif OUTCOMES_FILE in os.environ:
        _limit_what_follows()
        yield
    else:
        if OUTCOMES not in request.config.stash:
            stub, folder = request.getfixturevalue("stub"), request.getfixturevalue("shared_folder")
            request.config.stash[OUTCOMES] = outcomes_of_marked(request.session, stub, folder)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if pyfuncitem.get_closest_marker("stub_libcuda") is None or OUTCOMES_FILE in os.environ:
        return None
    outcomes = pyfuncitem.config.stash[OUTCOMES]
    outcome, text = outcomes.get(pyfuncitem.nodeid, ("failed", f"did not run with the stub:\n{outcomes[''][1]}"))
    if outcome == "skipped":
        pytest.skip(text)
    if outcome == "failed":
        pytest.fail(text, pytrace=False)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if OUTCOMES_FILE in os.environ and (report.when == "call" or report.outcome != "passed"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        with Path(os.environ[OUTCOMES_FILE]).open("a") as file:
            file.write(json.dumps([report.nodeid, report.outcome, reason]) + "\n")


def outcomes_of_marked(session: pytest.Session, stub: Path, folder: Path) -> Outcomes:
    """What `run_marked` says, which runs once whichever of pytest's processes wants it first; the others wait."""
    with (folder / "outcomes-with-stub.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if text := file.read():
            return {name: (outcome, said) for name, (outcome, said) in json.loads(text).items()}
        outcomes = run_marked(session, stub)
        json.dump(outcomes, file)
    return outcomes


def run_marked(session: pytest.Session, stub: Path) -> Outcomes:
    """Run all marked tests of this session; the outcome under "" is what the process said itself."""
    chosen = [item.nodeid for item in session.items if item.get_closest_marker("stub_libcuda")]
    outcomes_file = stub / "outcomes.jsonl"
    outcomes_file.touch()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *chosen],
        env={**environment(stub), OUTCOMES_FILE: str(outcomes_file)},
        cwd=session.config.rootpath,
        capture_output=True,
        text=True,
        timeout=LIMIT_S * len(chosen),
        check=False,
    )
    outcomes: Outcomes = {"": (str(done.returncode), (done.stdout + done.stderr)[-4000:])}
    for line in outcomes_file.read_text().splitlines():
        name, outcome, text = json.loads(line)
        if outcomes.get(name, ("passed", ""))[0] != "failed":
            outcomes[name] = (outcome, text)
    return outcomes


def _limit_what_follows() -> None:
    """In the process that has the stub: end it, with a traceback, unless this is called again within LIMIT_S."""
    if OUTCOMES_FILE in os.environ:
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)


def environment(stub: Path | None) -> Mapping[str, str]:
    """This process's, without a compatibility mode or thread number of kvikio's, and with the stub if there is one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KVIKIO_")}
    if stub is None:
        return kept
    folders = [str(stub), *filter(None, [kept.get("LD_LIBRARY_PATH")])]
    return {**kept, "LD_LIBRARY_PATH": os.pathsep.join(folders), "KVIKIO_COMPAT_MODE": "ON"}
