"""Pixels and labels are found by proof on bytes, however records are spelled; what cannot be read is told where."""

import itertools
import os
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tfrecord import example_pb2

from iobench.loaders.formats.example import encode_example
from iobench.loaders.formats.fields import Fields, First, Wanted, parse_record
from iobench.loaders.formats.layout import LayoutError, LayoutProof
from iobench.loaders.formats.tfrecord import HEAD_BYTES, TFRecordError, frame, walk_frames

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
ORDERS = list(itertools.permutations(FEATURES))


def prove(path, records, wanted=None, *, proof=None):
    path.write_bytes(b"".join(records))
    fd = os.open(path, os.O_RDONLY)
    try:
        proof = proof or LayoutProof(wanted or Wanted())
        return proof.prove(fd, walk_frames(fd, path.stat().st_size, path=path), path=path)
    finally:
        os.close(fd)


def record(*, canonical: bool = False, **changed: bytes | int | None) -> bytes:
    """A record with some features changed, `name__part` for name/part; None takes one out."""
    wanted = {**FEATURES, **{name.replace("__", "/"): value for name, value in changed.items()}}
    features = {name: value for name, value in wanted.items() if value is not None}
    return frame(encode_example(features, padded_varints=not canonical))


def spelled(order, label: int, pixels: bytes = PIXELS, *, canonical: bool = False) -> bytes:
    """A record with its features in this order."""
    values = {**FEATURES, "image/class/label": label, "image/encoded": pixels}
    return frame(encode_example({name: values[name] for name in order}, padded_varints=not canonical))


def pixels_of(path, found, size: int = 60) -> list[bytes]:
    whole = path.read_bytes()
    return [whole[place : place + size] for place in found.payload_offsets]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.tfrecord"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**35 - 1), st.sampled_from(ORDERS), st.booleans(), st.binary(min_size=60, max_size=60)
        ),
        min_size=1,
        max_size=60,
    )
)
def test_pixels_and_labels_are_found_whatever_the_order_and_the_spelling(path, drawn):
    records = [spelled(order, label, pixels, canonical=canonical) for label, order, canonical, pixels in drawn]
    found = prove(path, records)
    assert found.labels.tolist() == [label for label, *_ in drawn]
    assert pixels_of(path, found) == [pixels for *_, pixels in drawn]


def test_what_one_shard_taught_does_not_mislead_the_next(tmp_path):
    proof = LayoutProof(Wanted())
    for number, orders in enumerate((ORDERS[:3], ORDERS[2:40], ORDERS[::11])):
        path = tmp_path / f"{number}.tfrecord"
        records = [spelled(order, label, bytes([label] * 60)) for label, order in enumerate(orders)]
        found = prove(path, records, proof=proof)
        assert found.labels.tolist() == list(range(len(orders)))
        assert pixels_of(path, found) == [bytes([label] * 60) for label in range(len(orders))]


@pytest.mark.parametrize("edge_bytes", [1, 300, 5000])
def test_shards_are_proven_piece_by_piece(path, monkeypatch, edge_bytes):
    """A piece of one record; of two; of some twenty."""
    monkeypatch.setattr("iobench.loaders.formats.layout._EDGE_BYTES", edge_bytes)
    records = [spelled(ORDERS[7 * n % 720], n, bytes([n] * 60), canonical=n % 3 == 0) for n in range(200)]
    found = prove(path, records)
    assert found.labels.tolist() == list(range(200))
    assert pixels_of(path, found) == [bytes([n] * 60) for n in range(200)]


def test_features_larger_than_the_image_are_read_over(path):
    records = [record(image__filename=bytes(500 + number), image__class__label=number) for number in range(5)]
    found = prove(path, records)
    assert found.labels.tolist() == list(range(5))
    assert pixels_of(path, found) == [PIXELS] * 5


def test_an_image_that_is_spelled_inside_another_feature_is_not_taken_for_it(path):
    """A thumbnail holds a whole Example, with pixels and label of its own."""
    inner = encode_example({**FEATURES, "image/class/label": 99, "image/encoded": bytes(60)})
    records = [record(a=inner, image__class__label=1), record(z=inner, image__class__label=2)]
    found = prove(path, records)
    assert found.labels.tolist() == [1, 2]
    assert pixels_of(path, found) == [PIXELS] * 2


def test_a_negative_label_of_ten_bytes_is_read(path):
    minus = frame(encode_example({**FEATURES, "image/class/label": -3}, padded_varints=False))
    assert prove(path, [minus, minus, record()]).labels.tolist() == [-3, -3, 7]


def test_labels_packed_and_unpacked_are_read(path):
    """int64_list { value: 9 } as tag 0x08 and varint (proto2's way), beside the packed 0x0a, length and varint."""
    packed = encode_example({**FEATURES, "image/class/label": 9}, padded_varints=False)
    at = packed.index(b"image/class/label") + len(b"image/class/label")
    entry_at = at - len(b"image/class/label") - 4
    assert packed[at : at + 7] == b"\x12\x05\x1a\x03\x0a\x01\x09"
    unpacked = packed[:at] + b"\x12\x04\x1a\x02\x08\x09" + packed[at + 7 :]
    unpacked = bytearray(unpacked)
    unpacked[entry_at + 1] -= 1  # the entry, and the message around all, are one byte shorter
    unpacked[1] -= 1
    assert example_pb2.Example.FromString(bytes(unpacked)).features.feature["image/class/label"].int64_list.value == [9]
    assert prove(path, [frame(packed), frame(unpacked)] * 3).labels.tolist() == [9] * 6


