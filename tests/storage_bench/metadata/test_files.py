"""Operations on small files: each name once, by all threads together, and every failure with its file."""

import os
import threading

import pytest

from iobench.storage_bench.metadata.files import FileRateError, SmallFiles, Timed


@pytest.fixture
def files(tmp_path):
    made = SmallFiles(tmp_path, num_files=300, file_bytes=777, threads=3)
    made.fill()
    return made


def test_a_filled_folder_holds_every_file_whole(files, tmp_path):
    entries = sorted(tmp_path.iterdir())
    assert [str(entry) for entry in entries] == files.names
    assert {entry.stat().st_size for entry in entries} == {777}
    assert len({entry.read_bytes() for entry in entries[:2]}) == 1
    assert entries[0].read_bytes() != bytes(777)


def test_every_name_is_taken_exactly_once_by_all_threads_together(files):
    taken, threads = [], set()
    gate = threading.Barrier(3, timeout=30)

    def note(name):
        if len(threads) < 3 and threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            gate.wait()
        taken.append(name)
        return 1

    timed = files.run(note, files.names)
    assert sorted(taken) == files.names
    assert timed.count == timed.latencies.total == 300
    assert len(threads) == 3


@pytest.mark.parametrize("name", ["stat", "open", "small_read"])
def test_an_operation_goes_through_all_names_once_or_until_the_time_is_over(files, name):
    operation = getattr(files, name)
    assert files.run(operation, files.names).count == 300
    assert files.run(operation, files.names[:2], seconds=0.2, again=True).count > 2


def test_names_that_were_removed_can_be_made_again(files, tmp_path):
    removed = files.run(files.remove, files.names[:100], seconds=30)
    assert removed.count == 100
    assert len(list(tmp_path.iterdir())) == 200
    assert files.run(files.create, files.names[:100]).count == 100
    assert files.run(files.small_read, files.names).count == 300


def test_a_removal_that_is_out_of_time_has_removed_the_first_names_and_no_others(files):
    slow = threading.Event()

    def remove_slowly(name):
        slow.wait(0.01)
        return files.remove(name)

    count = files.run(remove_slowly, files.names, seconds=0.1).count
    assert 3 <= count < 300
    assert [name for name in files.names if not os.path.exists(name)] == files.names[:count]


def test_listing_counts_names_and_notices_a_foreign_one(files, tmp_path):
    assert files.run(files.list, [str(tmp_path)], threads=1).count == 300
    (tmp_path / "foreign").touch()
    with pytest.raises(FileRateError, match="301 names were listed, 300 files are there"):
        files.run(files.list, [str(tmp_path)])


def test_a_file_that_is_gone_or_cut_short_is_named(files):
    os.unlink(files.names[7])
    with pytest.raises(FileRateError, match="00000007"):
        files.run(files.stat, files.names)
    os.truncate(files.names[9], 5)
    with pytest.raises(FileRateError, match="00000009: 5 bytes were read, 777 were written"):
        files.run(files.small_read, files.names[9:])


def test_a_full_disk_is_told_with_the_file(small_disk):
    files = SmallFiles(small_disk, num_files=40, file_bytes=1 << 20, threads=2)
    with pytest.raises(FileRateError, match="make room") as caught:
        files.fill()
    assert caught.value.exit_status == 4
    assert str(small_disk) in str(caught.value)


def test_a_rate_is_the_count_over_the_time():
    assert Timed(50, 0.25, None).per_s == 200
