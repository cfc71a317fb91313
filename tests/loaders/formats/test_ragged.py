"""Samples of unequal size in TFRecords: right bytes in every order, from every engine, with no copy, resumed exactly.

Files are written by google's protobuf, as DLIO writes them (`image`, `size`) and as image scripts do, encoded images in
them; what must come out is what went in.
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tfrecord import example_pb2

from iobench.loaders import DataLoader, Fields, PlannedBatches, ShardSet
from iobench.loaders.formats.example import encode_around, encode_example
from iobench.loaders.formats.fields import LayoutError
from iobench.loaders.formats.ragged import GAP_BYTES, Extents, place_ragged
from iobench.loaders.formats.tfrecord import TFRecordError, frame
from iobench.loaders.index import verify_shards
from iobench.loaders.plan import batch_runs

SHARDS = (17, 1, 40, 23)
TOTAL = sum(SHARDS)
PAGE = 4096


def example(**features: bytes | int) -> bytes:
    """A record as TensorFlow's protobuf spells it."""
    entries = {
        name: example_pb2.Feature(bytes_list=example_pb2.BytesList(value=[value]))
        if isinstance(value, bytes)
        else example_pb2.Feature(int64_list=example_pb2.Int64List(value=[value]))
        for name, value in features.items()
    }
    return frame(example_pb2.Example(features=example_pb2.Features(feature=entries)).SerializeToString())


def write_shards(folder: Path, records: Sequence[bytes], sizes: Sequence[int] = SHARDS) -> Path:
    folder.mkdir(exist_ok=True)
    left = iter(records)
    for number, size in enumerate(sizes):
        (folder / f"train-{number:05d}-of-{len(sizes):05d}.tfrecord").write_bytes(
            b"".join(itertools.islice(left, size))
        )
    return folder


@pytest.fixture(scope="module")
def samples() -> list[bytes]:
    """From one byte to many pages, all different."""
    random = np.random.default_rng(4)
    sizes = [1, 4095, 4096, 4097, 70_000, *random.integers(1, 9000, TOTAL - 5).tolist()]
    return [random.bytes(int(size)) for size in random.permutation(sizes)]


@pytest.fixture(scope="module")
def dlio(tmp_path_factory: pytest.TempPathFactory, samples: list[bytes]) -> Path:
    folder = tmp_path_factory.mktemp("ragged") / "dlio"
    return write_shards(folder, [example(image=sample, size=len(sample)) for sample in samples])


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, samples: list[bytes]) -> Path:
    """As image scripts write encoded images, with a label; in some records more than a page stands beside the image."""
    folder = tmp_path_factory.mktemp("ragged") / "encoded"
    records = []
    for number, sample in enumerate(samples):
        told = {"image/filename": b"n%d" % number ** (number % 3), "a/text": b"t" * (number % 7 * 1500)}
        records.append(example(**{"image/encoded": b"\xff\xd8\xff" + sample, "image/class/label": number, **told}))
    return write_shards(folder, records)


def read(loader: DataLoader) -> list[bytes]:
    return [sample.numpy().tobytes() for batch, _ in loader for sample in batch]


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize("mode", ["off", "shards", "blocks", "records"])
@pytest.mark.parametrize("engine", ["buffered", "direct", "mmap"])
def test_every_sample_comes_once_and_whole(dlio, samples, engine, mode, num_workers, direct_io):
    shards = ShardSet.open(dlio, engine=engine, shuffle_mode=mode, seed=3)
    loader = DataLoader(shards, batch_size=7, shuffle=mode != "off", num_workers=num_workers)  # 7 divides no shard
    found = read(loader)
    assert (found == samples) == (mode == "off")
    assert sorted(found) == sorted(samples)
    assert loader.tally.copied_bytes == 0
    assert loader.tally.payload_bytes == sum(map(len, samples))
    assert loader.tally.delivered_bytes == shards.reader.delivered_bytes


