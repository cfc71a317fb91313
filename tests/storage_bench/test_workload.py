"""Settings of a sweep: sizes in words, and the files under test."""

import os

import pytest

from iobench.loaders.index import ShardFormatError
from iobench.storage_bench.workload import DataFile, WorkloadError, data_files, parse_size


def test_a_folder_of_anything_is_read_but_for_its_dotfiles_and_empty_files(tmp_path):
    for name, size in (("b.bin", 10), ("a.bin", 20), (".hidden", 5), ("empty", 0)):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "folder").mkdir()
    assert data_files(tmp_path) == [DataFile(tmp_path / "a.bin", 20), DataFile(tmp_path / "b.bin", 10)]
    assert data_files(tmp_path / "b.bin") == [DataFile(tmp_path / "b.bin", 10)]


def test_a_data_folder_must_hold_nothing_but_its_shards(copied, page_set):
    known = copied(page_set)
    assert [file.path for file in data_files(known.folder)] == known.shards
    (known.folder / "notes.txt").write_text("mine")
    with pytest.raises(ShardFormatError, match=r"notes\.txt"):
        data_files(known.folder)


def test_where_there_is_nothing_to_read_the_way_out_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing").touch()
    for name in ("missing", "empty", "nothing"):
        with pytest.raises(WorkloadError, match="iobench generate"):
            data_files(tmp_path / name)
    with pytest.raises(WorkloadError, match=r"\*\.tfrecord: a glob, .*; name .*/empty$"):
        data_files(tmp_path / "empty" / "*.tfrecord")
    with pytest.raises(WorkloadError, match="pipe"):
        data_files(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("text", "size"), [("4K", 4096), ("1m", 1 << 20), ("1.5 MiB", 3 << 19), ("2T", 2 << 40), ("512", 512), (7, 7)]
)
def test_sizes_have_binary_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "4X", "four", "inf", "1e400", "nan"])
def test_what_is_no_size_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="write 4K, 1M"):
        parse_size(text)
