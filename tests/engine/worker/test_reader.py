"""How texts are truncated. No model: a token is a character, with special tokens around the text."""

from __future__ import annotations

import numpy as np
import pytest

from edgeembed.engine.interface import Limits, Pair, Prompted, Role, Side, Text
from edgeembed.engine.reading import Reading, Tokens
from edgeembed.engine.worker import reader as worker_reader
from edgeembed.engine.worker.reader import BadIdsError, CutReading, NoRoomError, TextReader, TooLongError

BEGIN, END, MERGED = 1, 2, 3
VOCABULARY = 200
CONTEXT = 12


class Model:
    """One token per character, and one for ":x", as in byte-level BPE. begin: a special token before each text, too."""

    def __init__(self, *, begin: bool = True) -> None:
        self.begin = begin

    def tokenize(self, text: str) -> Tokens:
        inner = [MERGED if part == "\0" else ord(part) for part in text.replace(":x", "\0")]
        return np.array([*([BEGIN] if self.begin else []), *inner, END], dtype=np.int32)

    def around(self, prefix: str, suffix: str, role: Role = "") -> tuple[Tokens, Tokens]:
        return self.tokenize(prefix)[:-1], self.tokenize(suffix)[self.begin :]

    def expanded(self, reading: Reading, role: Role) -> Reading:
        return reading

    def shorten(self, text: str, most: int, *, at_start: bool = False) -> str:
        return text[-most - 1 :] if at_start else text[: most + 1]

    def read(self, text: Text) -> Reading:
        match text:
            case str():
                return Reading(self.tokenize(text))
            case Prompted(prefix, inner, suffix):
                return Reading(self.tokenize(prefix + inner + suffix))
            case Pair(query, document):
                return Reading(np.concatenate([self.tokenize(query), self.tokenize(document)[self.begin :]]))


def reader(*, begin: bool = True) -> TextReader:
    return TextReader(Model(begin=begin), context_tokens=CONTEXT, vocabulary=VOCABULARY)


def as_text(reading: Reading) -> str:
    """Return tokens as text: < and > for special tokens, * for the joined token."""
    return "".join({BEGIN: "<", END: ">", MERGED: "*"}.get(token, chr(token)) for token in reading.tokens.tolist())


def text(inner: str, side: Side, most: int = 0, prefix: str = "", suffix: str = "") -> Prompted:
    return Prompted(prefix, inner, suffix, Limits(most, side))


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (text("0123456789", "end"), "<0123456789>"),
        (text("0123456789abc", "end"), "<0123456789>"),
        (text("0123456789abc", "start"), "<3456789abc>"),
        (text("0123456789", "end", 5), "<012>"),
        (text("0123456789", "start", 5), "<789>"),
        (text("0123456789abc", "end", 1000), "<0123456789>"),
        (text("0123456789", "end", 8, "q "), "<q 0123>"),
        (text("0123456789", "start", 8, "q "), "<q 6789>"),
        (text("0123456789", "end", 8, "q ", "!"), "<q 012!>"),
        (text("0123456789", "start", 8, "q ", "!"), "<q 789!>"),
        # The text may contain the words of the prompt, too, at either end.
        (text("q q q q q ", "end", 8, "q "), "<q q q >"),
        (text("!!!!!!!!!!", "end", 6, "", "!"), "<!!!!>"),
        (text("a!b!a!b!a!", "start", 8, "!a", "a!"), "<!aa!a!>"),
        # The prompt's colon and the text's x are one token, which counts as part of the text.
        (text("x123456789", "end", 6, "q:"), "<q*12>"),
        (text("x123456789", "start", 6, "q:"), "<q:89>"),
    ],
)
def test_only_the_text_is_truncated(given: Prompted, left: str) -> None:
    reading = reader().read_within(given)
    assert as_text(reading) == left
    full = len(reader().read(given).tokens)
    assert (reading.full if isinstance(reading, CutReading) else len(reading.tokens)) == full


def test_a_special_token_only_at_the_end_is_kept() -> None:
    assert as_text(reader(begin=False).read_within(text("0123456789abc", "start", 4))) == "abc>"


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (Limits(0, "end"), "<que>0123456>"),
        (Limits(8, "end"), "<que>01>"),
        (Limits(8, "start"), "<que>bc>"),
        (Limits(3, "end", own=True), "<que>012>"),
        (Limits(3, "start", own=True), "<que>abc>"),
        (Limits(100, "end", own=True), "<que>0123456>"),
    ],
)
def test_of_a_pair_only_the_document_is_truncated(limits: Limits, left: str) -> None:
    pair = Pair("que", "0123456789abc", limits=limits)
    assert as_text(TextReader(Model(), context_tokens=13, vocabulary=VOCABULARY).read_within(pair)) == left


