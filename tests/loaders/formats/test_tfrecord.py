"""The TFRecord format against the tfrecord package, and what damaged bytes get."""

import gzip
import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tfrecord.reader import tfrecord_loader
from tfrecord.writer import TFRecordWriter

from iobench.loaders.formats.example import encode_example, walk_example
from iobench.loaders.formats.tfrecord import (
    FRAMING_BYTES,
    Frames,
    TFRecordError,
    frame,
    masked_crc,
    verify_payload_crc,
    walk_frames,
)

SMALL, LARGE = 40, 20_000  # below and above the size from which only the heads of equal records are read
PLAIN = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def walk(path: Path) -> Frames:
    with opened(path) as fd:
        return walk_frames(fd, path.stat().st_size, path=path)


def verify(path: Path) -> None:
    with opened(path) as fd:
        verify_payload_crc(fd, *walk_frames(fd, path.stat().st_size, path=path), path=path)


@pytest.fixture
def shard(tmp_path: Path) -> Callable[[list[int]], Path]:
    """Write a shard with payloads of these lengths."""

    def write(lengths: list[int]) -> Path:
        path = tmp_path / "a.tfrecord"
        rng = np.random.default_rng(1)
        path.write_bytes(b"".join(frame(rng.bytes(length)) for length in lengths))
        return path

    return write


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


# What google's protobuf makes of a payload, in this module's terms: kind, then the values.
@pytest.mark.parametrize("data", [b"", b"123456789", bytes(range(256)) * 7])
def test_the_masked_crc_is_that_of_the_tfrecord_package(data: bytes) -> None:
    assert masked_crc(data).to_bytes(4, "little") == TFRecordWriter.masked_crc(data)


def test_the_masked_crc_of_the_check_string_is_as_computed_by_hand() -> None:
    # crc32c("123456789") is 0xe3069283; rotated right by 15 it is 0x2507c60d; plus 0xa282ead8
    assert masked_crc(b"123456789") == 0xC78AB0E5


def test_a_crc_goes_on_from_the_bytes_before() -> None:
    assert masked_crc(b"", 0xE3069283) == masked_crc(b"123456789")