def test_numbers_and_text_that_differ_from_record_to_record_are_one_spelling(path):
    records = [
        record(image__filename=f"{n:08d}".encode(), image__id=n * 1000, image__class__label=n) for n in range(50)
    ]
    proof = LayoutProof(Wanted())
    assert prove(path, records, proof=proof).labels.tolist() == list(range(50))
    assert [len(known) for known in proof._spellings.values()] == [1]


def test_other_names_of_features_are_read(path):
    examples = [frame(encode_example({"x": bytes([n] * 60), "y": n, "z": 5})) for n in range(4)]
    found = prove(path, examples, Wanted(Fields(image="x", label="y"), shape=SHAPE))
    assert found.labels.tolist() == [0, 1, 2, 3]
    assert pixels_of(path, found) == [bytes([n] * 60) for n in range(4)]


def test_without_a_label_every_label_is_minus_one(path):
    found = prove(path, [record(image__class__label=None)] * 3, Wanted(Fields(label=None)))
    assert found.labels.tolist() == [-1] * 3


def test_a_shape_that_is_given_wins_over_what_records_say(path):
    """TensorFlow's scripts keep the size of the picture before it was resized."""
    records = [record(image__height=100 + n, image__width=1000) for n in range(3)]
    assert pixels_of(path, prove(path, records, Wanted(shape=SHAPE))) == [PIXELS] * 3


@pytest.mark.parametrize("packed", [True, False], ids=["one bytes value", "a list of floats"])
def test_floats_are_read_from_bytes_and_from_lists_of_floats(path, packed):
    images = np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32)
    records = []
    for label, image in enumerate(images):
        example = example_pb2.Example.FromString(encode_example({**FEATURES, "image/class/label": label}))
        feature = example.features.feature["image/encoded"]
        if packed:
            feature.bytes_list.value[:] = [image.tobytes()]
        else:
            feature.float_list.value[:] = image.reshape(-1).tolist()
        records.append(frame(example.SerializeToString(deterministic=True)))
    found = prove(path, records, Wanted(dtype="float32"))
    assert found.labels.tolist() == [0, 1, 2]
    assert pixels_of(path, found, 240) == [image.tobytes() for image in images]


def test_two_images_of_different_size_are_both_named(path):
    other = record(image__height=2, image__encoded=PIXELS[:30])
    with pytest.raises(
        LayoutError, match=r"some.tfrecord: record 2 \(byte \d+\): its image is 2 x 5 x 3, that of record 0 of "
    ):
        prove(path, [record(), spelled(ORDERS[9], 3), other, record(image__height=1, image__encoded=PIXELS[:15])])


def test_images_of_as_many_bytes_and_another_shape_are_told_apart(path):
    with pytest.raises(
        LayoutError, match=r"record 1 .*: its image is 5 x 4 x 3, that of record 0 of some.tfrecord is 4 x 5 x 3"
    ):
        prove(path, [record(), record(image__height=5, image__width=4)])


@pytest.mark.parametrize("size", [0, 1, 59, 61, 5000])
def test_an_image_of_other_bytes_than_the_shape_given_is_named(path, size):
    with pytest.raises(
        LayoutError, match=rf"record 3 .*: its image is of {size} bytes, that of record 0 of some.tfrecord is 4 x"
    ):
        prove(path, [record()] * 3 + [record(image__encoded=bytes(size))], Wanted(shape=SHAPE))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image__encoded": None}, "has no feature 'image/encoded'; it has 'image/channels', .*fields=Fields.image="),
        ({"image__width": None}, r"has no feature 'image/width'; .*fields=Fields\(width=.*, or give shape=\(H, W, C\)"),
        (
            {"image__class__label": None},
            r"has no feature 'image/class/label'; .*Fields\(label=\.\.\.\), or give label=None",
        ),
        ({"image__class__label": b"cat"}, "'image/class/label' holds 1 values of kind bytes, not one int64"),
        ({"image__encoded": 3}, "'image/encoded' holds 1 values of kind int64, not one image of kind bytes"),
        ({"image__height": 0}, r"'image/height' holds \[0\], not one positive number"),
        ({"image__height": b"4"}, "'image/height' holds a value of kind bytes, not one positive number"),
        (
            {"image__height": 40},
            r"'image/encoded' has 60 bytes, not the 600 of 40 x 5 x 3 uint8; give the right dtype=",
        ),
        ({"image__encoded": b"GIF89a" + bytes(30)}, "holds a GIF image where raw pixels were expected"),
        ({"image__encoded": b"BM" + bytes(30), "image__channels": None}, "holds a BMP image"),
    ],
)
@pytest.mark.parametrize("number", [0, 3])
def test_a_record_that_is_no_raw_image_is_told_apart(path, changed, message, number):
    with pytest.raises(LayoutError, match=f"record {number}.*(?:{message}|its image is)") as caught:
        prove(path, [record()] * number + [record(**changed)])
    assert str(path) in str(caught.value)
    assert caught.value.exit_status == 4
    if number and "give the right" not in message:
        assert "its image is" not in str(caught.value)


