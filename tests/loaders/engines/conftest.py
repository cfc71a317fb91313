"""What tests of readers have in common, whatever the engine."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iobench.loaders.buffers import Buffer

PAGE = 4096


@pytest.fixture
def open_files() -> Callable[[Path], int]:
    """How many descriptors of this process a file has."""

    def count(path: Path) -> int:
        links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        return sum(link.exists() and link.resolve() == path.resolve() for link in links)

    return count


@pytest.fixture
def in_threads() -> Callable[[Callable[[int], None]], None]:
    """Call something with 0 to 5 in six threads at once; what it raises is raised here."""

    def run(work: Callable[[int], None]) -> None:
        failed: list[BaseException] = []

        def guarded(number: int) -> None:
            try:
                work(number)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=guarded, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    return run


@pytest.fixture
def numbered_files(tmp_path: Path) -> Callable[[int], list[Path]]:
    """So many files of two pages; each byte of a file is its number."""

    def write(count: int) -> list[Path]:
        paths = [tmp_path / f"{number}.bin" for number in range(count)]
        for number, path in enumerate(paths):
            path.write_bytes(bytes([number]) * 2 * PAGE)
        return paths

    return write


@pytest.fixture
def share_among_threads(
    numbered_files: Callable[[int], list[Path]], in_threads: Callable[[Callable[[int], None]], None]
) -> Callable[[Any], list[Path]]:
    """Have six threads read eight files at random with one reader, and look at what comes; the files."""

    def share(reader: Any) -> list[Path]:
        paths = numbered_files(8)

        def work(seed: int) -> None:
            memory = Buffer(PAGE).memory
            for number in np.random.default_rng(seed).integers(0, 8, 200).tolist():
                reader.read(paths[number], PAGE, memory)
                assert set(memory[::512]) == {number}

        in_threads(work)
        assert reader.delivered_bytes == 6 * 200 * PAGE
        return paths

    return share


@pytest.fixture
def read_at_random() -> Callable[[Any, Path], None]:
    """Read most of a file of 8 MiB or more in pieces that begin and end in the middle of pages, in a random order."""

    def read(reader: Any, path: Path) -> None:
        memory = Buffer(270_000).memory
        for offset in np.random.default_rng(0).permutation(np.arange(0, 8_000_000, 270_000)).tolist():
            reader.read(path, offset, memory[:270_000], need=1)

    return read
