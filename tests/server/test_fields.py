"""Lists of texts in request bodies."""

from __future__ import annotations

from typing import Any

import pytest

from edgeembed.engine.interface import Side
from edgeembed.errors import RequestError, TokenInputError
from edgeembed.server.fields import check_positive, input_type_of, message_text, side_of, side_to_cut, texts_of

MOST = 3


@pytest.mark.parametrize(("given", "texts"), [("a", ["a"]), ("", [""]), (["a"], ["a"]), (["a", "", "c"], ["a", "", "c"])])
def test_a_string_or_a_list_of_strings(given: str | list[Any], texts: list[str]) -> None:
    assert texts_of(given, MOST, "input") == texts


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ([], "input", "input is an empty list"),
        (["a"] * 4, "input", "input has 4 items; one request may have at most 3"),
        (["a", None], "input[1]", "input[1] is null; expected a string"),
        (["a", 5.5], "input[1]", "input[1] is a number"),
        ([True], "input[0]", "input[0] is a boolean"),
        (["a", ["b"]], "input[1]", "input[1] is a list"),
        ([{"t": "a"}], "input[0]", "input[0] is an object"),
    ],
)
def test_the_first_item_that_is_wrong_is_named(given: list[Any], param: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        texts_of(given, MOST, "input")
    assert caught.value.param == param and words in caught.value.message


@pytest.mark.parametrize("given", [[1, 2], [[1, 2], [3]], [[1]]])
def test_token_ids_have_an_error_of_their_own(given: list[Any]) -> None:
    with pytest.raises(TokenInputError, match=r"input holds token ids.*Send text, or whistle"):
        texts_of(given, MOST, "input", token_hint=", or whistle")


@pytest.mark.parametrize(("given", "place"), [(["a", 5], "input[1]"), ([12, "a"], "input[0]"), (["a", [1]], "input[1]")])
def test_token_ids_among_texts_are_named_where_ids_could_be_sent(given: list[Any], place: str) -> None:
    with pytest.raises(TokenInputError, match=r"takes texts or ids, but not both, or whistle") as caught:
        texts_of(given, MOST, "input", token_hint=", or whistle")
    assert caught.value.param == place


@pytest.mark.parametrize(
    "item",
    [
        {"text": "a"},
        {"type": "text", "text": "a"},
        {"type": "input_text", "text": "a"},
        {"content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"content": ["a"]},
        {"prompt_string": "a"},
    ],
)
def test_an_item_may_be_a_part_or_a_message(item: Any) -> None:
    assert texts_of(["b", item], MOST, "documents") == ["b", "a"]
    assert texts_of(item, MOST, "documents") == ["a"]
    assert message_text([item]) == "a"


def test_the_parts_of_a_message_are_one_text() -> None:
    item = {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert texts_of([item], MOST, "input") == ["ab"]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"text": "a", "image": "base64"}, "input[1].image: only texts are supported"),
        ({"text": "a", "video": [1]}, "input[1].video: only texts are supported"),
        ({"type": "image_url", "image_url": {"url": "u"}}, "input[1] is of the type 'image_url'; only texts"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "image"}]}, "input[1].content[1] is of the type 'image'"),
        ({"content": []}, "input[1] is an object; expected"),
        ({"text": 5}, "input[1] is an object; expected"),
        ({"content": [["a"]]}, "input[1].content[0] is a list"),
    ],
)
def test_an_item_without_a_text_is_refused(item: Any, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        texts_of(["a", item], MOST, "input")
    assert words in caught.value.message


@pytest.mark.parametrize("messages", [[], ["a", "b"]])
def test_a_chat_has_one_message(messages: list[Any]) -> None:
    with pytest.raises(RequestError, match=f"messages has {len(messages)} items; expected one"):
        message_text(messages)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        (None, None),
        *((word, "query") for word in ("query", "search_query", "retrieval.query", "RETRIEVAL_QUERY", "Retrieval-query")),
        *((word, "document") for word in ("document", "passage", "search_document", "retrieval.passage")),
        ("classification", "classification"),
        *((word, "clustering") for word in ("clustering", "separation")),
        *((word, "similarity") for word in ("text-matching", "SEMANTIC_SIMILARITY", "STS")),
    ],
)
def test_words_for_what_a_text_is_for(word: str | None, meant: str | None) -> None:
    assert input_type_of(word, "task") == meant


@pytest.mark.parametrize(
    ("word", "side"),
    [
        (None, None),
        *((word, "none") for word in ("NONE", "none", False)),
        *((word, "end") for word in ("END", "right", True)),
        *((word, "start") for word in ("START", "Left")),
    ],
)
def test_words_for_what_is_cut_off(word: str | bool | None, side: str | None) -> None:
    assert side_of(word, "truncate") == side


@pytest.mark.parametrize(
    ("truncate", "truncation", "truncation_side", "default", "side"),
    [
        (None, None, None, "end", "end"),
        (None, None, None, "start", "start"),
        (None, None, "left", "end", "start"),
        (None, None, "right", "start", "end"),
        (None, None, "left", "none", "none"),
        (None, True, None, "none", "end"),
        (None, True, "left", "none", "start"),
        (None, False, "left", "end", "none"),
        (True, True, "left", "none", "start"),
        ("end", True, "right", "none", "end"),
        ("none", False, "left", "end", "none"),
    ],
)
def test_three_fields_say_which_side_is_cut(
    truncate: str | bool | None, truncation: bool | None, truncation_side: str | None, default: Side, side: Side
) -> None:
    assert side_to_cut(truncate, truncation, truncation_side, default) == side


@pytest.mark.parametrize(
    "fields", [("end", False, None), ("none", True, None), ("start", None, "right"), (True, False, None)]
)
def test_fields_that_contradict_each_other_are_refused(fields: tuple[Any, Any, Any]) -> None:
    with pytest.raises(RequestError, match="contradict each other"):
        side_to_cut(*fields, "end")


def test_other_words_are_refused_with_a_list_of_the_words() -> None:
    with pytest.raises(RequestError, match="task 'nl2code' is unknown; expected one of query, document, passage"):
        input_type_of("nl2code", "task")
    with pytest.raises(RequestError, match="truncate 'MIDDLE' is unknown; expected one of none, end, right, start, left"):
        side_of("MIDDLE", "truncate")


def test_positive_numbers() -> None:
    check_positive(None, "top_n")
    check_positive(1, "top_n")
    with pytest.raises(RequestError, match="top_n is 0; expected at least 1"):
        check_positive(0, "top_n")