@pytest.mark.parametrize(("start", "codec"), [(b"\xff\xd8\xff\xe0", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png")])
@pytest.mark.parametrize("channels", [3, None])
def test_encoded_images_are_told_by_the_first_record_and_raw_pixels_stay_raw(path, start, codec, channels):
    encoded = record(image__encoded=start + bytes(30), image__channels=channels)
    proof = LayoutProof(Wanted())
    found = prove(path, [encoded, record(image__encoded=start + bytes(77), image__channels=channels)], proof=proof)
    assert proof.codec == codec
    assert found.payload_bytes.tolist() == [len(start) + 30, len(start) + 77]
    with pytest.raises(LayoutError, match=f"record 1 .*holds a {codec.upper()} image where raw pixels were expected"):
        prove(path, [record(image__encoded=start + PIXELS[len(start) :]), encoded])


def test_two_labels_in_one_list_are_no_label(path):
    example = example_pb2.Example.FromString(encode_example(FEATURES))
    example.features.feature["image/class/label"].int64_list.value[:] = [3, 4]
    with pytest.raises(LayoutError, match="'image/class/label' holds 2 values of kind int64, not one int64"):
        prove(path, [frame(example.SerializeToString())])


def test_an_empty_shard_is_refused(path):
    with pytest.raises(LayoutError, match="no record in it"):
        prove(path, [])


@pytest.mark.parametrize("number", [0, 4])
def test_a_payload_that_is_no_example_is_refused(path, number):
    with pytest.raises(TFRecordError, match=f"record {number}.*: payload is no tf"):
        prove(path, [record()] * number + [frame(b"\xff" * 500)])


def test_garbage_where_the_pixels_of_another_spelling_lie_is_no_image(path):
    """As long as record 0, its edges alike, and in between, where only pixels were expected, a field that runs out."""
    good = record()
    lies = bytearray(good[12:-4])
    at = lies.index(PIXELS) - 1
    lies[at] = 20  # the bytes value is said to end in the midst of the pixels
    with pytest.raises((LayoutError, TFRecordError), match="record 1"):
        prove(path, [good, frame(lies)])


def parsed_whole(payloads):
    """Places and labels by parsing all bytes of each record, or the number of the first that cannot be."""
    first, found = None, []
    for number, payload in enumerate(payloads):
        try:
            record = parse_record(memoryview(payload), Wanted(), where="", first=first)
        except (LayoutError, TFRecordError):
            return number
        first = first or First(record.shape, "")
        found.append((record.image_at, record.label))
    return found


def proven(path, payloads):
    """The same, by the proof."""
    try:
        found = prove(path, [frame(payload) for payload in payloads])
    except (LayoutError, TFRecordError) as error:
        return int(re.search(r"record (\d+)", str(error)).group(1))
    places = found.payload_offsets - found.frames.offsets - HEAD_BYTES
    return list(zip(places.tolist(), found.labels.tolist(), strict=True))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.data())
def test_records_with_any_byte_changed_are_found_as_parsing_them_whole_finds_them(path, data):
    payloads = []
    for label in range(data.draw(st.integers(2, 8))):
        payload = bytearray(spelled(data.draw(st.sampled_from(ORDERS[::97])), label)[12:-4])
        for _ in range(data.draw(st.sampled_from([0, 0, 1, 2]))):
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
        payloads.append(payload)
    assert proven(path, payloads) == parsed_whole(payloads)


def test_a_shard_cut_between_two_looks_at_it_is_no_shard_of_garbage_labels(path):
    path.write_bytes(record() * 9)
    fd = os.open(path, os.O_RDONLY)
    frames = walk_frames(fd, path.stat().st_size, path=path)
    os.truncate(path, len(record()) * 6 + 20)
    with pytest.raises(LayoutError, match=f"cut at byte {len(record()) * 6 + 20} while it was read"):
        LayoutProof(Wanted()).prove(fd, frames, path=path)
    os.close(fd)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4, 3), (4, 5, 3, 1)])
def test_a_shape_that_is_none_is_refused(shape):
    with pytest.raises(ValueError, match=r"is not \(height, width, channels\)"):
        Wanted(shape=shape)


def test_a_dtype_that_is_none_is_refused():
    with pytest.raises(ValueError, match="dtype 'uint7' is not one of uint8, int8"):
        Wanted(dtype="uint7")


def test_many_records_are_proven(path):
    labels = np.random.default_rng(0).integers(0, 10, 3000)
    found = prove(path, [record(image__class__label=int(label)) for label in labels])
    assert (found.labels == labels).all()
    assert (np.diff(found.payload_offsets) == len(record())).all()
