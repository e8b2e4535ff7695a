"""Decoding request bodies."""

from __future__ import annotations

import codecs
from typing import Any, Literal

import msgspec
import pytest
from msgspec import UNSET

from edgeembed.errors import RequestError
from edgeembed.inference.aside import LARGE
from edgeembed.server.body import BodyType, cache_header, peek
from edgeembed.server.unsupported_fields import IGNORED, UNSUPPORTED


class Body(msgspec.Struct):
    text: str
    numbers: list[int] = []
    side: Literal["left", "right"] | None = None
    cache: bool | Literal["keep"] | None = None
    normalize: bool | None = None
    count: int | None = None


BODY = BodyType(Body)


@pytest.mark.parametrize(
    ("raw", "param", "words"),
    [
        (b"{}", "text", "text: Object missing required field"),
        (b'{"text": "a", "numbers": [1, "b"]}', "numbers[1]", "numbers[1]: Expected `int`"),
        (b'{"text": "a", "side": 5}', "side", "expected one of left, right"),
        (b'{"text": "a", "cache": "kept"}', "cache", 'expected one of true, false, "keep"'),
        (b'{"text": "a", "normalize": 1}', "normalize", "expected one of true, false"),
        (b'{"text": "a", "late_chunking": true}', "late_chunking", "late_chunking is not supported here; split the text"),
        (b'{"text": "a", "embed_dtype": "float16"}', "embed_dtype", "embed_dtype 'float16' is not supported here"),
        (b"[]", None, "the body: Expected `object`"),
        (b"{", None, "not valid JSON"),
        (b"", None, "missing request body"),
        (b" \r\n", None, "missing request body"),
        (b'{"text": "a", "count": 2.5}', "count", "Expected `int | null`"),
        (b'{"text": "a", "count": 2.0, "numbers": ["b"]}', "numbers[0]", "Expected `int`"),
        (b'{"text": "\xff"}', None, "not valid JSON"),
        (b'{"text": "\\ud83d", "numbers": ["a"]}', "numbers[0]", "Expected `int`"),
    ],
)
def test_errors_name_the_field_and_the_item(raw: bytes, param: str | None, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        BODY.decode(raw)
    assert caught.value.param == param and words in caught.value.message


def test_a_byte_order_mark_is_skipped() -> None:
    long = b'{"text": "%b"}' % (b"a" * LARGE)
    assert BODY.decode(codecs.BOM_UTF8 + b'{"text": "a"}').text == "a"
    assert len(BODY.decode(codecs.BOM_UTF8 + long).text) == LARGE
    assert peek(codecs.BOM_UTF8 + b'{"inputs": 1}').inputs is not UNSET
    with pytest.raises(RequestError, match="not valid JSON"):
        BODY.decode(codecs.BOM_UTF8 * 2 + b'{"text": "a"}')


@pytest.mark.parametrize(
    "field",
    [
        {"normalize": False},
        {"late_chunking": False},
        {"late_chunking": None},
        {"embed_dtype": "float32"},
        {"embedding_types": ["float"]},
        {"truncation_direction": "Right"},
        {"priority": 7},
        {"nobody": "knows it"},
    ],
)
def test_a_field_of_the_body_and_a_harmless_value_are_taken(field: dict[str, Any]) -> None:
    assert BODY.decode(msgspec.json.encode({"text": "a", **field})).text == "a"


@pytest.mark.parametrize(("written", "count"), [("8192.0", 8192), ("-1.00", -1), ("0.0", 0), ("7", 7)])
def test_a_whole_number_may_be_written_with_a_point(written: str, count: int) -> None:
    """Lua, JavaScript's number types in other languages, and pandas write integers so."""
    body = BODY.decode(f'{{"text": "a 1.0", "numbers": [2], "count": {written}}}'.encode())
    assert (body.text, body.numbers, body.count, type(body.count)) == ("a 1.0", [2], count, int)


@pytest.mark.parametrize("name", sorted(UNSUPPORTED.keys() - {"normalize"}))
def test_a_value_that_would_change_the_numbers_is_refused(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        BODY.decode(msgspec.json.encode({"text": "a", name: 12345}))
    assert caught.value.param == name and "is not supported here; " in caught.value.message


def test_no_field_is_both_refused_and_ignored() -> None:
    assert not UNSUPPORTED.keys() & IGNORED.keys()


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert BODY.decode(b'{"text": "a\\ud83d"}').text == "a\ufffd"


def test_peeking_finds_fields_and_never_fails() -> None:
    fields = peek(b'{"texts": [1], "other": 2}')
    assert fields.texts == msgspec.Raw(b"[1]") and fields.inputs is UNSET and fields.documents is UNSET
    for malformed in (b"", b"[]", b"{", b'{"texts": \xff}', b'{"texts": ' + b"[" * 100_000):
        assert peek(malformed).texts is UNSET


@pytest.mark.parametrize(("hits", "word"), [(0, "miss"), (1, "partial"), (2, "hit")])
def test_the_cache_header(hits: int, word: str) -> None:
    assert cache_header(hits, 2) == {"X-Edgeembed-Cache": word}
