"""Whether upstream's rows belong to the texts that were sent: known texts are sent among the others, at random places.

A permutation of an answer is found if it moves the row of a known text. Every request carries one known text for every 16
others; and one in 16 texts that were answered before is asked again, among other texts. What that can find, and what not, is
in docs/security.md.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgeembed.engine.interface import Float32Row
from edgeembed.upstream.identity import CANARY_TEXTS, SENTINELS, Identity, least_cosine

TEXTS_PER_SENTINEL = 16
FIRST_RECHECKED = 32
"""So many first texts of an engine are all asked again, later ones by sample: most faulty servers show it at once."""
_MOST_SAMPLED = 64
"""Most texts that wait to be asked again; others are left out meanwhile."""
_ROWS_REMEMBERED = 64
_TEXTS_WITH_ONE_ROW = 4
"""So many different texts with the same row are a fault. Fewer may share one: texts of unknown tokens only, or texts that
are equal up to the place where the model cuts them."""
_TRIAL_TEXTS = 64

Verdict = Literal["right", "other vectors", "wrong rows"]
_NO_LETTER = re.compile(r"[^a-z]+")


@dataclass(frozen=True)
class Layout:
    """A request: what is sent, where in it the texts are, and which known texts are where."""

    sent: list[str]
    places: list[int]
    """Where each of the texts is, in their order."""
    sentinels: dict[int, int]
    """Places of the sentinel texts, each with its number among the canary texts."""


class OrderCheck:
    """Lays out the requests of one identity, and examines the answers."""

    def __init__(self, identity: Identity, min_cosine: float, every: int) -> None:
        """Take what is expected. every: one of so many answered texts is asked again; 0 for none."""
        self._identity = identity
        self._expected = identity.canary_rows
        self._min_cosine = min_cosine
        self._every = every
        self._random = random.Random()
        self._answered = 0
        self._next_sample = 0
        """Number of the answered text that is asked again next."""
        self._samples: list[tuple[str, Float32Row]] = []
        self._rows: deque[tuple[bytes, str]] = deque(maxlen=_ROWS_REMEMBERED)
        """Rows of different texts that have letters, by their first letters."""

    def layout(self, texts: Sequence[str]) -> Layout:
        """Return a request with these texts and sentinel texts, at random places."""
        number = sentinels_for(len(texts))
        places = sorted(self._random.sample(range(len(texts) + number), number))
        sentinels = {place: self._random.randrange(min(SENTINELS, len(self._expected))) for place in places}
        rest = iter(texts)
        sent = [CANARY_TEXTS[sentinels[place]] if place in sentinels else next(rest) for place in range(len(texts) + number)]
        return Layout(sent, [place for place in range(len(sent)) if place not in sentinels], sentinels)

    def tokens_of_sentinels(self, layout: Layout) -> int:
        """Return the tokens of a request that are not of its texts."""
        return sum(self._identity.tokens_of(number) for number in layout.sentinels.values())

    def examine(self, layout: Layout, rows: Sequence[Float32Row]) -> Verdict:
        """Return whether the rows of an answer can be used."""
        if all(self._same(rows[place], number) for place, number in layout.sentinels.items()):
            return "wrong rows" if self._one_row_for_all(layout, rows) else "right"
        # Of any sentinel text, not only of those of this request: it may be the answer to another one.
        if any(self._same(row, number) for row in rows for number in range(min(SENTINELS, len(self._expected)))):
            return "wrong rows"
        return "other vectors"

    def repeats(self, found: Sequence[Float32Row], before: Sequence[Float32Row]) -> bool:
        """Return whether texts that were asked again have the rows that they had."""
        return all(least_cosine([one], [other]) >= self._min_cosine for one, other in zip(found, before, strict=True))

    @property
    def has_samples(self) -> bool:
        """Whether there are texts to be asked again."""
        return bool(self._samples)

    def learn(self, text: str, row: Float32Row) -> None:
        """Take note of a row that is about to be returned: the text may be asked again."""
        self._answered += 1
        if self._every and self._answered >= self._next_sample:
            if len(self._samples) < _MOST_SAMPLED:
                self._samples.append((text, row))
            if self._answered >= FIRST_RECHECKED:  # one of each so many texts, so that no request of that size is left out
                block_end = self._answered + self._every - self._answered % self._every
                self._next_sample = block_end + self._random.randrange(self._every)
        if letters := _letters(text):
            self._rows.append((row.tobytes(), letters))

    def take_samples(self, most_texts: int, most_characters: int) -> list[tuple[str, Float32Row]]:
        """Remove and return texts to be asked again in one request, with the rows that they had; at least one, if any."""
        self._random.shuffle(self._samples)
        taken: list[tuple[str, Float32Row]] = []
        characters = 0
        while self._samples and len(taken) < most_texts:
            characters += len(self._samples[-1][0])
            if taken and characters > most_characters:
                break
            taken.append(self._samples.pop())
        return taken

    def _same(self, row: Float32Row, number: int) -> bool:
        """Return whether a row is that of the canary text with this number."""
        return least_cosine([row], [self._expected[number]]) >= self._min_cosine

    def _one_row_for_all(self, layout: Layout, rows: Sequence[Float32Row]) -> bool:
        """Return whether one row is that of several texts that have little in common."""
        here = [(rows[place].tobytes(), _letters(layout.sent[place])) for place in range(len(rows))]
        texts: dict[bytes, set[str]] = {}
        for row, letters in (*here, *self._rows):
            if letters:
                texts.setdefault(row, set()).add(letters)
        return any(len(texts.get(row, ())) >= _TEXTS_WITH_ONE_ROW for row, _ in here)


def sentinels_for(texts: int) -> int:
    """Return how many sentinel texts a request with so many texts carries."""
    return 1 + texts // TEXTS_PER_SENTINEL


def texts_beside_sentinels(most: int) -> int:
    """Return the largest number of texts whose request has at most `most` with its sentinel texts; at least 1."""
    groups, rest = divmod(most - 1, TEXTS_PER_SENTINEL + 1)
    return max(1, groups * TEXTS_PER_SENTINEL + min(rest, TEXTS_PER_SENTINEL - 1))


def trial_texts(most: int) -> list[str]:
    """Return different short texts of several lengths, for two requests in different orders."""
    words = CANARY_TEXTS[-1].split()
    return [f"{' '.join(words[n % 40 : n % 40 + 1 + n % 7])} {n}" for n in range(min(most, _TRIAL_TEXTS))]


def _letters(text: str) -> str:
    """Return the first ASCII letters of a text, "" for a text with none: a vocabulary may lack all other signs."""
    return _NO_LETTER.sub("", text[:256].lower())