def test_all_engines_and_any_number_of_threads_give_the_same_batches(dlio, direct_io):
    found = []
    for engine, num_workers in (("buffered", 0), ("direct", 1), ("mmap", 2), ("buffered", 5)):
        shards = ShardSet.open(dlio, engine=engine, shuffle_mode="records", seed=9)
        found.append(read(DataLoader(shards, batch_size=5, shuffle=True, num_workers=num_workers)))
    assert all(batches == found[0] for batches in found)


def test_what_reaches_over_the_end_of_a_file_is_read_once(dlio, samples, direct_io):
    def storage_bytes() -> int:
        words = Path("/proc/self/io").read_text().split()
        return int(words[words.index("read_bytes:") + 1])

    shards = ShardSet.open(dlio, engine="direct")
    last = np.array([TOTAL - 1])
    shards.read_batch(last)  # opens the file
    before = shards.reader.delivered_bytes, storage_bytes()
    shards.read_batch(last)
    delivered, read = shards.reader.delivered_bytes - before[0], storage_bytes() - before[1]
    if not read:
        pytest.skip("the kernel counts no bytes read from this file system")
    assert read < 2 * delivered


def test_a_run_of_records_is_one_read(dlio, samples):
    loader = DataLoader(ShardSet.open(dlio, engine="buffered"), batch_size=SHARDS[0])
    next(iter(loader))
    assert loader.tally.num_reads == 1
    assert loader.tally.delivered_bytes > loader.tally.payload_bytes  # what lies between the samples is read along


def test_batches_are_lists_of_bytes_and_labels(encoded, samples):
    shards = ShardSet.open(encoded, fields=Fields(opaque=True))
    batch, labels = next(iter(DataLoader(shards, batch_size=20)))
    assert isinstance(batch, list)
    assert {(sample.dtype, sample.ndim) for sample in batch} == {(torch.uint8, 1)}
    assert [sample.numpy().tobytes() for sample in batch] == [b"\xff\xd8\xff" + sample for sample in samples[:20]]
    assert labels.tolist() == list(range(20))
    sample, label = shards[-1]
    assert (sample.numpy().tobytes()[3:], label) == (samples[-1], TOTAL - 1)


def test_dlios_records_are_known_by_their_features(dlio):
    shards = ShardSet.open(dlio)
    assert shards.index.layout_reason == "opaque samples of 1 to 70000 bytes, each proven on its record's bytes"
    assert shards[0][1] == -1
    again = ShardSet.open(dlio)
    assert again.index.status == "cached"
    assert (again.index.extents.offsets == shards.index.extents.offsets).all()


def test_records_of_equal_length_are_opaque_samples_too(tmp_path):
    random = np.random.default_rng(5)
    samples = [random.bytes(3000) for _ in range(30)]
    folder = write_shards(tmp_path / "equal", [example(image=sample, size=3000) for sample in samples], (30,))
    shards = ShardSet.open(folder)
    assert read(DataLoader(shards, batch_size=8)) == samples
    assert shards.index.layout_reason == "opaque samples of 3000 bytes, each proven on its record's bytes"


def test_encoded_images_are_refused_with_the_way_out_unless_asked_for(encoded):
    with pytest.raises(LayoutError, match=r"take their bytes as they are with fields=Fields\(opaque=True\)"):
        ShardSet.open(encoded, shape=(8, 8, 3))


def test_a_shape_or_dtype_beside_opaque_samples_is_refused(dlio):
    for wrong in ({"shape": (1, 2, 3)}, {"dtype": "float32"}):
        with pytest.raises(ValueError, match="opaque samples are bytes of any length"):
            ShardSet.open(dlio, fields=Fields(opaque=True), **wrong)


def test_an_empty_sample_is_refused(tmp_path):
    folder = write_shards(tmp_path / "empty", [example(image=b"a", size=1), example(image=b"", size=0)], (2,))
    with pytest.raises(LayoutError, match=r"record 1 \(byte \d+\): 'image' is empty; leave this record out"):
        ShardSet.open(folder)


