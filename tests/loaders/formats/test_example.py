"""tf.Examples against google's protobuf, and what damaged ones get."""

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tfrecord import example_pb2

from iobench.loaders.formats.example import Feature, encode_example, walk_example
from iobench.loaders.formats.tfrecord import TFRecordError

PLAIN = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def by_google(payload: bytes) -> dict[str, tuple[str, list[bytes] | list[int] | list[float]]]:
    message = example_pb2.Example.FromString(payload)
    kinds = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64", None: "empty"}
    found = {}
    for name, feature in message.features.feature.items():
        which = feature.WhichOneof("kind")
        found[name] = (kinds[which], list(getattr(feature, which).value) if which else [])
    return found


def by_walk(payload: bytes) -> dict[str, tuple[str, list[bytes] | list[int] | list[float]]]:
    found: dict[str, tuple[str, list[bytes] | list[int] | list[float]]] = {}
    for name, feature in walk_example(memoryview(payload)).items():
        values = [payload[offset : offset + length] for offset, length in feature.spans]
        if feature.kind == "int64":
            found[name] = ("int64", list(feature.ints))
        elif feature.kind == "float":
            found[name] = ("float", np.frombuffer(b"".join(values), "<f4").tolist())
        else:
            found[name] = (feature.kind, values)
    return found


