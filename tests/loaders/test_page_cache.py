"""What is in the page cache, asked of the kernel in two ways, and put there or out on purpose."""

import mmap
import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from iobench.loaders import page_cache
from iobench.loaders.page_cache import cache_fraction, evict, resident_bytes, warm

SIZE_BYTES = (4 << 20) + 1234


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_bytes(os.urandom(SIZE_BYTES))
    evict(paths)
    if cache_fraction(paths) != 0:
        pytest.skip("this file system does not evict, or does not tell what is resident")
    return paths


def test_evicted_files_are_not_resident_and_warmed_files_are(files):
    assert warm(files, block_bytes=300_000) == 2 * SIZE_BYTES
    assert cache_fraction(files) == 1
    assert resident_bytes(files[0]) == SIZE_BYTES
    evict(files[:1])
    assert cache_fraction(files) == 0.5
    evict(files)
    assert cache_fraction(files) == 0


def test_written_pages_are_evicted_too(tmp_path, files):
    path = tmp_path / "fresh"
    path.write_bytes(os.urandom(1 << 20))
    assert cache_fraction([path]) == 1
    evict([path])
    assert cache_fraction([path]) == 0


def test_written_pages_of_many_files_are_evicted_too(tmp_path, files, monkeypatch):
    monkeypatch.setattr(page_cache, "MANY_FILES", 3)
    paths = [tmp_path / f"fresh-{number}" for number in range(4)]
    for path in paths:
        path.write_bytes(os.urandom(1 << 20))
    assert cache_fraction(paths) == 1
    evict(paths)
    assert cache_fraction(paths) == 0


def test_how_far_it_is_is_told_of_each_of_few_files_and_of_many_now_and_then(tmp_path, files, monkeypatch):
    told: list[tuple[int, int]] = []
    evict(files, progress=lambda done, total: told.append((done, total)))
    warm(files, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)] * 2
    monkeypatch.setattr(page_cache, "MANY_FILES", 3)
    many = [files[0]] * 8
    told.clear()
    evict(many, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 8), (4, 8), (6, 8), (8, 8)]
    evict(iter(files), progress=lambda done, total: pytest.fail("of how many it is was not known"))


def test_a_part_of_a_file_is_told_apart(files):
    fd = os.open(files[0], os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, 64 << 10, 1 << 20)
    os.close(fd)
    assert resident_bytes(files[0]) == 64 << 10
    assert resident_bytes(files[0], offset=1 << 20, length=64 << 10) == 64 << 10
    assert resident_bytes(files[0], offset=0, length=1 << 20) == 0
    assert resident_bytes(files[0], offset=(1 << 20) + (32 << 10)) == 32 << 10
    assert resident_bytes(files[0], offset=SIZE_BYTES + 5) == 0


@pytest.mark.parametrize("window", [1 << 30, 3 * mmap.PAGESIZE])
def test_both_ways_of_asking_agree(files, monkeypatch, window):
    monkeypatch.setattr(page_cache, "_MINCORE_WINDOW", window)
    fd = os.open(files[0], os.O_RDONLY)
    for offset in (0, 40960, 1 << 20, SIZE_BYTES - 100):
        os.pread(fd, 20_000, offset)
        counted = page_cache._mincore_pages(fd, 0, SIZE_BYTES)
        assert counted > 0
        assert page_cache._cachestat_pages(fd, 0, SIZE_BYTES) in (None, counted)
    os.close(fd)


def test_without_an_answer_of_the_kernel_there_is_no_guess(files, monkeypatch):
    monkeypatch.setattr(page_cache, "_CACHESTAT", 100_000)  # a system call that no kernel has
    assert resident_bytes(files[0]) == 0
    monkeypatch.setattr(page_cache, "_may_see_residency", lambda fd: False)
    assert resident_bytes(files[0]) is None
    assert cache_fraction(files) is None


@pytest.mark.skipif(
    os.geteuid() != 0 or not which("setpriv"), reason="needs root, and setpriv to give up what root may"
)
@pytest.mark.parametrize(("keeps", "told"), [("-all,+fowner", "True"), ("-all", "False")])
def test_roots_without_the_capability_get_no_answer_about_anothers_file(tmp_path, keeps, told):
    other = tmp_path / "of-somebody-else"
    other.write_bytes(b"bytes")
    other.chmod(0o444)
    os.chown(other, 12345, 12345)
    ask = """
import os, sys
from iobench.loaders.page_cache import _may_see_residency
print(_may_see_residency(os.open(sys.argv[1], os.O_RDONLY)))
"""
    command = ["setpriv", f"--bounding-set={keeps}", f"--inh-caps={keeps}", sys.executable, "-c", ask, str(other)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (told, "")


def test_nothing_has_no_fraction(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert cache_fraction([tmp_path / "empty"]) is None
    assert cache_fraction([]) is None