def test_a_record_of_another_kind_among_them_is_named(tmp_path):
    records = [example(image=b"abc", size=3), example(picture=b"abc", size=3)]
    folder = write_shards(tmp_path / "mixed", records, (2,))
    with pytest.raises(LayoutError, match=r"record 1 .*has no feature 'image'; it has 'picture', 'size'"):
        ShardSet.open(folder)


def test_a_cut_shard_is_named(tmp_path, samples):
    folder = write_shards(tmp_path / "cut", [example(image=sample, size=1) for sample in samples[:3]], (3,))
    path = next(folder.iterdir())
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(TFRecordError, match="shard is truncated: record 2"):
        ShardSet.open(folder)


def test_verify_names_the_record_of_a_flipped_byte(tmp_path):
    records = [example(image=bytes([number]) * (100 * number + 1), size=number) for number in range(5)]
    folder = write_shards(tmp_path / "flip", records, (5,))
    shards = ShardSet.open(folder)
    assert verify_shards(shards.paths, shards.index) == sum(map(len, records))
    start, sample_at = sum(map(len, records[:3])), int(shards.index.extents.offsets[3])
    with shards.paths[0].open("r+b") as file:
        file.seek(sample_at + 50)
        file.write(b"!")
    with pytest.raises(TFRecordError, match=rf"payload crc is wrong \(record 3, \d+ bytes at byte {start + 12}\)"):
        verify_shards(shards.paths, shards.index)


