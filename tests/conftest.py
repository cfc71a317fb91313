"""Small data sets with known content, each written once per session.

    page_set     generated, every record starts on a 4096-byte boundary: O_DIRECT reads land in place
    sector_set   generated, the stride is a multiple of 512 only
    odd_set      31 x 17 x 3 pixels at an odd stride, shards of very different sizes, one record in one of them

All are read-only: a test that changes bytes works on a copy (`copied`).
"""

import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from iobench.loaders.engines.readers import direct_refused
from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.tfrecord import frame
from iobench.storage_bench.generate import Generate, generate, sample_label, sample_pixels

ODD_SHAPE = (31, 17, 3)
ODD_SHARDS = (23, 1, 40, 36)
PAGE_OBJECTS = 5  # what the S3 server lists at once

S3_SERVER = """
import sys

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()  # to its end, which comes at the latest when whoever started this is gone
"""


@dataclass(frozen=True)
class KnownSet:
    """A folder of shards, and what must come out of them: images (n, H, W, C) and labels (n,)."""

    folder: Path
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    @property
    def shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.tfrecord"))

    def __len__(self) -> int:
        return len(self.labels)


def encode_image(image: npt.NDArray[np.uint8], label: int, name: str = "x") -> bytes:
    """One framed record, spelled as `iobench generate` spells it but for the padding."""
    height, width, channels = image.shape
    features: dict[str, bytes | int] = {
        "image/height": height,
        "image/width": width,
        "image/channels": channels,
        "image/format": b"raw",
        "image/class/label": label,
        "image/filename": name.encode(),
        "image/encoded": image.tobytes(),
    }
    return frame(encode_example(features))


def write_shards(folder: Path, shape: tuple[int, int, int], sizes: Sequence[int], *, seed: int = 0) -> KnownSet:
    """Unpadded shards of the given numbers of records, with random pixels and labels."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (sum(sizes), *shape), dtype=np.uint8)
    labels = random.integers(0, 1000, sum(sizes), dtype=np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, size in enumerate(sizes):
        records = [encode_image(images[i], int(labels[i])) for i in range(first, first + size)]
        (folder / f"part-{number}.tfrecord").write_bytes(b"".join(records))
        first += size
    return KnownSet(folder, images, labels)


def generate_set(folder: Path, *, size: int, num_images: int, images_per_shard: int, seed: int = 3) -> KnownSet:
    """Generated shards, and their samples computed again one by one."""
    config = Generate(num_images=num_images, size=size, images_per_shard=images_per_shard, seed=seed)
    generate(folder, config)
    images = np.stack([sample_pixels(seed, i, config.shape) for i in range(num_images)])
    return KnownSet(folder, images, np.array([sample_label(seed, i) for i in range(num_images)]))


def pytest_configure() -> None:
    """Take Ctrl-C also where the tests were started in the background of a script, whose shell has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def folder_of_workers(config: pytest.Config) -> Path | None:
    """Where each of pytest's processes (`pytest -n 2`) has its temporary folder; None where there is one process."""
    return Path(config.getoption("basetemp")).parent if hasattr(config, "workerinput") else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Keep the other processes from running a test beside one that is marked `alone`.

    Who begins a test locks `turn`, then `running`, with others or not, and gives its turn back.  So one that is to be
    alone waits for those that run, and nobody begins before it has ended.
    """
    if (folder := folder_of_workers(item.config)) is None:
        return (yield)
    with (folder / "running").open("w") as running:
        with (folder / "turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(running, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
            fcntl.flock(turn, fcntl.LOCK_UN)  # a process that was forked beside this may have the file open
        try:
            return (yield)
        finally:
            fcntl.flock(running, fcntl.LOCK_UN)


@pytest.fixture(scope="session")
def shared_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run, the same one in each of pytest's processes."""
    return folder_of_workers(pytestconfig) or tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def page_set(tmp_path_factory: pytest.TempPathFactory) -> KnownSet:
    return generate_set(tmp_path_factory.mktemp("page"), size=35, num_images=130, images_per_shard=40)


