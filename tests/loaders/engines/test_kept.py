"""Files that stay mapped: every epoch sees the file's own bytes, whatever the user did to the batches before."""

import gc
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from iobench.loaders import DataLoader, ShardSet
from iobench.loaders.engines import readers
from iobench.loaders.engines.kept import KeptFiles
from iobench.loaders.engines.mapped import MappedReader
from iobench.loaders.page_cache import PAGE_BYTES


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(np.random.default_rng(0).integers(0, 256, 64 * PAGE_BYTES + 17, dtype=np.uint8)))
    return path


@pytest.fixture
def kept(file):
    files = KeptFiles()
    if not files.keeps:
        pytest.skip("the kernel does not show /proc/self/pagemap")
    fd = os.open(file, os.O_RDONLY)
    yield lambda offset, length: files.view(fd, file, offset, length), files
    os.close(fd)


def num_mappings(path: Path) -> int:
    return len(re.findall(re.escape(str(path)), Path("/proc/self/maps").read_text()))


def test_a_view_shows_the_file_and_the_same_memory_serves_it_again(kept, file):
    view, files = kept
    first, address = view(100, 30_000)
    assert bytes(first) == file.read_bytes()[100:30_100]
    del first
    again, same = view(100, 30_000)
    assert same == address
    assert bytes(again) == file.read_bytes()[100:30_100]
    assert num_mappings(file) == 1
    assert files.keeps


def test_a_range_somebody_looks_at_is_not_shown_twice(kept):
    view, _ = kept
    held, _ = view(0, 10_000)
    assert view(9_999, 10) is None
    assert view(10_000, 10) is not None
    part = np.frombuffer(held, np.uint8)[5:10]
    del held
    assert view(0, 10) is None, "an array over the view keeps it"
    del part
    assert view(0, 10) is not None


def test_a_written_page_ends_the_keeping_and_what_is_held_stays_valid(kept, file):
    view, files = kept
    (written, _), (other, _) = view(0, 100), view(5 * PAGE_BYTES, 100)
    written[7] = written[7] ^ 255
    del written
    files.look_after()
    assert not files.keeps
    assert view(0, 100) is None
    assert bytes(other) == file.read_bytes()[5 * PAGE_BYTES :][:100]
    del other
    gc.collect()
    assert num_mappings(file) == 0


def test_what_lies_beyond_the_end_is_not_shown(kept):
    view, _ = kept
    assert view(64 * PAGE_BYTES, 18) is None
    assert view(64 * PAGE_BYTES, 17) is not None


def test_pages_are_present_only_once_they_were_touched(kept):
    view, files = kept
    memory, address = view(0, 40 * PAGE_BYTES)
    assert not files.is_present(address, 40 * PAGE_BYTES)
    assert sum(memory[::PAGE_BYTES]) >= 0
    assert files.is_present(address, 40 * PAGE_BYTES)


def test_a_copy_never_takes_what_a_user_wrote(file):
    reader = MappedReader()
    reader.check_sizes([file], [file.stat().st_size])
    held = reader.map(file, 0, 1000).memory
    held[:] = bytes(1000)
    targets = [bytearray(10), bytearray(3000)]
    requests = [(file, 500, [memoryview(targets[0])], 10), (file, 600, [memoryview(targets[1])], 3000)]
    assert reader.read_many(requests) == 3010
    assert bytes(targets[0]) == file.read_bytes()[500:510]
    assert bytes(targets[1]) == file.read_bytes()[600:3600]
    assert reader.delivered_bytes == 3010


def test_a_copy_goes_to_several_places_and_counts_what_it_delivers(file):
    reader = MappedReader()
    reader.check_sizes([file], [file.stat().st_size])
    targets = [bytearray(10), bytearray(), bytearray(5000)]
    assert reader.read_many([(file, 17, [memoryview(target) for target in targets], 5010)]) == 5010
    assert b"".join(targets) == file.read_bytes()[17:5027]
    assert reader.delivered_bytes == 5010
    assert num_mappings(file) == 1


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("mode", ["off", "shards", "blocks", "records"])
def test_five_epochs_of_written_batches_give_the_right_pixels(page_set, mode, keep):
    shards = ShardSet.open(page_set.folder, engine=MappedReader(keep=keep), shuffle_mode=mode)
    wanted = sorted(image.tobytes() for image in page_set.images)
    for epoch in range(5):
        seen: list[bytes] = []
        for images, _ in DataLoader(shards, batch_size=4, shuffle=mode != "off", num_workers=2):
            seen += [image.tobytes() for image in images.permute(0, 2, 3, 1).numpy()]
            if epoch >= 2:
                images.zero_()
        assert sorted(seen) == wanted


def test_batches_held_from_an_epoch_are_not_those_of_the_next(page_set):
    loader = DataLoader(ShardSet.open(page_set.folder, engine="mmap"), batch_size=4, num_workers=1)
    held = [images for images, _ in loader]
    for mine, (images, _) in zip(held, loader, strict=True):
        assert (mine == images).all()
        mine.zero_()
        assert images.any()


def test_files_stay_mapped_between_epochs_until_the_set_is_closed(page_set):
    shards = ShardSet.open(page_set.folder, engine="mmap")
    loader = DataLoader(shards, batch_size=4)
    for _ in loader:
        pass
    assert num_mappings(shards.paths[0]) == 1
    shards.close()
    gc.collect()
    assert num_mappings(shards.paths[0]) == 0


def test_a_set_that_is_not_to_be_kept_leaves_no_mapping_behind(page_set):
    shards = ShardSet.open(page_set.folder, engine=MappedReader(keep=False))
    for _ in DataLoader(shards, batch_size=4):
        pass
    gc.collect()
    assert num_mappings(shards.paths[0]) == 0


def test_two_loaders_in_two_threads_share_what_is_kept(page_set):
    shards = ShardSet.open(page_set.folder, engine="mmap")
    wrong: list[BaseException] = []

    def epochs() -> None:
        try:
            for _ in range(20):
                numbers: list[int] = []
                for images, labels in DataLoader(shards, batch_size=4, num_workers=1):
                    found = page_set.images[len(numbers) : len(numbers) + len(labels)]
                    assert (images.permute(0, 2, 3, 1).numpy() == found).all()
                    numbers += labels.tolist()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=epochs) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_is_mapped_though_others_are_opened_and_it_is_let_go_meanwhile(sector_set, monkeypatch):
    """As where other threads open many files between the opening of one and its mapping."""
    monkeypatch.setattr(readers, "MAX_OPEN_FILES", 0)
    for keep in (True, False):
        shards = ShardSet.open(sector_set.folder, engine=MappedReader(keep=keep))
        for options in ({}, {"shuffle": True}):
            loader = DataLoader(shards, batch_size=16, num_workers=1, **options)
            assert sorted(label for _, labels in loader for label in labels.tolist()) == sorted(sector_set.labels)
        shards.close()
