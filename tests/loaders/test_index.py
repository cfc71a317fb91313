"""The index is built once, kept where it can be kept, and not trusted longer than the shards stay as they were."""

import io
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from iobench.loaders.formats.fields import Fields, LayoutError
from iobench.loaders.formats.tfrecord import TFRecordError
from iobench.loaders.index import INDEX_NAME, build_index, load_index, verify_shards
from iobench.loaders.index_file import read_index_file, write_index_file

NOBODY = 65534


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def known(copied, odd_set, cache):
    return copied(odd_set)


def assert_whole(index, known, sizes=(23, 1, 40, 36)):
    assert index.num_records == len(known)
    assert index.shard_sizes == tuple(sizes)
    assert index.first_records.tolist() == [0, *np.cumsum(sizes)[:-1].tolist()]
    assert (index.labels == known.labels).all()


def test_an_index_is_built_then_taken_from_beside_the_data(known):
    built, cached = load_index(known.shards), load_index(known.shards)
    assert (built.status, cached.status) == ("built", "cached")
    assert built.location == cached.location == known.folder / INDEX_NAME
    for index in (built, cached):
        assert_whole(index, known)
    assert cached.layout == built.layout


def test_the_layout_says_where_every_pixel_lies(any_set):
    index = build_index(any_set.shards)
    layout = index.layout
    number = 0
    for path, count in zip(any_set.shards, index.shard_sizes, strict=True):
        content = np.fromfile(path, dtype=np.uint8)
        assert len(content) == count * layout.stride_bytes
        for record in range(count):
            start = record * layout.stride_bytes + layout.payload_offset
            pixels = content[start : start + layout.payload_bytes].reshape(layout.shape)
            assert (pixels == any_set.images[number]).all()
            number += 1


def test_the_three_sets_have_the_strides_that_their_tests_are_about(page_set, sector_set, odd_set):
    strides = [build_index(known.shards).layout.stride_bytes for known in (page_set, sector_set, odd_set)]
    assert (strides[0] % 4096, strides[1] % 512, strides[2] % 2) == (0, 0, 1)
    assert strides[1] % 4096


@pytest.mark.parametrize("change", ["touched", "grown", "replaced"])
def test_a_changed_shard_is_noticed(known, odd_set, change, encode):
    load_index(known.shards)
    shard = known.shards[2]
    before = shard.stat()
    if change == "touched":
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    elif change == "grown":
        with shard.open("ab") as file:
            file.write(encode(known.images[0], 5))
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        shutil.copy(known.shards[3], shard)
    index = load_index(known.shards)
    assert index.status == "rebuilt: part-2.tfrecord has changed since it was indexed"
    assert index.shard_sizes[2] == {"touched": 40, "grown": 41, "replaced": 36}[change]


def test_an_index_of_other_shards_is_noticed(known, page_set):
    load_index(page_set.shards)
    shutil.copy(page_set.folder / INDEX_NAME, known.folder / INDEX_NAME)
    index = load_index(known.shards)
    assert index.status == "rebuilt: the cached index is of other shards"
    assert_whole(index, known)


def test_part_of_a_folder_has_an_index_of_its_own(known):
    load_index(known.shards)
    part = load_index(known.shards[2:])
    assert (part.status, part.num_records) == ("rebuilt: the cached index is of other shards", 76)
    assert (part.labels == known.labels[24:]).all()


