"""What refuses a request: more vectors, numbers or tokens than one answer may have, and texts that are too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from edgeembed.cache import CachedRow
from edgeembed.engine.interface import Prompted, Row, Text
from edgeembed.engine.text_sizes import COUNTED_CHARACTERS, characters_to_read, tokens_at_most
from edgeembed.errors import EmptyInputError, RequestTooLargeError
from edgeembed.inference.aside import Aside
from edgeembed.inference.parts import parts_of
from edgeembed.inference.row_request import RowRequest
from edgeembed.inference.tokenize import UnreadableError, read_tokens, refuse_too_many
from edgeembed.inference.truncation import Lengths
from edgeembed.models.pool import Lease

MOST_NUMBERS = 2**26
"""In all vectors of an answer, which take 256 MiB: 65,536 texts with 1024 dimensions."""


def refuse_vectors(request: RowRequest, dimensions: tuple[int, ...]) -> None:
    """Raise RequestTooLargeError when the vectors of an answer would take too much memory. dimensions: that one may have."""
    most = MOST_NUMBERS // max(dimensions, default=1)
    if len(request.keys) > most:
        raise RequestTooLargeError(
            f"{request.client.param} has {len(request.keys):,} items; with the {max(dimensions):,} dimensions of model "
            f"{request.model.name!r}, one answer holds at most {most:,} vectors. Send fewer texts at a time",
            param=request.client.param,
        )


def refuse_packed_rows(request: RowRequest, rows: Mapping[bytes, Row | CachedRow]) -> None:
    """Raise RequestTooLargeError when packed rows, whose length is known once they are there, take too much memory."""
    if sum([len(row.vector) for row in rows.values()]) > MOST_NUMBERS:
        raise RequestTooLargeError(
            f"what the request wants of {request.client.param} has more than {MOST_NUMBERS:,} numbers, which is the most "
            "that one answer holds. Send fewer texts at a time",
            param=request.client.param,
        )


async def check_large(
    request: RowRequest,
    missing: Mapping[bytes, Text],
    lease: Lease,
    aside: Aside,
    *,
    in_parts: bool,
    cached_tokens: int,
    context: int,
) -> None:
    """Refuse a large request before anything of it is computed: for too many tokens, or for a text that is too long.

    The tokenizer reads it for that, which takes a small part of the time that the model takes. A request that is not
    computed in parts is left to the engine, which refuses it in one step. missing: its texts that are not cached.
    cached_tokens: of the others. context: the model's longest text.
    """
    counts = request.most_tokens is not None and await aside.run(
        request.size, _may_have_more, missing, Counter(request.keys), request.most_tokens - cached_tokens
    )
    if not counts and (not in_parts or request.model.upstream):
        return
    most = request.lengths.most(context)
    times, total = Counter(request.keys), cached_tokens
    limited = Lengths(max_tokens=most)  # nobody asks how many more tokens a giant text has
    for part in parts_of(missing):
        texts = part.texts if counts else await aside.run(part.characters, _doubtful, request, part.texts, most)
        keys = list(texts)
        try:
            tokenized = await read_tokens(lease.engine, [limited.around(text) for text in texts.values()])
        except UnreadableError as failure:
            raise request.failure(keys[failure.index], failure.error, attainable(lease)) from failure.error
        for key, text in zip(keys, tokenized, strict=True):
            tokens = len(text.ids)
            if not tokens:
                raise request.failure(key, EmptyInputError("the text has no tokens"))
            if request.lengths.cut == "none" and tokens > most:
                at_least = characters_to_read(texts[key]) > COUNTED_CHARACTERS
                raise request.too_long(key, tokens, most, at_least=at_least, attainable=attainable(lease))
            total += min(tokens, most) * times[key]
        if counts:
            refuse_too_many(total, request.most_tokens, request.client.param)


def attainable(lease: Lease) -> int:
    """Return the tokens of the longest text with a higher setting; see `ModelInfo`."""
    return lease.engine.info.attainable_tokens if lease.engine.info else 0


def _may_have_more(texts: Mapping[bytes, Text], times: Mapping[bytes, int], most: int) -> bool:
    """Return whether texts may have more than `most` tokens; few have. times: how often a request has each."""
    return sum(tokens_at_most(text) * times[key] for key, text in texts.items()) > most


def _doubtful(request: RowRequest, texts: Mapping[bytes, Text], most: int) -> dict[bytes, Text]:
    """Return the texts that the engine may refuse: token ids, and what may be longer than `most` tokens."""
    long = request.lengths.cut == "none"
    return {
        key: text
        for key, text in texts.items()
        if (long and tokens_at_most(text) > most) or (isinstance(text, Prompted) and text.ids is not None)
    }
