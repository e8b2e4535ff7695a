"""The parts of a large request, which are computed one after another.

The engine's queue holds one of them at a time, so that other requests take turns with it, however large it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from edgeembed.engine.interface import Text
from edgeembed.engine.text_sizes import characters_to_compute
from edgeembed.inference.admission import TOKENS_PER_CHARACTER

PART_TEXTS = 1024
PART_CHARACTERS = 64 * 1024
"""Of the texts that a large request has in the engine's queue at a time, which is how long others wait for it: about 16,000
tokens, or one or two seconds of two processors with a small model. A longer text is a part of its own."""
_LEAST_PART_CHARACTERS, _MOST_PART_CHARACTERS = 16 * 1024, 1024 * 1024
QUICK_SECONDS, SLOW_SECONDS = 0.25, 1.0
"""The next part is twice as large as one that was computed faster, and half as large as one that took longer."""
_PARTS_IN_QUEUE = 4
"""A queue with a low limit has room for this many parts, so that a large request is not refused whenever another waits."""


class Part(NamedTuple):
    """Texts that are in the engine's queue at the same time, by their keys, and their size in characters."""

    texts: dict[bytes, Text]
    characters: int


def parts_of(texts: Mapping[bytes, Text], most: Callable[[], int] = lambda: PART_CHARACTERS) -> Iterator[Part]:
    """Yield texts in parts that the engine computes one after another; nearly always it is one.

    most: returns the characters of the next part, which it should not exceed.
    """
    part: dict[bytes, Text] = {}
    characters, limit = 0, most()
    for key, text in texts.items():
        size = characters_to_compute(text)
        if part and (characters + size > limit or len(part) >= PART_TEXTS):
            yield Part(part, characters)
            part, characters, limit = {}, 0, most()
        part[key] = text
        characters += size
    yield Part(part, characters)


def one_part(texts: Mapping[bytes, Text]) -> Part:
    """Return all texts as one part."""
    return Part(dict(texts), sum(map(characters_to_compute, texts.values())))


def most_characters(max_queue_tokens: int) -> int:
    """Return the characters of the largest part. max_queue_tokens: the limit of the queue; 0 for none."""
    if not max_queue_tokens:
        return _MOST_PART_CHARACTERS
    fits = int(max_queue_tokens / _PARTS_IN_QUEUE / TOKENS_PER_CHARACTER)
    return min(_MOST_PART_CHARACTERS, max(_LEAST_PART_CHARACTERS, fits))


def next_size(size: int, seconds: float, most: int) -> int:
    """Return the characters of the next part, at most `most`.

    seconds: that one of `size` took, behind other requests' texts.
    """
    size = size * 2 if seconds < QUICK_SECONDS else size // 2 if seconds > SLOW_SECONDS else size
    return min(most, max(_LEAST_PART_CHARACTERS, size))
