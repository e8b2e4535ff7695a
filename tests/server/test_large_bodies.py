"""Large bodies in steps: the same values and errors as in one."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from edgeembed.errors import RequestError, RequestTooLargeError
from edgeembed.server import large_bodies
from edgeembed.server.body import BodyType, peek
from edgeembed.server.large_bodies import MOST_STRING_BYTES, without_long_strings


class Body(msgspec.Struct):
    input: str | list[Any]
    model: str | None = None
    options: dict[str, Any] | None = None


DECODER = msgspec.json.Decoder(Body)
BODY = BodyType(Body)
PIECES = ("a", "word ", "\\", '"', "\n", "é", "漢", "😀", "\u2028", "[", ",", ":{", "\\u", "\x1f")


def fields(body: Body) -> tuple[Any, ...]:
    return body.input, body.model, body.options


def _text(rng: random.Random) -> str:
    return "".join(rng.choices(PIECES, k=rng.choice([0, 5, 40, 70, 300, 5000])))


def _value(rng: random.Random, depth: int = 0) -> Any:
    match rng.randrange(6 if depth < 3 else 4):
        case 0 | 1:
            return _text(rng)
        case 2:
            return rng.choice([None, True, 1, -2.5, 2**40])
        case 3:
            return {"text": _text(rng), _text(rng): 1}
        case 4:
            return [_value(rng, depth + 1) for _ in range(rng.randrange(5))]
        case _:
            return {str(number): _value(rng, depth + 1) for number in range(rng.randrange(5))}


@pytest.mark.parametrize("seed", range(3))
def test_values_are_the_same_as_decoded_at_once(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(large_bodies, "_WINDOW", 7)  # strings end at any place of one
    rng = random.Random(seed)
    for _ in range(20):
        value = {
            "input": [_value(rng) for _ in range(5)] + ["a" * 200_000],
            "model": _text(rng),
            "options": {"a": _value(rng)},
        }
        raw = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode()
        assert fields(BODY.decode(raw)) == fields(DECODER.decode(raw))
        skeleton, strings = without_long_strings(raw)
        assert len(skeleton) < len(raw) - 150_000 and strings
        cut = raw[: rng.randrange(len(raw))]
        with pytest.raises(RequestError):
            BODY.decode(cut + b"x" * 200_000)


def test_errors_and_half_pairs_are_those_of_small_bodies() -> None:
    long = b"a" * 200_000
    assert BODY.decode(b'{"input": "\\ud83d%b"}' % long).input == "\ufffd" + long.decode()
    for raw, words in (
        (b'{"model": "%b"}' % long, "missing required field"),
        (b'{"input": 5, "model": "%b"}' % long, "input: Expected"),
        (b'{"input": "%b' % long, "not valid JSON"),
        (b'{"input": "%b\\' % long, "not valid JSON"),
        (b'{"input": "%b\x01"}' % long, "not valid JSON"),
        (b'{"input": "%b\xff"}' % long, "not valid JSON"),
        (b'{"input": "%b\\ud83d\\x"}' % long, "not valid JSON"),
    ):
        with pytest.raises(RequestError, match=words):
            BODY.decode(raw)


@pytest.mark.parametrize(
    "value",
    [
        b"[" + b"[]," * 70_000 + b"1]",
        b"[" + b'"",' * 140_000 + b"1]",
        b"[" + b"1," * 600_000 + b"1]",
        b" " * 9_000_000 + b"1",
        b'"' + b"a" * (MOST_STRING_BYTES + 1) + b'"',
        b'"' + rb"\"" * (MOST_STRING_BYTES // 2 + 1) + b'"',
    ],
)
def test_what_takes_a_decoder_long_is_refused(value: bytes) -> None:
    for field in ("input", "other"):
        raw = b'{"input": "a", "%b": %b}' % (field.encode(), value)
        with pytest.raises(RequestTooLargeError):
            BODY.decode(raw)
        with pytest.raises(RequestTooLargeError):
            peek(raw)


def test_as_many_token_ids_as_a_request_may_have_are_accepted() -> None:
    ids = [[100_000 + number for number in range(1000)]] * 300
    assert BODY.decode(json.dumps({"input": ids}, indent=2).encode()).input == ids