def test_a_limit_on_own_tokens_does_not_count_the_query() -> None:
    pair = Pair("query", "012", limits=Limits(3, "end", own=True))
    assert as_text(reader().read_within(pair)) == "<query>012>", "10 tokens, of which 3 are the document's"


@pytest.mark.parametrize(
    ("given", "tokens", "limit"),
    [
        ("0123456789a", 13, CONTEXT),
        (text("0123456", "none", 5), 9, 5),
        (text("0123456789a", "none", 1000), 13, CONTEXT),
        (Pair("q", "01234", limits=Limits(4, "none", own=True)), 9, 8),
    ],
)
def test_a_text_that_must_not_be_truncated_is_too_long(given: Text, tokens: int, limit: int) -> None:
    with pytest.raises(TooLongError) as caught:
        reader().read_within(given)
    assert (caught.value.tokens, caught.value.limit) == (tokens, limit)


@pytest.mark.parametrize(
    "given", [text("01234", "end", 2), text("01234", "start", 6, "0123"), text("0" * 20, "end", 0, "9" * 10)]
)
def test_a_prompt_that_leaves_no_room_is_an_error(given: Prompted) -> None:
    with pytest.raises(NoRoomError, match="leave no room for the text"):
        reader().read_within(given)


def ids_of(*ids: int) -> bytes:
    return np.array(ids, dtype=np.int32).tobytes()


@pytest.mark.parametrize("given", [[65, 66], [BEGIN, 65, 66, END], [BEGIN, 65, 66], [65, 66, END]])
def test_ids_get_special_tokens_unless_they_have_them(given: list[int]) -> None:
    assert as_text(reader().read_within(Prompted("", "", "", ids=ids_of(*given)))) == "<AB>"
    assert as_text(reader().read_within(Prompted("q ", "", "!", ids=ids_of(*given)))) == "<q AB!>"


def test_ids_are_truncated_like_their_text() -> None:
    given = Prompted("q ", "", "", Limits(6, "start"), ids=ids_of(*map(ord, "ABCDE")))
    assert as_text(reader().read_within(given)) == "<q DE>"


@pytest.mark.parametrize("wrong", [-1, VOCABULARY, 2**31 - 1])
def test_an_id_outside_the_vocabulary_is_named(wrong: int) -> None:
    with pytest.raises(BadIdsError, match=f"no token {wrong}: the model's ids are 0 to 199"):
        reader().read_within(Prompted("", "", "", ids=ids_of(65, wrong)))


def test_special_tokens_alone_are_an_empty_text() -> None:
    assert len(reader().read(Prompted("q ", "", "", ids=ids_of(BEGIN, END))).tokens) == 0


@pytest.mark.parametrize("side", ["end", "start"])
@pytest.mark.parametrize("most", [0, 8])
def test_of_a_giant_text_only_what_is_kept_is_read(side: Side, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    giant = text("".join(chr(97 + number % 26) for number in range(500)), side, most, "q ", "!")
    whole = reader().read_within(giant)
    monkeypatch.setattr(worker_reader, "COUNTED_CHARACTERS", 40)
    part = reader().read_within(giant)
    assert part.tokens.tolist() == whole.tokens.tolist()
    assert isinstance(whole, CutReading) and isinstance(part, CutReading)
    assert CONTEXT < part.full < whole.full


def test_a_giant_text_is_refused_without_counting_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_reader, "COUNTED_CHARACTERS", 40)
    for given in (
        "x" * 500,
        text("x" * 500, "none"),
        text("x", "none", 0, "q" * 500),
        Pair("q" * 500, "d"),
        Pair("q", "d" * 500),
    ):
        with pytest.raises(TooLongError) as caught:
            reader().read_within(given)
        assert caught.value.at_least and CONTEXT < caught.value.tokens < 50
    with pytest.raises(TooLongError) as caught:
        reader().read_within("x" * 30)
    assert (caught.value.tokens, caught.value.at_least) == (32, False)
    assert len(reader().read("x" * 500, 20).tokens) < 50
    assert len(reader().read("x" * 500).tokens) == 502


def test_the_tokens_of_a_long_prompt_are_not_remembered() -> None:
    read = reader()
    for number in range(3):
        assert len(read._around("word " * 5000 + str(number), "")[0]) > 5000
    assert read._short_around.cache_info().currsize == 0
    read._around("word ", "")
    assert read._short_around.cache_info().currsize == 1
