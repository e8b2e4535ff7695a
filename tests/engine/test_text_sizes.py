"""Bounds of a text's size, held against what they bound."""

from __future__ import annotations

import random

from edgeembed.engine.text_sizes import may_hold_longer_word


def test_longer_words_are_found() -> None:
    chance = random.Random(5)
    for _ in range(5000):
        text = "".join(chance.choices("ab ", weights=[3, 3, chance.choice([1, 2, 3])], k=chance.randrange(60)))
        longest = chance.randrange(1, 12)
        assert may_hold_longer_word(text, longest) == any(len(word) > longest for word in text.split(" "))
    assert may_hold_longer_word("one\nline " + "b" * 95 + "\nc" * 5, 100), "other white space is not looked for"
