"""The placement of a batch, held against a plain copy of the records it asks for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from iobench.loaders.decode import buffer_bytes, place, view_geometry
from iobench.loaders.index import RecordLayout
from iobench.loaders.plan import batch_runs

PAGE = 4096
STRIDES = st.one_of(st.integers(40, 9000), st.sampled_from([PAGE, 2 * PAGE, 512, 3 * 512, PAGE + 512, PAGE - 1]))


def layout_of(stride: int) -> RecordLayout:
    width = (stride - 30) // 3
    return RecordLayout(stride, payload_offset=17, shape=(1, width, 3), dtype="uint8")


def fill(placement, shards, size_bytes: int):
    """Do what readers do, with bytes in memory for files; every byte may be read into once."""
    buffer = np.zeros(size_bytes, dtype=np.uint8)
    times = np.zeros(size_bytes, dtype=np.int64)
    for op in placement.reads:
        found = shards[op.shard][op.file_offset : op.file_offset + op.length]
        assert op.need <= len(found), "a read needs more than the file has"
        assert op.buffer_offset + op.length <= size_bytes, "a read would not fit into the buffer"
        buffer[op.buffer_offset : op.buffer_offset + len(found)] = found
        times[op.buffer_offset : op.buffer_offset + op.length] += 1
    assert times.max() <= 1
    for move in placement.moves:
        buffer[move.target : move.target + move.length] = buffer[move.source : move.source + move.length].copy()
    return buffer


@given(STRIDES, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([1, 512, PAGE]), st.data())
def test_every_record_of_a_batch_lands_in_its_slot(stride, sizes, alignment, data):
    layout = layout_of(stride)
    random = np.random.default_rng(stride)
    shards = [random.integers(0, 256, size * stride, dtype=np.uint8) for size in sizes]
    records = data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=12))
    start = data.draw(st.integers(0, sum(sizes) - 1))
    if data.draw(st.booleans()):
        records = list(range(start, min(sum(sizes), start + len(records))))  # one run, perhaps over shard ends
    read_bytes = data.draw(st.sampled_from([PAGE, 3 * PAGE, 1 << 20]))
    runs = batch_runs(np.array(records), np.cumsum([0, *sizes[:-1]]))
    placement = place(runs, layout, alignment=alignment, read_bytes=read_bytes)
    size_bytes = buffer_bytes(layout, batch_size=len(records), alignment=alignment)
    for op in placement.reads:
        assert not [value for value in (op.file_offset, op.length, op.buffer_offset) if value % alignment]
        assert 0 < op.need <= op.length <= max(read_bytes, alignment)
    places = [(op.shard, op.file_offset) for op in placement.reads]
    assert places == sorted(places) or len(set(records)) < len(records)
    buffer = fill(placement, shards, -(-size_bytes // PAGE) * PAGE)
    shape, strides, offset = view_geometry(layout, len(records), placement.first_record)
    view = np.ndarray(shape, np.uint8, buffer=buffer.data, offset=offset, strides=strides)
    every = np.concatenate(shards).reshape(-1, stride)[records]
    assert (view.reshape(len(records), -1) == every[:, 17 : 17 + layout.payload_bytes]).all()
    assert placement.payload_bytes == len(records) * layout.payload_bytes


@given(st.integers(1, 20), st.lists(st.integers(0, 99), min_size=1, max_size=20))
def test_nothing_is_moved_where_the_stride_is_a_multiple_of_the_alignment(pages, records):
    layout = layout_of(pages * PAGE)
    runs = batch_runs(np.array(records), np.array([0, 50]))
    assert place(runs, layout, alignment=PAGE, read_bytes=1 << 20).moves == ()


@given(STRIDES, st.integers(0, 40), st.integers(1, 9))
def test_nothing_is_moved_for_one_run_whatever_the_stride(stride, first, count):
    runs = batch_runs(np.arange(first, first + count), np.array([0]))
    assert place(runs, layout_of(stride), alignment=PAGE, read_bytes=1 << 20).moves == ()


def test_reads_of_a_long_run_are_cut_at_aligned_places():
    runs = batch_runs(np.arange(3, 9), np.array([0]))
    placement = place(runs, layout_of(5000), alignment=PAGE, read_bytes=3 * PAGE)
    # records 3 to 8 are bytes 15000 to 45000; the superset starts at 12288 and ends at 45056
    assert [(op.file_offset, op.length, op.need, op.buffer_offset) for op in placement.reads] == [
        (12288, 12288, 12288, 0),
        (24576, 12288, 12288, 12288),
        (36864, 8192, 8136, 24576),
    ]
    assert placement.first_record == 15000 - 12288