def zipped(content: bytes) -> bytes:
    """What an index was in version 1: arrays in a zip."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr("labels.npy", content)
    return whole.getvalue()


BROKEN_BYTES = {
    "cut": (lambda content: content[: len(content) // 2], "is damaged"),
    "without its end": (lambda content: content[:-8], "is damaged (792 bytes of arrays, {'labels': 100} said)"),
    "longer": (lambda content: content + bytes(8), "is damaged (808 bytes of arrays, {'labels': 100} said)"),
    "a label flipped": (lambda content: content[:-1] + b"\1", "is damaged (its checksum is wrong)"),
    "a name changed": (lambda content: content.replace(b"part-1", b"part-7"), "is damaged (its checksum is wrong)"),
    "empty": (lambda content: b"", "is no index of this program"),
    "text": (lambda content: b"no index at all, but more than sixteen bytes", "is no index of this program"),
    "an older format": (zipped, "is no index of this program"),
    "a huge header": (lambda content: content[:12] + b"\xff" * 4 + content[16:], "is damaged (cut in its header)"),
}


@pytest.mark.parametrize("how", BROKEN_BYTES)
def test_a_damaged_index_is_built_again(known, how):
    location = load_index(known.shards).location
    damage, told = BROKEN_BYTES[how]
    location.write_bytes(damage(location.read_bytes()))
    index = load_index(known.shards)
    assert index.status.startswith(f"rebuilt: {INDEX_NAME} {told}")
    assert_whole(index, known)
    assert load_index(known.shards).status == "cached"


FALSE_WORDS = {
    "another version": ({"version": 1}, "has version 1, not 2"),
    "no layout": ({"layout": None}, "is damaged (TypeError)"),
    "sizes shifted": ({"shard_sizes": [22, 2, 40, 36]}, "is damaged (counts do not agree)"),
    "sizes of fewer shards": ({"shard_sizes": [23, 77]}, "is damaged (counts do not agree)"),
    "an empty shard": ({"shard_sizes": [24, 0, 40, 36]}, "is damaged (counts do not agree)"),
    "too few labels": ({"labels": np.zeros(99, np.int64)}, "is damaged (counts do not agree)"),
    "a stride and places": ({"payload_offsets": np.zeros(100, np.int64)}, "is damaged (counts do not agree)"),
    "pixels past the end": ({"layout": {"payload_offset": 5000}}, "is damaged (counts do not agree)"),
    "no stride and no places": ({"layout": {"stride_bytes": None}}, "is damaged (counts do not agree)"),
}


@pytest.mark.parametrize("how", FALSE_WORDS)
def test_an_index_that_contradicts_itself_is_built_again(known, how):
    """With a checksum that is right."""
    location = load_index(known.shards).location
    header, arrays = read_index_file(location)
    del header["arrays"]
    changes, told = FALSE_WORDS[how]
    for name, value in changes.items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            header[name] = {**header[name], **value} if isinstance(value, dict) else value
    write_index_file(location, header, arrays, mode=0o644)
    index = load_index(known.shards)
    assert index.status == f"rebuilt: {INDEX_NAME} {told}"
    assert_whole(index, known)


def test_an_index_that_is_a_folder_does_not_stop_anybody(known, cache):
    (known.folder / INDEX_NAME).mkdir()
    index = load_index(known.shards)
    assert index.status.endswith("(kept in the cache)")
    assert_whole(index, known)


@contextmanager
def without_rights() -> Iterator[None]:
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def locked(odd_set) -> Iterator[Path]:
    """A data folder that `without_rights` can read and not write, and an empty folder `home` that it can write."""
    parent = Path(tempfile.mkdtemp())
    folder, home = parent / "data", parent / "home"
    shutil.copytree(odd_set.folder, folder, ignore=shutil.ignore_patterns(".*"))
    home.mkdir()
    if not os.geteuid():
        os.chown(home, NOBODY, NOBODY)
    parent.chmod(0o755)
    folder.chmod(0o555)
    yield parent
    folder.chmod(0o755)
    shutil.rmtree(parent)


def test_beside_data_that_cannot_be_written_the_index_goes_to_the_users_cache(locked, odd_set, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(locked / "home"))
    shards = sorted((locked / "data").glob("*.tfrecord"))
    with without_rights():
        built, cached = load_index(shards), load_index(shards)
    assert (built.status, cached.status) == ("built (kept in the cache)", "cached")
    assert cached.location.is_relative_to(locked / "home" / "iobench" / "index")
    assert_whole(cached, odd_set)
    assert sorted(path.name for path in (locked / "data").iterdir()) == [*(path.name for path in shards)]


@pytest.mark.parametrize("home", ["a folder that cannot be written", "none"])
def test_where_nothing_can_be_written_the_index_stays_in_memory(locked, odd_set, monkeypatch, home):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home == "none":
        monkeypatch.setattr(Path, "home", staticmethod(no_home))
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(locked / "data"))
    shards = sorted((locked / "data").glob("*.tfrecord"))
    with without_rights():
        index = load_index(shards)
    assert (index.status, index.location) == ("built (kept in memory only)", None)
    assert_whole(index, odd_set)


def no_home() -> Path:
    """What Path.home does for a user id without an entry, as containers have it."""
    raise RuntimeError("Could not determine home directory.")


def test_an_index_that_only_its_writer_may_read_is_passed_over(locked, odd_set, monkeypatch):
    if os.geteuid():
        pytest.skip("needs root, to write a file that the test then may not read")
    monkeypatch.setenv("XDG_CACHE_HOME", str(locked / "home"))
    shards = sorted((locked / "data").glob("*.tfrecord"))
    location = load_index(shards).location
    location.chmod(0o600)
    with without_rights():
        index = load_index(shards)
    assert index.status.startswith("rebuilt: [Errno 13] Permission denied")
    assert_whole(index, odd_set)


def test_whoever_may_read_the_shards_may_read_their_index(known):
    known.shards[0].chmod(0o640)
    location = load_index(known.shards).location
    assert stat.S_IMODE(location.stat().st_mode) == 0o640


def test_a_shard_of_images_of_another_size_is_refused(known, write_set):
    other = write_set((31, 18, 3), [2], name="other").shards[0]
    shutil.copy(other, known.folder / "zz.tfrecord")
    message = (
        r"zz.tfrecord: record 0 \(byte 0\): its image is 31 x 18 x 3, that of record 0 of part-0.tfrecord is 31 x 17"
    )
    with pytest.raises(LayoutError, match=message):
        load_index(known.shards)
    assert not (known.folder / INDEX_NAME).exists()


def test_one_stride_is_told_as_proven(known):
    for index in (load_index(known.shards), load_index(known.shards)):
        assert index.layout_reason == "constant stride, proven on the bytes"
        assert index.payload_offsets is None
        assert index.record_bytes == index.layout.stride_bytes == index.layout.slot_bytes


def test_what_is_asked_of_the_records_has_an_index_of_its_own(known):
    """Two users of one folder, one of whom names his fields, do not drive each other's index out."""
    usual = load_index(known.shards)
    unlabelled = load_index(known.shards, fields=Fields(label=None))
    assert usual.location != unlabelled.location
    assert (unlabelled.status, unlabelled.labels.tolist()) == ("built", [-1] * len(known))
    for _ in range(2):
        again = load_index(known.shards, fields=Fields(label=None))
        assert (again.status, again.labels.tolist()) == ("cached", [-1] * len(known))
        assert_whole(load_index(known.shards), known)
    assert load_index(known.shards).status == "cached"


