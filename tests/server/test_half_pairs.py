"""Halves of surrogate pairs in JSON."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeembed.errors import RequestError
from edgeembed.inference.aside import LARGE
from edgeembed.inference.cleaning import without_surrogates
from edgeembed.server.body import BodyType
from edgeembed.server.half_pairs import without_half_pairs


class Body(msgspec.Struct):
    text: str


PARTS = [
    rb"\ud83d",
    rb"\uD83D",
    rb"\ude00",
    rb"\uDE00",
    rb"\\",
    rb"\n",
    rb"\u00e9",
    rb"\ufffd",
    b"ud83d",
    b"a",
    "é".encode(),
]


@given(st.lists(st.sampled_from(PARTS)))
def test_the_text_is_what_the_json_decoder_of_python_reads(parts: list[bytes]) -> None:
    raw = b'"%b"' % b"".join(parts)
    assert msgspec.json.decode(without_half_pairs(raw), type=str) == without_surrogates(json.loads(raw))


@pytest.mark.parametrize("raw", [rb'"a"', rb'"\ud83d\ude00"', rb'"\\ud83d"'])
def test_json_without_halves_is_returned_itself(raw: bytes) -> None:
    assert without_half_pairs(raw) is raw


@pytest.mark.parametrize("length", [1, LARGE])
def test_a_whole_pair_before_another_error_is_no_reason_to_try_again(length: int) -> None:
    with pytest.raises(RequestError, match="not valid JSON"):
        BodyType(Body).decode(rb'{"text": "\ud83d\ude00 \x%b"}' % (b"a" * length))