def varint(value: int, width: int = 1) -> bytes:
    """By repeated division, unlike the module's shifts."""
    digits: list[int] = []
    while value >= 128 or len(digits) < width - 1:
        value, digit = divmod(value, 128)
        digits.append(digit + 128)
    return bytes([*digits, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number * 8 + 2) + varint(len(content)) + content


int64s = st.integers(-(2**63), 2**63 - 1)
float32s = st.floats(width=32, allow_nan=False)
values = st.one_of(
    st.tuples(st.just("bytes_list"), st.lists(st.binary(max_size=300), max_size=4)),
    st.tuples(st.just("int64_list"), st.lists(int64s, max_size=40)),
    st.tuples(st.just("float_list"), st.lists(float32s, max_size=40)),
)


@st.composite
def canonical_examples(draw: st.DrawFn) -> bytes:
    """A tf.Example as google's protobuf writes it."""
    message = example_pb2.Example()
    for name, (kind, content) in draw(st.dictionaries(st.text(max_size=20), values, max_size=6)).items():
        getattr(message.features.feature[name], kind).value.extend(content)
    serialised: bytes = message.SerializeToString()
    return serialised


unknown_fields = st.one_of(
    st.builds(lambda n, v: varint(n * 8) + varint(v), st.integers(9, 2**29 - 1), st.integers(0, 2**64 - 1)),
    st.builds(lambda n, v: varint(n * 8 + 1) + v, st.integers(9, 99), st.binary(min_size=8, max_size=8)),
    st.builds(field, st.integers(9, 99), st.binary(max_size=9)),
    st.builds(lambda n, v: varint(n * 8 + 5) + v, st.integers(9, 99), st.binary(min_size=4, max_size=4)),
)
# Known numbers under a wire type that is not theirs are unknown too.
misplaced_fields = st.sampled_from([varint(1 * 8 + 1) + bytes(8), varint(2 * 8 + 5) + bytes(4)])


def message_of(parts: st.SearchStrategy[bytes], max_size: int) -> st.SearchStrategy[bytes]:
    """Fields in any order, some twice, unknown ones between."""
    return st.lists(st.one_of(parts, parts, unknown_fields, misplaced_fields), max_size=max_size).map(b"".join)


def nested(number: int, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return content.map(lambda data: field(number, data))


spelled_ints = st.builds(varint, st.integers(0, 2**64 - 1), st.integers(1, 10))
bytes_lists = message_of(nested(1, st.binary(max_size=5)), 3)
int64_lists = message_of(
    st.one_of(spelled_ints.map(lambda v: b"\x08" + v), nested(1, st.lists(spelled_ints, max_size=3).map(b"".join))), 3
)
float_lists = message_of(
    st.one_of(
        float32s.map(lambda v: b"\x0d" + np.float32(v).tobytes()),
        nested(1, st.lists(float32s, max_size=3).map(lambda v: np.array(v, "<f4").tobytes())),
    ),
    3,
)
features = message_of(st.one_of(nested(1, bytes_lists), nested(2, float_lists), nested(3, int64_lists)), 3)
# No unknown fields in here: the Python protobuf then drops the whole entry, the C++ one does not.
entries = st.lists(st.one_of(nested(1, st.sampled_from([b"", b"a", b"b"])), nested(2, features)), max_size=3).map(
    b"".join
)
odd_examples = message_of(nested(1, message_of(nested(1, entries), 4)), 2)


@given(st.integers(0, 2**35 - 1))
def test_padded_ints_read_as_themselves_and_never_change_the_length(value: int) -> None:
    payload = encode_example({"n": value, "x": b"abc"})
    assert by_google(payload) == {"n": ("int64", [value]), "x": ("bytes", [b"abc"])}
    assert len(payload) == len(encode_example({"n": 0, "x": b"abc"}))


@given(int64s)
def test_ints_that_are_not_padded_are_spelled_as_google_does(value: int) -> None:
    message = example_pb2.Example()
    message.features.feature["n"].int64_list.value.append(value)
    assert encode_example({"n": value}, padded_varints=False) == message.SerializeToString()


@pytest.mark.parametrize("value", [-1, 2**35])
def test_an_int_that_padding_cannot_hold_is_refused(value: int) -> None:
    with pytest.raises(TFRecordError, match=r"n: a padded varint holds 0 \.\. 2\*\*35 - 1"):
        encode_example({"n": value})


@PLAIN
@given(canonical_examples())
def test_what_google_writes_is_read_as_google_reads_it(payload: bytes) -> None:
    assert by_walk(payload) == by_google(payload)


@PLAIN
@given(odd_examples)
# value before name; two parts of one value; a list of another kind after the first; a name twice
@example(field(1, field(1, field(2, field(3, field(1, b"\x07"))) + field(1, b"a"))))
@example(field(1, field(1, field(1, b"a") + field(2, field(1, field(1, b"x"))) + field(2, field(1, field(1, b"y"))))))
@example(field(1, field(1, field(2, field(1, field(1, b"x")) + field(3, b"\x08\x05")))))
@example(field(1, field(1, field(2, field(3, b"\x08\x05"))) * 2 + field(1, field(2, b""))))
def test_any_legal_spelling_is_read_as_google_reads_it(payload: bytes) -> None:
    assert by_walk(payload) == by_google(payload)


@PLAIN
@given(st.one_of(canonical_examples(), odd_examples), st.data())
def test_damaged_examples_are_read_as_google_reads_them_or_refused(payload: bytes, data: st.DataObject) -> None:
    damaged = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(TFRecordError):
        found = by_walk(bytes(damaged))
        message = example_pb2.Example.FromString(bytes(damaged))
        assume(1 not in [field.field_number for field in UnknownFieldSet(message.features)])  # dropped entries
        np.testing.assert_equal(found, by_google(bytes(damaged)))


@given(st.binary(max_size=400))
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_garbage_raises_nothing_but_a_tfrecord_error(payload: bytes) -> None:
    with suppress(TFRecordError):
        for feature in walk_example(memoryview(payload)).values():
            assert all(0 <= offset <= offset + length <= len(payload) for offset, length in feature.spans)


@pytest.mark.parametrize(
    ("payload", "rule"),
    [
        (b"\x0a", "varint at byte 1 is longer than 10 bytes or runs past byte 1"),
        (b"\x80" * 11, "varint at byte 0 is longer than 10 bytes"),
        (b"\x00\x01", "field number 0 at byte 0"),
        (b"\x0b\x0c", "wire type 3 before byte 1"),
        (b"\x0d\x01\x02", "a value of 4 bytes at byte 1 runs past byte 3"),
        (field(1, field(1, field(1, b"\xff"))), "the name at byte 6 is not UTF-8"),
        (field(1, field(1, field(2, field(2, field(1, b"abc"))))), "packed floats at byte 10 take 3 bytes"),
        (field(1, field(1, field(2, field(3, field(1, b"\x80"))))), "varint at byte 10 "),
    ],
)
def test_a_broken_example_is_named_by_record_byte_and_rule(payload: bytes, rule: str) -> None:
    with pytest.raises(TFRecordError, match=f"^record 3: payload is no tf.Example: {rule}.*copy or create") as raised:
        walk_example(memoryview(payload), where="record 3")
    assert raised.value.exit_status == 4


def test_a_value_longer_than_its_message_is_refused_at_its_byte_without_allocating() -> None:
    payload = field(1, field(1, b"\x0a" + varint(2**62) + b"abc"))
    tracemalloc.start()
    with pytest.raises(
        TFRecordError, match=r"a\.tfrecord: record 7: .*4611686018427387904 bytes at byte 14 runs past byte"
    ):
        walk_example(memoryview(payload), where="a.tfrecord: record 7")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_feature_gives_the_one_span_it_has_or_says_how_many_there_are() -> None:
    payload = encode_example({"x": b"abc", "n": 3})
    found = walk_example(memoryview(payload))
    offset, length = found["x"].span
    assert payload[offset : offset + length] == b"abc"
    assert payload[slice(found["n"].span[0], sum(found["n"].span))] == b"\x83\x80\x80\x80\x00"
    with pytest.raises(TFRecordError, match="holds 2 values"):
        _ = Feature("bytes", ((0, 1), (1, 1))).span
