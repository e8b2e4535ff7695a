"""Ways in which a server mixes up rows, as functions that change the `data` of an answer.

All but those that say otherwise recognise the sentinel texts and leave their rows in place, as a server does by chance that
keeps the order of most rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from edgeembed.upstream.identity import CANARY_TEXTS, SENTINELS
from tests.fake_upstreams import Scramble

Data = list[dict[str, Any]]


def moved(data: Data, places: list[int], sources: list[int]) -> Data:
    """Return the data with the rows of `sources` at `places`."""
    rows = [item["embedding"] for item in data]
    for place, source in zip(places, sources, strict=True):
        data[place]["embedding"] = rows[source]
    return data


def others(texts: list[str]) -> list[int]:
    return [place for place, text in enumerate(texts) if text not in CANARY_TEXTS[:SENTINELS]]


def reversal_of_the_others(texts: list[str], data: Data) -> Data:
    places = others(texts)
    return moved(data, places, places[::-1])


def permutation_of_the_others(texts: list[str], data: Data) -> Data:
    places = others(texts)
    return moved(data, places, random.sample(places, len(places)))


def sorting_by_length(texts: list[str], data: Data) -> Data:
    """The texts are sorted for the computation, and their rows are not put back."""
    places = others(texts)
    return moved(data, places, sorted(places, key=lambda place: len(texts[place])))


def reversal(_texts: list[str], data: Data) -> Data:
    """Of all rows."""
    places = list(range(len(data)))
    return moved(data, places, places[::-1])


def rotation(_texts: list[str], data: Data) -> Data:
    """Of all rows."""
    places = list(range(len(data)))
    return moved(data, places, places[1:] + places[:1])


def swap_of_two(_texts: list[str], data: Data) -> Data:
    """Of any two rows."""
    if len(data) < 2:
        return data
    two = random.sample(range(len(data)), 2)
    return moved(data, two, two[::-1])


def copy_over_another(texts: list[str], data: Data) -> Data:
    places = others(texts)
    return moved(data, *([place] for place in random.sample(places, 2))) if len(places) > 1 else data


def one_row_for_all(texts: list[str], data: Data) -> Data:
    places = others(texts)
    return moved(data, places, places[:1] * len(places))


def the_same_row_always() -> Scramble:
    """Return a server that returns its first row for every later text."""
    first: list[Any] = []

    def scramble(texts: list[str], data: Data) -> Data:
        for place in others(texts):
            first.append(data[place]["embedding"])
            data[place]["embedding"] = first[0]
        return data

    return scramble


def crossed_requests() -> Scramble:
    """Return a server that answers every second request with the rows of the one before it, if both are of one size."""
    before: dict[int, list[Any]] = {}

    def scramble(_texts: list[str], data: Data) -> Data:
        rows = [item["embedding"] for item in data]
        if (earlier := before.pop(len(rows), None)) is None:
            before[len(rows)] = rows
        else:
            for item, row in zip(data, earlier, strict=True):
                item["embedding"] = row
        return data

    return scramble


def index_of_the_reversal(texts: list[str], data: Data) -> Data:
    """The rows are in the right order, and `index` says otherwise."""
    places = others(texts)
    for place, index in zip(places, places[::-1], strict=True):
        data[place]["index"] = index
    return data


def missing_row(_texts: list[str], data: Data) -> Data:
    return data[:-1]


def extra_row(_texts: list[str], data: Data) -> Data:
    return [*data, {**data[-1], "index": len(data)}]


WRONG: dict[str, Callable[[], Scramble]] = {
    "reversal": lambda: reversal,
    "rotation": lambda: rotation,
    "reversal of all but the sentinels": lambda: reversal_of_the_others,
    "random permutation of all but the sentinels": lambda: permutation_of_the_others,
    "sorted by length, but the sentinels": lambda: sorting_by_length,
    "swap of two": lambda: swap_of_two,
    "one row copied over another": lambda: copy_over_another,
    "one row for all of a request": lambda: one_row_for_all,
    "one row for ever": the_same_row_always,
    "rows of another request": crossed_requests,
    "index contradicts the order": lambda: index_of_the_reversal,
    "missing row": lambda: missing_row,
    "extra row": lambda: extra_row,
}