def test_shards_of_the_tfrecord_package_are_walked_and_verified(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    writer = TFRecordWriter(str(path))
    for i in range(5):
        writer.write({"x": (bytes(100 * i), "byte"), "n": (i, "int")})
    writer.close()
    frames = walk(path)
    verify(path)
    data = path.read_bytes()
    for i, (offset, length) in enumerate(zip(*frames, strict=True)):
        payload = memoryview(data)[offset + 12 : offset + 12 + length]
        features = walk_example(payload)
        assert {name: feature.kind for name, feature in features.items()} == {"x": "bytes", "n": "int64"}
        start, size = features["x"].span
        assert payload[start : start + size] == bytes(100 * i)
        assert features["n"].ints == (i,)


def test_our_records_are_read_by_the_tfrecord_package(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(frame(encode_example({"x": bytes([i] * 9), "n": i})) for i in range(4)))
    found = list(tfrecord_loader(str(path), None, {"x": "byte", "n": "int"}))
    assert [(bytes(record["x"]), record["n"].tolist()) for record in found] == [(bytes([i] * 9), [i]) for i in range(4)]


@PLAIN
@given(st.lists(st.sampled_from([0, 1, 15, 16, SMALL, 3 * SMALL + 32, LARGE, 2 * LARGE + 16]), max_size=8))
@example([SMALL, 0, 2 * SMALL + FRAMING_BYTES])  # a whole multiple of the first record, though no two are equal
@example([SMALL] * 9 + [2 * SMALL + FRAMING_BYTES])
@example([LARGE] * 3 + [2 * LARGE + FRAMING_BYTES])
def test_every_record_is_found_where_it_was_written(shard: Callable[[list[int]], Path], lengths: list[int]) -> None:
    frames = walk(shard(lengths))
    starts = [sum(lengths[:i]) + FRAMING_BYTES * i for i in range(len(lengths))]
    assert frames.offsets.tolist() == starts
    assert frames.lengths.tolist() == lengths
    assert frames.offsets.dtype == frames.lengths.dtype == np.int64


def test_many_small_records_are_found_across_read_blocks(shard: Callable[[list[int]], Path]) -> None:
    lengths = [SMALL] * 50_000
    assert walk(shard(lengths)).offsets.tolist() == list(range(0, 50_000 * (SMALL + 16), SMALL + 16))
    assert len(walk(shard([*lengths, 2 * SMALL + FRAMING_BYTES])).lengths) == 50_001


@pytest.mark.parametrize("lengths", [[SMALL] * 40, [LARGE] * 4, [SMALL, LARGE, SMALL, LARGE]])
def test_a_wrong_length_crc_is_named_with_file_byte_and_record(
    shard: Callable[[list[int]], Path], lengths: list[int]
) -> None:
    path = shard(lengths)
    start = sum(lengths[:3]) + 3 * FRAMING_BYTES
    for at in (start, start + 7, start + 8, start + 11):
        flip(path, at)
        with pytest.raises(
            TFRecordError, match=rf"{path}: length crc is wrong at byte {start + 8} \(record 3\); copy or"
        ):
            walk(path)
        flip(path, at)


@pytest.mark.parametrize("lengths", [[SMALL] * 40, [LARGE] * 4, [SMALL, LARGE, SMALL, LARGE]])
@pytest.mark.parametrize("missing", [1, 4, 20])
def test_a_truncated_shard_is_named_with_its_last_record(
    shard: Callable[[list[int]], Path], lengths: list[int], missing: int
) -> None:
    path = shard(lengths)
    os.truncate(path, path.stat().st_size - missing)
    last = sum(lengths[:-1]) + (len(lengths) - 1) * FRAMING_BYTES
    with pytest.raises(
        TFRecordError, match=rf"truncated: record {len(lengths) - 1} at byte {last} .* runs past the end"
    ):
        walk(path)


@pytest.mark.parametrize("trailing", [1, 11])
def test_trailing_bytes_are_named_with_their_place(shard: Callable[[list[int]], Path], trailing: int) -> None:
    path = shard([SMALL] * 3)
    end = path.stat().st_size
    with path.open("ab") as file:
        file.write(bytes(trailing))
    with pytest.raises(
        TFRecordError, match=rf"truncated: {trailing} bytes are left at byte {end} for the head of record 3"
    ):
        walk(path)


def test_zeros_at_the_end_are_no_records(shard: Callable[[list[int]], Path]) -> None:
    path = shard([SMALL] * 3)
    end = path.stat().st_size
    os.truncate(path, end + 4096)
    with pytest.raises(TFRecordError, match=rf"length crc is wrong at byte {end + 8} \(record 3\)"):
        walk(path)


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        (b"step,loss\n1,0.5\n2,0.25\n", "is no TFRecord file, it starts as text does"),
        (b"hello", "is no TFRecord file, it starts as text does"),
        (gzip.compress(b"x" * 100, mtime=0), "is gzip data; decompress it"),
        (b"\xff\xd8\xff\xe0" * 5, "is no TFRecord file or a damaged one"),
    ],
)
def test_a_file_that_is_no_shard_is_called_that(tmp_path: Path, content: bytes, verdict: str) -> None:
    path = tmp_path / "notes.tfrecord"
    path.write_bytes(content)
    with pytest.raises(TFRecordError, match=f"{path}: .*{verdict}"):
        walk(path)


def test_a_length_beyond_the_file_is_refused_without_allocating(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    length = (2**40).to_bytes(8, "little")
    path.write_bytes(length + masked_crc(length).to_bytes(4, "little") + bytes(100))
    tracemalloc.start()
    with pytest.raises(
        TFRecordError, match=r"record 0 at byte 0 has 1099511627776 payload bytes and runs past the end"
    ):
        walk(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    path.touch()
    assert [part.tolist() for part in walk(path)] == [[], []]
    verify(path)


BIG = (1 << 20) + 100_000


@pytest.mark.parametrize("at_byte", [0, 1 << 19, 1 << 20, BIG - 1, BIG, BIG + 3])
def test_a_flipped_byte_is_found_with_file_record_and_place(shard: Callable[[list[int]], Path], at_byte: int) -> None:
    path = shard([SMALL, BIG, SMALL])
    verify(path)
    start = SMALL + FRAMING_BYTES + 12
    flip(path, start + at_byte)
    with pytest.raises(TFRecordError, match=rf"{path}: payload crc is wrong \(record 1, {BIG} bytes at byte {start}\)"):
        verify(path)


@pytest.mark.parametrize("length", [(1 << 20) - 4, (1 << 20) - 2, 1 << 20, (1 << 20) + 1])
def test_payloads_around_the_block_size_are_verified_whole(shard: Callable[[list[int]], Path], length: int) -> None:
    path = shard([length, 5])
    verify(path)
    flip(path, 12 + length - 1)
    with pytest.raises(TFRecordError, match="record 0"):
        verify(path)


def test_a_file_that_is_cut_after_its_walk_is_noticed(shard: Callable[[list[int]], Path]) -> None:
    path = shard([SMALL] * 3)
    frames = walk(path)
    os.truncate(path, 3 * (SMALL + FRAMING_BYTES) - 2)
    with opened(path) as fd, pytest.raises(TFRecordError, match=r"was cut while it was read \(record 2"):
        verify_payload_crc(fd, frames.offsets, frames.lengths, path=path)
