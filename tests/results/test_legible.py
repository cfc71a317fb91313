"""What names of any bytes are written as."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobench.results.legible import legible, legible_values


@pytest.mark.parametrize(
    ("name", "text"),
    [(b"na\xefve", r"na\xefve"), ("naïve".encode(), "naïve"), (b"\xff\xfe/a", r"\xff\xfe/a"), (b"plain", "plain")],
)
def test_a_byte_that_is_no_utf8_is_spelled_and_text_stays_as_it_is(name, text):
    assert legible(os.fsdecode(name)) == text


@given(st.text(st.characters(codec=None)))
def test_any_text_can_be_written_afterwards_and_what_could_be_is_unchanged(text):
    shown = legible(text)
    shown.encode("utf-8")
    assert legible(shown) == shown


def test_texts_are_found_at_any_depth():
    odd = os.fsdecode(b"\xef")
    told = legible_values({odd: [odd, (1, None, odd)], "b": {"c": odd}})
    assert json.loads(json.dumps(told)) == {r"\xef": [r"\xef", [1, None, r"\xef"]], "b": {"c": r"\xef"}}
