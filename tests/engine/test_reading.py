"""The tokens that a text shares with a prefix."""

from __future__ import annotations

import numpy as np
import pytest

from edgeembed.engine.reading import LEAST_SHARED, Prefix, read_behind


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.int32)


@pytest.mark.parametrize(
    ("text", "prefix", "shared"),
    [
        ((1, 2, 3, 4, 5, 6, 7, 9), (1, 2, 3, 4, 5, 9), 5),  # the prefix alone ends in a special token
        ((1, 2, 3, 4, 56, 7, 9), (1, 2, 3, 4, 5, 9), 4),  # its last character went into the text's first token
        ((1, 2, 3, 4, 5, 9), (1, 2, 3, 4, 5, 9), 5),  # the text is the prefix: its last token has to be computed
        ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7, 8), 4),
        ((1, 2, 3, 8, 9), (1, 2, 3, 4, 5), 0),  # too little to be worth it
        ((7, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6), 0),
        ((9,), (1, 2, 3, 4), 0),
        ((1, 2, 3, 4, 5, 6), (), 0),
    ],
)
def test_the_longest_common_run_of_tokens_is_shared(text: tuple[int, ...], prefix: tuple[int, ...], shared: int) -> None:
    reading = read_behind(tokens(*text), Prefix(tokens(*prefix)))
    assert reading.shared == shared
    assert (reading.prefix is None) == (shared == 0)
    assert reading.own == len(text) - shared >= 1
    assert shared == 0 or shared >= LEAST_SHARED
