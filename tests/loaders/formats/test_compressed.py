"""Plain copies of compressed shards are made once, however many processes want them, and whoever is killed then."""

import fcntl
import gzip
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from iobench.loaders.formats import compressed
from iobench.loaders.formats.compressed import CompressedShardError, plain_shards

OPEN_AND_SAY = """
import sys
from pathlib import Path

from iobench.loaders.formats import compressed

def told(wanted, fd, real=compressed._decompress):
    real(wanted, fd)
    print("wrote", wanted.source.name, flush=True)

compressed._decompress = told
print("ready", flush=True)
sys.stdin.readline()
plain, _ = compressed.plain_shards(sorted(Path(sys.argv[1]).iterdir()))
print("read", *(path.stat().st_size for path in plain), flush=True)
"""
STOP_IN_THE_MIDDLE = """
import sys, time
from pathlib import Path

from iobench.loaders.formats import compressed

def half(source, path, kind, real=compressed._pieces):
    yield next(real(source, path, kind))[:1000]
    print("began", flush=True)
    time.sleep(60)

compressed._pieces = half
compressed.plain_shards(sorted(Path(sys.argv[1]).iterdir()))
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def zipped(tmp_path, cache, page_set) -> list[Path]:
    """Compressed shards; each takes several pieces to decompress."""
    folder = tmp_path / "data"
    folder.mkdir()
    for shard in page_set.shards:
        (folder / f"{shard.name}.gz").write_bytes(gzip.compress(shard.read_bytes(), 1))
    return sorted(folder.iterdir())


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def unfinished(path: Path) -> Path:
    kind = compressed.compression(path)
    assert kind is not None
    return compressed._copy_of(path, kind).unfinished


def within(seconds: float, true: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    return true()


def test_processes_that_open_a_set_at_once_write_each_copy_once(zipped, page_set):
    processes = [start(OPEN_AND_SAY, zipped[0].parent) for _ in range(3)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    sizes = " ".join(str(shard.stat().st_size) for shard in page_set.shards)
    assert [lines[-1] for lines in said] == [f"read {sizes}"] * 3
    wrote = sorted(line.split()[1] for lines in said for line in lines[:-1])
    assert wrote == [path.name for path in zipped]


def test_a_copy_that_somebody_else_is_writing_is_waited_for_after_all_others(zipped, page_set):
    held = unfinished(zipped[0])
    held.parent.mkdir(parents=True)
    fd = os.open(held, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    found: list[list[Path]] = []
    waiting = threading.Thread(target=lambda: found.append([Path(str(path)) for path in plain_shards(zipped)[0]]))
    waiting.start()
    assert within(20, lambda: len(list(held.parent.glob("*.tfrecord"))) == len(zipped) - 1)
    assert not found
    copy = held.with_name(held.name.removeprefix(".").removesuffix(".tmp"))
    shutil.copyfile(page_set.shards[0], held)  # as the other one would: write, name it, let go
    held.rename(copy)
    written = copy.stat().st_mtime_ns
    os.close(fd)
    waiting.join(20)
    assert [path.read_bytes() for path in found[0]] == [path.read_bytes() for path in page_set.shards]
    assert copy.stat().st_mtime_ns == written
    assert not list(held.parent.glob(".*"))


def test_a_copy_whose_writer_was_killed_is_begun_again(zipped, page_set):
    with start(STOP_IN_THE_MIDDLE, zipped[0].parent) as process:
        assert process.stdout
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGKILL)
    assert unfinished(zipped[0]).exists()
    plain, said = plain_shards(zipped)
    assert [Path(str(path)).read_bytes() for path in plain] == [path.read_bytes() for path in page_set.shards]
    assert said.startswith(f"{len(zipped)} of {len(zipped)} shards are gzip: read from plain copies in ")
    assert not list(unfinished(zipped[0]).parent.glob(".*"))


def test_what_cannot_be_decompressed_leaves_nothing_that_others_would_wait_for(zipped):
    zipped[1].write_bytes(zipped[1].read_bytes()[:-100])
    for _ in range(2):
        with pytest.raises(CompressedShardError, match="gzip data that is cut at its end"):
            plain_shards(zipped)
        assert not list(unfinished(zipped[0]).parent.glob(".*"))