@pytest.fixture(scope="session")
def sector_set(tmp_path_factory: pytest.TempPathFactory) -> KnownSet:
    return generate_set(tmp_path_factory.mktemp("sector"), size=64, num_images=70, images_per_shard=32)


@pytest.fixture(scope="session")
def odd_set(tmp_path_factory: pytest.TempPathFactory) -> KnownSet:
    return write_shards(tmp_path_factory.mktemp("odd"), ODD_SHAPE, ODD_SHARDS)


@pytest.fixture(params=["page_set", "sector_set", "odd_set"])
def any_set(request: pytest.FixtureRequest) -> KnownSet:
    """Each of the three layouts in turn."""
    found: KnownSet = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["buffered", "direct"])
def engine(request: pytest.FixtureRequest, page_set: KnownSet) -> str:
    """Each engine that the file system of the test data has."""
    if request.param == "direct":
        needs_direct(page_set.shards[0])
    name: str = request.param
    return name


@pytest.fixture
def direct_io(page_set: KnownSet) -> None:
    """Skips where the test data lie on a file system without O_DIRECT."""
    needs_direct(page_set.shards[0])


def needs_direct(path: Path) -> None:
    if reason := direct_refused(path):
        pytest.skip(f"{reason} ({path.parent})")


@pytest.fixture(scope="session")
def fake_gpu() -> ModuleType:
    """The module of the stand-in for a GPU."""
    return module_beside("fake_gpu")


@pytest.fixture
def made_machine(tmp_path: Path) -> Callable[..., Path]:
    """`made_machine(nodes, threads=..., devices=...)`: a folder like the /sys of such a machine (made_machine.py)."""
    return partial(module_beside("made_machine").make_machine, tmp_path / "sys")


def module_beside(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def new_device(fake_gpu: ModuleType) -> Iterator[Callable[..., Any]]:
    """`new_device(copy_delay_s=..., compute_delay_s=..., forgets=...)`; every stream ends with the test."""
    made: list[Any] = []

    def new(**options: Any) -> Any:
        made.append(fake_gpu.FakeDevice(**options))
        return made[-1]

    yield new
    for device in made:
        device.end()


@pytest.fixture
def device(new_device: Callable[..., Any]) -> Any:
    """A device that is played, and in no hurry to be late."""
    return new_device()


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[KnownSet], KnownSet]:
    """A copy of a set, without its index, that a test may damage."""

    def copy(known: KnownSet) -> KnownSet:
        folder = tmp_path / "copy"
        shutil.copytree(known.folder, folder, ignore=shutil.ignore_patterns(".*"))
        return KnownSet(folder, known.images, known.labels)

    return copy


