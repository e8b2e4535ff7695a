"""Normal forms of texts of any length and shape."""

from __future__ import annotations

import random
import unicodedata

import pytest

from edgeembed.common import normal_forms
from edgeembed.common.normal_forms import MOST_MARKS, Form, has_long_run, normalize

ALPHABET = (
    "aeo \u00e9\u1e69s\u0323\u0307\u0300\u0316\u0345\u0344"  # Latin and marks that are composed, reordered or decomposed
    "\u1100\u1161\u11a8\uac00\uac01"  # Hangul: jamo, and syllables that take one more
    "\u09c7\u09be\u0dd9\u0dcf\u0dca\u0f71\u0f72\u0f73\u2126\u2adc\uff9e\U0001f600\U00011131\U00011127"
)
"""Characters that meet in compositions, and some that do not."""
RUN = "\u0300\u0316" * 50_000


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_pieces_are_as_the_whole(monkeypatch: pytest.MonkeyPatch, form: Form, seed: int) -> None:
    monkeypatch.setattr(normal_forms, "PIECE_CHARACTERS", 3)
    rng = random.Random(seed)
    for _ in range(200):
        text = "".join(rng.choices(ALPHABET, k=MOST_MARKS + rng.randrange(1, 60)))
        assert normalize(form, text) == unicodedata.normalize(form, text), ascii(text)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_long_text(form: Form) -> None:
    text = "cafe\u0301 \u1112\u1161\u11ab 漢字 " * 20_000
    assert normalize(form, text) == unicodedata.normalize(form, text)
    assert not has_long_run(text)


def test_python_never_sorts_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes time that grows with the square; what is before and behind the run is composed."""
    longest = 0

    def watched(form: str, text: str) -> str:
        nonlocal longest
        runs = "".join(char if unicodedata.combining(char) else " " for char in text).split()
        longest = max(longest, *map(len, [*runs, ""]))
        return real(form, text)

    real = unicodedata.normalize
    monkeypatch.setattr(unicodedata, "normalize", watched)
    for text in (f"e\u0301 a{RUN}b e\u0301", RUN, f"{RUN}e\u0301{RUN}", ("a" + RUN[: MOST_MARKS + 1]) * 50):
        assert has_long_run(text)
        normal = normalize("NFC", text)
        assert normal == normalize("NFC", normal)
        assert RUN[: MOST_MARKS + 1] in normal
    assert normalize("NFC", f"e\u0301 a{RUN}b e\u0301") == f"\u00e9 a{RUN}b \u00e9"
    assert normalize("NFC", "\u0f73" * 100_000) == "\u0f73" * 100_000
    assert 0 < longest <= MOST_MARKS
    shorter = "a" + RUN[:MOST_MARKS] + "b" * 100
    assert normalize("NFC", shorter) == real("NFC", shorter)
