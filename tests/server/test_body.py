"""Decoding request bodies."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET

from edgeembed.errors import RequestError
from edgeembed.server.body import cache_header, decode, peek


class Body(msgspec.Struct):
    text: str
    numbers: list[int] = []
    side: str | None = None


DECODER = msgspec.json.Decoder(Body)


@pytest.mark.parametrize(
    ("raw", "param", "words"),
    [
        (b"{}", "text", "text: Object missing required field"),
        (b'{"text": "a", "numbers": [1, "b"]}', "numbers[1]", "numbers[1]: Expected `int`"),
        (b'{"text": "a", "side": 5}', "side", "expected one of left, right"),
        (b"[]", None, "the body: Expected `object`"),
        (b"{", None, "not valid JSON"),
        (b'{"text": "\xff"}', None, "not valid JSON"),
        (b'{"text": "\\ud83d", "numbers": ["a"]}', "numbers[0]", "Expected `int`"),
    ],
)
def test_errors_name_the_field_and_the_item(raw: bytes, param: str | None, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(raw, DECODER, {"side": ("left", "right")})
    assert caught.value.param == param and words in caught.value.message


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert decode(b'{"text": "a\\ud83d"}', DECODER, {}).text == "a\ufffd"


def test_peeking_finds_fields_and_never_fails() -> None:
    fields = peek(b'{"texts": [1], "other": 2}')
    assert fields.texts == msgspec.Raw(b"[1]") and fields.inputs is UNSET and fields.documents is UNSET
    for malformed in (b"", b"[]", b"{", b'{"texts": \xff}', b'{"texts": ' + b"[" * 100_000):
        assert peek(malformed).texts is UNSET


@pytest.mark.parametrize(("hits", "word"), [(0, "miss"), (1, "partial"), (2, "hit")])
def test_the_cache_header(hits: int, word: str) -> None:
    assert cache_header(hits, 2) == {"X-Edgeembed-Cache": word}
