"""One checkpoint: bytes that are like no others, all of them written, and compared when they are read back."""

import numpy as np
import pytest

from iobench.storage_bench.checkpoint.files import Checkpoint, CheckpointError, Span

PAGE = 4096


def checkpoint(folder, size, *, threads=3, block=8 * PAGE, serial=1):
    return Checkpoint(folder, size_bytes=size, threads=threads, block_bytes=block, serial=serial)


@pytest.fixture(params=["buffered", "direct"])
def engine(request, page_set, direct_io):
    return request.param


@pytest.mark.parametrize(("size", "threads", "pages"), [(1, 4, 1), (PAGE, 1, 1), (PAGE + 1, 2, 2), (25 * PAGE, 4, 25)])
def test_the_size_is_split_into_whole_pages(tmp_path, size, threads, pages):
    made = checkpoint(tmp_path, size, threads=threads)
    span = made.write("buffered")
    sizes = [path.stat().st_size for path in made.paths]
    assert sum(sizes) == made.num_bytes == span.num_bytes == pages * PAGE
    assert max(sizes) - min(sizes) <= PAGE
    assert sorted(tmp_path.iterdir()) == made.paths


def test_what_was_written_is_read_back_with_any_engine(tmp_path, engine):
    made = checkpoint(tmp_path, 100 * PAGE)
    written = made.write(engine)
    restored = made.restore(engine)
    assert written.num_bytes == restored.num_bytes == 100 * PAGE
    assert written.end_ns <= restored.begin_ns
    assert 0 < written.fsync_s <= written.seconds
    made.remove()
    assert list(tmp_path.iterdir()) == []


def test_no_page_is_like_another_in_one_checkpoint_or_the_next(tmp_path):
    both = [checkpoint(tmp_path, 60 * PAGE, serial=serial) for serial in (1, 2)]
    pages = []
    for made in both:
        made.write("buffered")
        for path in made.paths:
            content = path.read_bytes()
            pages += [content[start : start + PAGE] for start in range(0, len(content), PAGE)]
    assert len(pages) == 120
    assert len(set(pages)) == 120
    first_block = np.frombuffer(b"".join(pages[:8]), dtype=np.uint8)
    assert 100 < first_block.mean() < 155  # random bytes, which nothing compresses


def test_a_flipped_byte_is_found_and_its_file_named(tmp_path):
    made = checkpoint(tmp_path, 60 * PAGE)
    made.write("buffered")
    with made.paths[1].open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)[0]
        file.seek(5000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(CheckpointError, match="did not read back") as caught:
        made.restore("buffered")
    assert str(made.paths[1]) in str(caught.value)
    assert caught.value.exit_status == 4


def test_a_full_disk_is_told_with_file_and_byte(small_disk):
    with pytest.raises(CheckpointError, match=r"writing failed at byte \d+ of \d+") as caught:
        checkpoint(small_disk, 40 << 20, block=1 << 20).write("buffered")
    assert str(small_disk) in str(caught.value)
    assert caught.value.exit_status == 4


def test_a_rate_is_bytes_over_the_span():
    span = Span(1_000_000_000, 3_000_000_000, 4_000_000_000)
    assert (span.seconds, span.gbps) == (2.0, 2.0)
