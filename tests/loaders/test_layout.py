"""A layout is proven on bytes: what does not lie at one stride, spelled as record 0 is, is refused with its place."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfrecord import example_pb2

from iobench.loaders.layout import LayoutError, prove_layout
from iobench.loaders.tfrecord import TFRecordError, encode_example, frame, walk_frames

SHAPE = (4, 5, 3)
PIXELS = bytes(range(60))
FEATURES: dict[str, bytes | int] = {
    "image/height": 4,
    "image/width": 5,
    "image/channels": 3,
    "image/format": b"raw",
    "image/class/label": 7,
    "image/encoded": PIXELS,
}


def prove(path, records):
    path.write_bytes(b"".join(records))
    fd = os.open(path, os.O_RDONLY)
    try:
        return prove_layout(fd, walk_frames(fd, path.stat().st_size, path=path), path=path)
    finally:
        os.close(fd)


def record(**changed: bytes | int | None) -> bytes:
    """A record with some features changed, `name__part` for name/part; None takes one out."""
    wanted = {**FEATURES, **{name.replace("__", "/"): value for name, value in changed.items()}}
    return frame(encode_example({name: value for name, value in wanted.items() if value is not None}))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.tfrecord"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 2**35 - 1), min_size=1, max_size=20), st.permutations(list(FEATURES)))
def test_labels_and_pixels_are_found_whatever_the_order_of_the_features(path, labels, names):
    def spelled(label: int) -> bytes:
        return frame(encode_example({name: label if name == "image/class/label" else FEATURES[name] for name in names}))

    found = prove(path, [spelled(label) for label in labels])
    assert found.labels.tolist() == labels
    assert found.shape == SHAPE
    assert found.stride_bytes == len(spelled(0))
    whole = path.read_bytes()
    for number in range(len(labels)):
        start = number * found.stride_bytes + found.payload_offset
        assert whole[start : start + 60] == PIXELS


def test_a_negative_label_of_ten_bytes_is_read(path):
    spelled = frame(encode_example({**FEATURES, "image/class/label": -3}, padded_varints=False))
    assert prove(path, [spelled, spelled]).labels.tolist() == [-3, -3]


def test_labels_of_different_varint_lengths_break_the_stride(path):
    short, long = (
        frame(encode_example({**FEATURES, "image/class/label": label}, padded_varints=False)) for label in (5, 500)
    )
    with pytest.raises(LayoutError, match="its records differ in length"):
        prove(path, [short, long])


def test_equal_lengths_with_another_spelling_are_refused(path):
    turned = frame(encode_example({name: FEATURES[name] for name in reversed(FEATURES)}))
    assert len(turned) == len(record())
    with pytest.raises(LayoutError, match=rf"some.tfrecord: record 2 \(byte {2 * len(turned)}\) is not spelled as"):
        prove(path, [record(), record(), turned])


@pytest.mark.parametrize("changed", [{"image__height": 5}, {"image__format": b"RAW"}, {"image__encodeD": b""}])
def test_a_record_that_says_something_else_of_its_pixels_is_refused(path, changed):
    other = record(**changed) if "image__encodeD" not in changed else record().replace(b"image/width", b"image/depth")
    other = frame(other[12:-4])
    with pytest.raises(LayoutError, match=r"record 1 .* is not spelled as record 0"):
        prove(path, [record(), other])


def test_text_that_differs_from_record_to_record_is_fine(path):
    names = [record(image__filename=f"{number:08d}".encode()) for number in range(5)]
    assert prove(path, names).labels.tolist() == [7] * 5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image__encoded": None}, "record 0 has no feature 'image/encoded'; it has image/channels, image/class/label"),
        ({"image__width": None}, "record 0 has no feature 'image/width'"),
        ({"image__class__label": None}, "record 0 has no feature 'image/class/label' with one int64"),
        ({"image__class__label": b"cat"}, "record 0 has no feature 'image/class/label' with one int64"),
        ({"image__encoded": 3}, "'image/encoded' of record 0 is int64, not one bytes value"),
        ({"image__height": 0}, "not one positive number each"),
        ({"image__height": b"4"}, "not one positive number each"),
        ({"image__height": 40}, r"has 60 bytes, not 40 x 5 x 3 \(not raw pixels\)"),
        ({"image__encoded": b"\xff\xd8\xff\xe0" + bytes(30)}, r"has 34 bytes, not 4 x 5 x 3 \(JPEG\)"),
    ],
)
def test_a_first_record_that_is_no_raw_image_is_told_apart(path, changed, message):
    with pytest.raises(LayoutError, match=message) as caught:
        prove(path, [record(**changed)])
    assert str(path) in str(caught.value)
    assert caught.value.exit_status == 4


def test_two_labels_in_one_list_are_no_label(path):
    example = example_pb2.Example.FromString(encode_example(FEATURES))
    example.features.feature["image/class/label"].int64_list.value[:] = [3, 4]
    with pytest.raises(LayoutError, match="no feature 'image/class/label' with one int64"):
        prove(path, [frame(example.SerializeToString())])


def test_shards_of_another_writer_are_read(path):
    records = []
    for label in (3, 9, 100):
        example = example_pb2.Example.FromString(encode_example({**FEATURES, "image/class/label": label}))
        records.append(frame(example.SerializeToString(deterministic=True)))
    assert prove(path, records).labels.tolist() == [3, 9, 100]


def test_an_empty_shard_is_refused(path):
    with pytest.raises(LayoutError, match="no record in it"):
        prove(path, [])


def test_a_payload_that_is_no_example_is_refused(path):
    with pytest.raises(TFRecordError, match="record 0: payload is no tf"):
        prove(path, [frame(b"\xff" * 50)])


def test_a_shard_cut_between_two_looks_at_it_is_no_shard_of_garbage_labels(path):
    path.write_bytes(record() * 9)
    fd = os.open(path, os.O_RDONLY)
    frames = walk_frames(fd, path.stat().st_size, path=path)
    os.truncate(path, len(record()) * 6 + 20)
    with pytest.raises(LayoutError, match=f"cut at byte {len(record()) * 6 + 20} while it was read"):
        prove_layout(fd, frames, path=path)
    os.close(fd)


def test_many_records_are_proven(path):
    labels = np.random.default_rng(0).integers(0, 10, 3000)
    assert (prove(path, [record(image__class__label=int(label)) for label in labels]).labels == labels).all()