def test_many_features_of_many_lengths_are_parsed_one_by_one(tmp_path):
    """More lengths than are remembered, and spellings of one length that differ in where the sample lies."""
    random = np.random.default_rng(6)
    samples = [random.bytes(1 + number // 2) for number in range(2600)]
    records = [
        example(image=sample, size=2**21 + number)
        if number % 2
        else frame(encode_example({"size": 2**21 + number, "image": sample}, padded_varints=False))
        for number, sample in enumerate(samples)
    ]
    folder = write_shards(tmp_path / "many", records, (len(records),))
    assert read(DataLoader(ShardSet.open(folder), batch_size=100)) == samples


@pytest.mark.parametrize("mode", ["blocks", "records"])
@pytest.mark.parametrize("stop", [1, 4, 11])
def test_an_epoch_is_resumed_exactly(dlio, mode, stop):
    def loader(num_workers: int) -> DataLoader:
        shards = ShardSet.open(dlio, shuffle_mode=mode, seed=1)
        return DataLoader(shards, batch_size=6, shuffle=True, num_workers=num_workers)

    whole = [[sample.numpy().tobytes() for sample in batch] for batch, _ in loader(0)]
    first = loader(2)
    begun = iter(first)
    for _ in range(stop):
        next(begun)
    again = loader(3)
    again.load_state_dict(first.state_dict())
    assert [[sample.numpy().tobytes() for sample in batch] for batch, _ in again] == whole[stop:]


def test_ranks_share_the_samples(dlio, samples):
    found = []
    for rank in range(3):
        shards = ShardSet.open(dlio, shuffle_mode="blocks", rank=rank, world_size=3)
        found += read(DataLoader(shards, batch_sampler=PlannedBatches(shards, 4, shuffle=True), num_workers=1))
    assert sorted(found) == sorted(samples)


def test_torchs_own_loader_reads_them_in_worker_processes(dlio, samples):
    loader = torch.utils.data.DataLoader(ShardSet.open(dlio), batch_size=9, num_workers=1, collate_fn=list)
    assert [sample.numpy().tobytes() for batch in loader for sample, _ in batch] == samples


def test_what_is_held_keeps_its_bytes(dlio, samples):
    loader = DataLoader(ShardSet.open(dlio), batch_size=5, num_workers=2)
    held = [sample for batch, _ in loader for sample in batch]
    read(loader)
    assert [sample.numpy().tobytes() for sample in held] == samples


def test_a_transform_gets_the_list(dlio, samples):
    shards = ShardSet.open(dlio, transform=lambda batch: torch.tensor([len(sample) for sample in batch]))
    sizes = torch.cat([batch for batch, _ in DataLoader(shards, batch_size=10)])
    assert sizes.tolist() == list(map(len, samples))


def test_a_pool_grows_to_a_batch_that_is_larger_than_expected(dlio, samples):
    """A sampler's own batches, each of other length."""
    parts = [[0], list(range(40)), list(range(40, TOTAL))]
    loader = DataLoader(ShardSet.open(dlio), batch_sampler=parts, num_workers=1)
    assert read(loader) == [*samples[:1], *samples[:40], *samples[40:]]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 300), st.integers(1, 9000)), min_size=1, max_size=6), min_size=1, max_size=3
    ),
    st.sampled_from([1, 512, PAGE]),
    st.sampled_from(["uint8", "float64"]),
    st.sampled_from([PAGE, 10_000, 1 << 30]),
    st.data(),
)
def test_every_sample_lands_where_its_view_looks(layout, alignment, dtype, read_bytes, data):
    """Against a plain copy of the bytes: shards of (gap, length), any batch of their records."""
    item = np.dtype(dtype).itemsize
    lengths, offsets, ends = [], [], []
    for shard in layout:
        at = 0
        for gap, length in shard:
            lengths.append(length * item)
            offsets.append(at + gap)
            at += gap + length * item
        ends.append(at)
    if dtype != "uint8":  # arrays come one to a file
        offsets, lengths, ends = offsets[:1], lengths[:1], ends[:1]
        layout, ends = [layout[0][:1]], [offsets[0] + lengths[0]]
    random = np.random.default_rng(0)
    shards = [random.integers(0, 256, end, dtype=np.uint8) for end in ends]
    first = np.cumsum([0, *map(len, layout)])[:-1]
    owner = np.repeat(np.arange(len(layout)), [len(shard) for shard in layout])
    extents = Extents(np.array(offsets), np.array(lengths), dtype)
    records = np.array(data.draw(st.lists(st.integers(0, len(offsets) - 1), min_size=1, max_size=8)))
    placed = place_ragged(batch_runs(records, first), first, extents, alignment=alignment, read_bytes=read_bytes)
    buffer = np.zeros(placed.size_bytes, np.uint8)
    for op in placed.reads:
        assert op.file_offset % alignment == op.length % alignment == op.buffer_offset % alignment == 0
        assert op.need <= op.length <= max(read_bytes, alignment) + alignment
        found = shards[op.shard][op.file_offset : op.file_offset + op.length]
        assert op.need <= len(found)
        buffer[op.buffer_offset : op.buffer_offset + len(found)] = found
    for move in placed.moves:
        buffer[move.target : move.target + move.length] = buffer[move.source : move.source + move.length].copy()
    assert placed.payload_bytes == sum(lengths[record] for record in records)
    for record, place in zip(records.tolist(), placed.places, strict=True):
        expected = shards[owner[record]][offsets[record] : offsets[record] + lengths[record]]
        assert (buffer[place : place + lengths[record]] == expected).all()
        assert place % item == 0


def test_what_lies_far_apart_is_not_read_along():
    extents = Extents(np.array([0, 100 + GAP_BYTES, 201 + 2 * GAP_BYTES]), np.array([100, 100, 100]))
    runs, first = batch_runs(np.arange(3), np.array([0])), np.array([0])
    placed = place_ragged(runs, first, extents, alignment=1, read_bytes=1 << 30)
    assert [(op.file_offset, op.length) for op in placed.reads] == [(0, 200 + GAP_BYTES), (201 + 2 * GAP_BYTES, 100)]
    assert not placed.whole


@given(
    st.text(min_size=1, max_size=40), st.integers(0, 70_000), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=200)
)
def test_what_stands_around_a_sample_makes_it_an_example(name, length, number, text):
    others = {f"{name}-": number, f"{name}+": text}
    before, behind = encode_around(name, length, others)
    parsed = example_pb2.Example.FromString(before + bytes(length) + behind).features.feature
    assert parsed[name].bytes_list.value[0] == bytes(length)
    assert parsed[f"{name}-"].int64_list.value[0] == number
    assert parsed[f"{name}+"].bytes_list.value[0] == text
    assert len(parsed) == 3