@pytest.fixture
def write_set(tmp_path: Path) -> Callable[..., KnownSet]:
    """`write_set(shape, sizes)`: unpadded shards in the test's own folder."""

    def write(shape: tuple[int, int, int], sizes: Sequence[int], *, name: str = "own", seed: int = 0) -> KnownSet:
        return write_shards(tmp_path / name, shape, sizes, seed=seed)

    return write


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encode(image, label)`: one framed record."""
    return encode_image


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A command that runs in pytest's own process leaves its handlers, which end that process, to no later test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """`in_process("infer", data, ...)`: a command without a process of its own, in the test's own folder."""
    from iobench.cli import run

    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Ended:
        capfd.readouterr()
        status = run([str(word) for word in words])
        return Ended(status, *capfd.readouterr())

    return call


@pytest.fixture
def new_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`new_disk(size_bytes)`: an ext4 file system of its own on a loop device."""
    points: list[Path] = []

    def make(size_bytes: int) -> Path:
        if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
            pytest.skip("a small file system needs root and mkfs.ext4 (Debian: e2fsprogs)")
        image, point = tmp_path / f"disk-{len(points)}.img", tmp_path / f"disk-{len(points)}"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        point.mkdir()
        command = ["mount", "-o", "loop", str(image), str(point)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mount -o loop: {done.stderr.strip()}")
        points.append(point)
        return point

    yield make
    for point in points:
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def small_disk(new_disk: Callable[[int], Path]) -> Path:
    """An ext4 file system of 32 MiB on a loop device."""
    return new_disk(32 << 20)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on loopback: moto's, a process of its own, which does not check signatures."""
    if any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "flask_cors")):
        pytest.skip("moto's S3 server is not installed (`make setup-test` installs it)")
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    settings = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE_OBJECTS)}
    command = [sys.executable, "-c", S3_SERVER]
    with subprocess.Popen(command, env=settings, stdin=pipe, stdout=pipe, stderr=quiet) as process:
        assert process.stdout
        try:
            host, port = process.stdout.readline().split()
            yield f"http://{host.decode()}:{int(port)}"
        finally:
            process.terminate()  # the end of its input may not reach it: a forked child can hold the pipe open


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """That server as the one the environment names, with an empty bucket `bucket`."""
    for method, place in (("POST", "moto-api/reset"), ("PUT", "bucket")):
        request = urllib.request.Request(f"{s3_server}/{place}", b"", method=method)
        urllib.request.urlopen(request, timeout=20).close()
    for name, value in (("ACCESS_KEY_ID", "testing"), ("SECRET_ACCESS_KEY", "hidden"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    return s3_server


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder on a file system in memory, which has no block device."""
    shm = Path("/dev/shm")
    if not os.path.ismount(shm) or not os.access(shm, os.W_OK):
        pytest.skip("/dev/shm is no memory file system that can be written")
    with tempfile.TemporaryDirectory(prefix="iobench-test-", dir=shm) as folder:
        yield Path(folder)


class Faults:
    """A mounted tests/faultfs/faultfs.c: what lies in `backing` is seen at `mount`, through the faults that are set."""

    def __init__(self, backing: Path, mount: Path, control: Path) -> None:
        self.backing, self.mount, self._control = backing, mount, control

    def set(self, *lines: str) -> None:
        """From now on these faults hold, as faultfs.c spells them; none takes them all away."""
        new = self._control.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.rename(self._control)


@pytest.fixture(scope="session")
def faultfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built with the system's compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or shutil.which("pkg-config") is None:
        pytest.skip("no C compiler and pkg-config to build a FUSE file system with (Debian: gcc, pkg-config)")
    found = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("no libfuse 3 to build a FUSE file system with (Debian: libfuse3-dev)")
    source, program = Path(__file__).parent / "faultfs/faultfs.c", tmp_path_factory.mktemp("faultfs") / "faultfs"
    words = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source, *found.stdout.split()]
    subprocess.run(words, check=True, timeout=60)
    return program


@pytest.fixture
def faults(faultfs: Path, tmp_path: Path) -> Iterator[Faults]:
    """An empty file system whose faults can be set; unmounted at the end, whatever hangs in it."""
    if not os.access("/dev/fuse", os.W_OK) or shutil.which("fusermount3") is None:
        pytest.skip("/dev/fuse or fusermount3 is missing (Debian: fuse3)")
    made = Faults(tmp_path / "backing", tmp_path / "mount", tmp_path / "faults.txt")
    for folder in (made.backing, made.mount):
        folder.mkdir()
    made.set()
    words = [faultfs, made.backing, tmp_path / "faults.txt", made.mount, "-f"]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)  # libfuse talks about its own defaults
    try:
        deadline = time.monotonic() + 10
        while not os.path.ismount(made.mount):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip("a FUSE file system cannot be mounted here (no CAP_SYS_ADMIN, or /dev/fuse is refused)")
            time.sleep(0.01)
        yield made
    finally:
        process.kill()  # who waits in it gets an error at once
        process.wait()
        subprocess.run(["fusermount3", "-u", "-z", made.mount], check=False, capture_output=True)