def test_an_index_that_was_made_of_other_fields_is_not_believed(known):
    unlabelled = load_index(known.shards, fields=Fields(label=None))
    shutil.copy(unlabelled.location, known.folder / INDEX_NAME)
    index = load_index(known.shards)
    assert index.status == "rebuilt: the cached index is of another description"
    assert_whole(index, known)


def test_an_index_takes_eight_bytes_a_record_beside_its_header(known):
    index = load_index(known.shards)
    assert index.location.stat().st_size < 8 * len(known) + 2000
    assert load_index(known.shards, fields=Fields(label=None)).location.stat().st_size < 2000


def test_whole_shards_are_verified_and_their_bytes_counted(any_set):
    index = build_index(any_set.shards)
    seen = []
    total = verify_shards(any_set.shards, index, progress=lambda done, of: seen.append((done, of)))
    assert total == sum(path.stat().st_size for path in any_set.shards)
    assert seen[-1] == (total, total)
    assert len(seen) == len(any_set.shards)


@pytest.mark.parametrize("record", [0, 17, 35])
def test_a_flipped_pixel_is_found_with_file_record_and_byte(known, record):
    index = load_index(known.shards)
    shard = known.shards[3]
    status = shard.stat()
    start = record * index.layout.stride_bytes
    with shard.open("r+b") as file:
        file.seek(start + index.layout.payload_offset + 500)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_index(known.shards).status == "cached"
    with pytest.raises(
        TFRecordError, match=f"payload crc is wrong .record {record}, .* at byte {start + 12}"
    ) as caught:
        verify_shards(known.shards, index)
    assert str(shard) in str(caught.value)
    assert caught.value.exit_status == 4


@pytest.mark.parametrize("cut_bytes", [1, 4, 700, 5000])
def test_a_truncated_shard_is_refused_with_its_name_and_place(known, cut_bytes):
    shard = known.shards[0]
    size = shard.stat().st_size
    os.truncate(shard, size - cut_bytes)
    with pytest.raises(TFRecordError, match=r"shard is truncated: record .* runs past the end") as caught:
        load_index(known.shards)
    assert str(shard) in str(caught.value)
    assert str(size - cut_bytes) in str(caught.value)
    assert not (known.folder / INDEX_NAME).exists()


def test_a_wrong_length_crc_is_refused_with_its_record_and_byte(known):
    index = load_index(known.shards)
    shard = known.shards[2]
    start = 11 * index.layout.stride_bytes
    with shard.open("r+b") as file:
        file.seek(start + 9)
        file.write(b"\x55")
    with pytest.raises(TFRecordError, match=rf"length crc is wrong at byte {start + 8} \(record 11\)") as caught:
        load_index(known.shards)
    assert str(shard) in str(caught.value)
    assert caught.value.exit_status == 4


def test_a_length_that_lies_allocates_nothing(known):
    """A record that claims 2**40 bytes, with a right crc over that claim."""
    from iobench.loaders.formats.tfrecord import masked_crc

    head = (1 << 40).to_bytes(8, "little")
    with known.shards[1].open("r+b") as file:
        file.write(head + masked_crc(head).to_bytes(4, "little"))
    with pytest.raises(TFRecordError, match="record 0 at byte 0 has 1099511627776 payload bytes and runs past the end"):
        load_index(known.shards)
