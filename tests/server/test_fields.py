"""Lists of texts in request bodies."""

from __future__ import annotations

from typing import Any

import pytest

from edgeembed.errors import RequestError, TokenInputError
from edgeembed.server.fields import check_positive, texts_of

MOST = 3


def text_under_t(item: Any, place: str) -> str:
    if isinstance(item, dict):
        return str(item["t"])
    raise RequestError(f"{place} has no t", param=place)


@pytest.mark.parametrize(("given", "texts"), [("a", ["a"]), ("", [""]), (["a"], ["a"]), (["a", "", "c"], ["a", "", "c"])])
def test_a_string_or_a_list_of_strings(given: str | list[Any], texts: list[str]) -> None:
    assert texts_of(given, MOST, "input") == texts


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ([], "input", "input is an empty list"),
        (["a"] * 4, "input", "input has 4 items; one request may have at most 3"),
        (["a", None], "input[1]", "input[1] is null; expected a string"),
        (["a", 5], "input[1]", "input[1] is a number"),
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


def test_items_may_have_another_form() -> None:
    assert texts_of([{"t": "a"}, {"t": "b"}], MOST, "documents", item_text=text_under_t) == ["a", "b"]
    with pytest.raises(RequestError, match=r"documents\[1\] has no t"):
        texts_of([{"t": "a"}, 5], MOST, "documents", item_text=text_under_t)
    with pytest.raises(RequestError, match="at most 3"):
        texts_of([5] * 4, MOST, "documents", item_text=text_under_t)


def test_positive_numbers() -> None:
    check_positive(None, "top_n")
    check_positive(1, "top_n")
    with pytest.raises(RequestError, match="top_n is 0; expected at least 1"):
        check_positive(0, "top_n")
