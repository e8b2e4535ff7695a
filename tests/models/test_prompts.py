"""Prompts: the one that a request gets, and the resulting text; and cleaning of texts."""

from __future__ import annotations

import pytest

from edgeembed.errors import EmptyInputError, RequestError
from edgeembed.hub.catalogue import Prompts
from edgeembed.inference.cleaning import clean
from edgeembed.inference.requests import EmbedRequest
from edgeembed.models.prompts import InputType, Prompt, choose_prompt
from tests.fakes import FakeEngine, fake_service

INSTRUCTED = Prompts(query="Instruct: {instruction}\nQuery:{text}", document="{text}", instruction="find passages")
PREFIXED = Prompts(query="query: {text}", document="passage: {text}")


def prompted(prompts: Prompts | None, input_type: InputType | None, instruction: str | None, text: str = "hello") -> str:
    return choose_prompt(prompts, input_type, instruction, "some-model").apply(text)


@pytest.mark.parametrize("prompts", [None, INSTRUCTED, PREFIXED])
def test_a_request_without_input_type_and_instruction_gets_no_prompt(prompts: Prompts | None) -> None:
    assert prompted(prompts, None, None) == "hello"


@pytest.mark.parametrize(
    ("prompts", "input_type", "instruction", "expected"),
    [
        (INSTRUCTED, "query", None, "Instruct: find passages\nQuery:hello"),
        (INSTRUCTED, "document", None, "hello"),
        (INSTRUCTED, "query", "find code", "Instruct: find code\nQuery:hello"),
        (INSTRUCTED, None, "find code", "Instruct: find code\nQuery:hello"),
        (INSTRUCTED, "query", "", "Instruct: \nQuery:hello"),
        (PREFIXED, "query", None, "query: hello"),
        (PREFIXED, "document", None, "passage: hello"),
        (None, "query", None, "hello"),
        (None, "document", None, "hello"),
    ],
)
def test_the_prompt_of_a_request(
    prompts: Prompts | None, input_type: InputType | None, instruction: str | None, expected: str
) -> None:
    assert prompted(prompts, input_type, instruction) == expected


@pytest.mark.parametrize(
    ("prompts", "input_type"), [(PREFIXED, "query"), (PREFIXED, None), (None, None), (INSTRUCTED, "document")]
)
def test_an_instruction_that_the_model_would_ignore_is_refused(
    prompts: Prompts | None, input_type: InputType | None
) -> None:
    with pytest.raises(RequestError, match=r"'some-model' takes no instruction") as caught:
        choose_prompt(prompts, input_type, "find code", "some-model")
    assert caught.value.param == "instruction" and caught.value.status == 400


@pytest.mark.parametrize("wild", ["{text}", "{instruction}", "{0}", "{", "}}", "{{}}", "%s", "a{b!r:>9}c"])
def test_braces_are_left_alone(wild: str) -> None:
    assert prompted(INSTRUCTED, "query", wild, wild) == f"Instruct: {wild}\nQuery:{wild}"
    assert prompted(PREFIXED, "document", None, wild) == f"passage: {wild}"
    assert prompted(None, None, None, wild) == wild


def test_prompts_share_an_identity_only_if_they_are_equivalent() -> None:
    """The identity is part of the cache's key: with equal ones, a row of one prompt would be served for another."""
    chosen = [
        choose_prompt(INSTRUCTED, None, None, "m"),
        choose_prompt(INSTRUCTED, "query", None, "m"),
        choose_prompt(INSTRUCTED, "query", "find code", "m"),
        choose_prompt(INSTRUCTED, "query", "", "m"),
        choose_prompt(PREFIXED, "query", None, "m"),
        choose_prompt(PREFIXED, "document", None, "m"),
    ]
    assert len({prompt.identity for prompt in chosen}) == len(chosen)
    assert choose_prompt(INSTRUCTED, "document", None, "m").identity == chosen[0].identity


@pytest.mark.parametrize(
    ("dirty", "cleaned"),
    [
        ("plain", "plain"),
        ("tab\tand\r\nlines", "tab\tand\r\nlines"),
        ("nul\0bell\x07del\x7f", "nulbelldel"),
        ("c1\x9bcontrol next\x85line", "c1control next\x85line"),
        ("e\u0301", "é"),
        ("\u1112\u1161\u11ab\u1100\u116e\u11a8", "한국"),
        ("half \ud83d of it", "half \ufffd of it"),
        ("family 👨\u200d👩\u200d👧", "family 👨\u200d👩\u200d👧"),
        ("\0\x01", ""),
    ],
)
def test_cleaning(dirty: str, cleaned: str) -> None:
    assert clean(dirty) == cleaned
    assert clean(cleaned) == cleaned


async def test_texts_that_are_equal_after_cleaning_are_computed_once() -> None:
    engine = FakeEngine()
    await fake_service(engine).embed(EmbedRequest(["caf\u00e9", "cafe\u0301", "caf\u00e9\0"]))
    assert engine.computed == ["caf\u00e9"]
    engine = FakeEngine()
    await fake_service(engine, clean_text=False).embed(EmbedRequest(["caf\u00e9", "cafe\u0301", "half \ud83d"]))
    assert engine.computed == ["caf\u00e9", "cafe\u0301", "half \ufffd"], "invalid Unicode is replaced"
    with pytest.raises(EmptyInputError):
        await fake_service(engine).embed(EmbedRequest(["\0\0"]))


@pytest.mark.parametrize(
    ("template", "instruction"),
    [
        ("Instruct: {instruction}\nQuery:{text}", "find {braces} \0"),
        ("{text} | {instruction}", "x"),
        ("a {{ b {text}", ""),
        ("{text}", ""),
    ],
)
def test_a_prompt_in_parts_makes_the_same_text(template: str, instruction: str) -> None:
    prompt = Prompt(template, instruction)
    for text in ("hello", "{text} and {instruction}", ""):
        (around,) = prompt.around([text])
        joined = around if isinstance(around, str) else around.prefix + around.text + around.suffix
        assert joined == prompt.apply(text)
