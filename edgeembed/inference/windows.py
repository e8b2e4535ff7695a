"""Long texts in windows: a text that is longer than the model takes is replaced by overlapping parts of it.

Each window is a text of its own for the pipeline, with the prompt around it and a key in the cache. What the request gets
for the long text is made of its windows' rows: their mean, or the rows themselves. A text that fits is not touched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from edgeembed.cache import CachedRow, VectorCache
from edgeembed.engine.interface import DENSE, Engine, Pair, Prompted, Row, Text
from edgeembed.engine.text_sizes import characters_to_read, tokens_at_most
from edgeembed.errors import RequestTooLargeError
from edgeembed.inference.aside import Aside
from edgeembed.inference.chunking import Chunk, Chunker, ChunkRules, UnknownWordsError, WordTokens
from edgeembed.inference.cleaning import origins_of
from edgeembed.inference.limits import MOST_NUMBERS
from edgeembed.inference.parts import PART_CHARACTERS, PART_TEXTS
from edgeembed.inference.requests import EmbedResult, WindowRow
from edgeembed.inference.row_request import RowRequest, keys_of
from edgeembed.inference.tokenize import MOST_REPEATED, UnreadableError, leased, read_tokens
from edgeembed.inference.truncation import Lengths
from edgeembed.models.pool import ModelPool
from edgeembed.models.served_model import ServedModel

T = TypeVar("T")

OVERLAP = 8
"""A window shares up to one eighth of its tokens with the one before it."""
MOST_WINDOWS = 2**16
"""Of the texts of one request."""
LEAST_ROOM = 16
"""Tokens; where prompt, query and special tokens leave less for a text, it is not divided."""
_SHORT_TOKENS = 64
"""Every model takes texts of this length."""
_BLOCK = 64 * 1024
"""Characters that are cut before other requests get their turn."""
_CUTTING = 32
"""Cutting a text takes as long as what is usually done to so many times its characters; see `Aside.run`."""
_INTERACTIVE_WINDOWS = 8
"""With more, a request is a bulk load; see `edgeembed.inference.service.INTERACTIVE_TEXTS`."""
_WORDS_AT_ONCE = 256
"""Words that are counted before other requests get their turn."""
_REMEMBERED_BYTES = 8 * 2**20
"""Of the windows of texts that were cut before."""
_TEXT_BYTES, _WINDOW_BYTES = 400, 8
"""What remembering a text takes, and each of its windows."""
_MODELS = 4
"""Of so many models the tokens of words are remembered."""


class Window(NamedTuple):
    """Part of a text, in characters."""

    start: int
    end: int


class Windowed(NamedTuple):
    """A request whose long texts are replaced by their windows: for each text its parts; None for one that fits."""

    request: RowRequest
    windows: list[list[Window] | None]

    def grouped(self, rows: Sequence[T]) -> Iterator[Sequence[T]]:
        """Yield what there is of each text. rows: one item for each text of the request with windows."""
        first = 0
        for windows in self.windows:
            count = 1 if windows is None else len(windows)
            yield rows[first : first + count]
            first += count


class _LongText(msgspec.Struct, frozen=True):
    """A text to be cut: its index in the request, its name and how the engine takes it.

    room: tokens that a window may have. frame: tokens around each, of prompt, query and special ones.
    """

    request: RowRequest
    index: int
    name: str
    text: Text
    room: int
    frame: int


_CutKey: TypeAlias = tuple[bytes, int]
"""What decides how a text is cut; see `_cut_key`."""


class _Remembered:
    """The windows of texts that were cut before, by what decides about them; those that were used last are kept."""

    def __init__(self) -> None:
        self._windows: dict[_CutKey, npt.NDArray[np.int32]] = {}
        self._bytes = 0

    def get(self, key: _CutKey) -> list[Window] | None:
        """Return the windows of a text; None if they are not remembered."""
        found = self._windows.pop(key, None)
        if found is None:
            return None
        self._windows[key] = found
        return [Window(start, end) for start, end in found.tolist()]

    def put(self, key: _CutKey, windows: list[Window]) -> None:
        """Remember the windows of a text, and forget those that were used longest ago if there are too many."""
        self._forget(key)
        self._windows[key] = np.array(windows, dtype=np.int32)
        self._bytes += _TEXT_BYTES + _WINDOW_BYTES * len(windows)
        while self._bytes > _REMEMBERED_BYTES:
            self._forget(next(iter(self._windows)))

    def _forget(self, key: _CutKey) -> None:
        if (found := self._windows.pop(key, None)) is not None:
            self._bytes -= _TEXT_BYTES + _WINDOW_BYTES * len(found)


class Windows:
    """Cuts the long texts of requests. Everything runs on one event loop."""

    def __init__(
        self,
        pool: ModelPool,
        cache: VectorCache | None,
        aside: Aside,
        seconds: float,
        context_of: Callable[[ServedModel], int | None],
    ) -> None:
        """seconds: the time that a request may take. context_of: see `Pipeline.context_of`."""
        self._pool = pool
        self._cache = cache
        self._aside = aside
        self._seconds = seconds
        self._context_of = context_of
        self._words: dict[tuple[str, str], WordTokens] = {}
        self._remembered = _Remembered()

    async def cut(self, request: RowRequest) -> Windowed | None:
        """Return a request with windows in place of its long texts; None if all of them fit.

        Raises RequestTooLargeError for too many windows, EngineError, and what the tokenizer raises in the client's words.
        """
        context = self._context_of(request.model)
        doubtful = await self._aside.run(request.size, _doubtful, request, context or 0)
        if doubtful and self._cache is not None and request.lengths.max_tokens is None:
            # A text whose whole row is in memory is not too long.
            unknown = self._cache.not_in_memory([request.keys[index] for index in doubtful])
            doubtful = [index for index in doubtful if request.keys[index] in unknown]
        windows: list[list[Window] | None] = [None] * len(request.names)
        if context is not None:
            for index in doubtful:
                windows[index] = self._remembered.get(_cut_key(request, index, context))
        if new := [index for index in doubtful if windows[index] is None]:
            async with leased(self._pool, request.model, self._seconds) as engine:
                await self._cut_new(engine, request, new, windows)
        count = sum(len(found) for found in windows if found)
        if not count:
            return None
        if count > MOST_WINDOWS:
            raise _too_many(request, MOST_WINDOWS)
        return await self._aside.run(request.size, _windowed, request, windows)

    async def _cut_new(
        self, engine: Engine, request: RowRequest, indexes: list[int], windows: list[list[Window] | None]
    ) -> None:
        """Add the windows of those of these texts that are too long."""
        assert engine.info is not None  # it was ready once
        context = engine.info.context_tokens
        most = request.lengths.most(context)
        texts = {index: request.texts[index] for index in indexes}
        limited = Lengths(max_tokens=most)  # nobody asks how many more tokens a giant text has
        counts = await self._count(engine, request, [(index, limited.around(text)) for index, text in texts.items()])
        frames = {_emptied(text): index for index, text in texts.items()}
        around = await self._count(engine, request, [(index, text) for text, index in frames.items()])
        frame_of = dict(zip(frames, around, strict=True))
        # Each window has a row and at least one token, and is read with the prompt or query.
        repeated = max(characters_to_read(text) for text in frames)
        most_rows, most_read = MOST_NUMBERS // max(engine.info.dimensions, 1), MOST_REPEATED // max(repeated, 1)
        left = min(MOST_WINDOWS, most_rows, most_read, request.most_tokens or MOST_WINDOWS)
        left -= sum(len(found) for found in windows if found)
        for (index, text), tokens in zip(texts.items(), counts, strict=True):
            frame = frame_of[_emptied(text)]
            room = most - frame
            if tokens - frame > room >= LEAST_ROOM:
                long = _LongText(request, index, request.names[index], text, room, frame)
                windows[index] = found = await self._cut_text(engine, long, left)
                left -= len(found)
                self._remembered.put(_cut_key(request, index, context), found)

    async def _cut_text(self, engine: Engine, text: _LongText, most: int) -> list[Window]:
        """Return the windows of a text. most: that it may have."""
        rules = ChunkRules(text.room, text.room // OVERLAP)
        windows, smaller = await self._chunks(engine, text, Window(0, len(text.name)), rules, most), text.room
        while smaller > 1:
            parts = ((text.index, _part(text.text, text.name[window.start : window.end])) for window in windows)
            counts = await self._count(engine, text.request, parts)
            if max(counts, default=0) <= text.room + text.frame:
                break
            # Some have more tokens than their words have alone.
            smaller = smaller * 3 // 4
            found: list[Window] = []
            for window, count in zip(windows, counts, strict=True):
                fits = count <= text.room + text.frame
                found += [window] if fits else await self._chunks(engine, text, window, ChunkRules(smaller, 0), most)
            windows = found
        return windows

    async def _chunks(self, engine: Engine, text: _LongText, within: Window, rules: ChunkRules, most: int) -> list[Window]:
        """Return the parts of a text, or of a window of it, by the tokens of its words."""
        part, words = text.name[within.start : within.end], self._words_of(text.request.model.key)
        chunker, found = Chunker(rules, words), list[Chunk]()
        while True:
            behind = found[-1].next if found else 0
            work = _CUTTING * min(len(part) - behind, _BLOCK)
            try:
                await self._aside.run(work, _take, chunker, part, found)
            except UnknownWordsError as unknown:
                ahead = await self._aside.run(work, words.unknown_in, part, behind, behind + _BLOCK)
                new = list(dict.fromkeys([*unknown.words, *ahead]))
                counts = await self._count(engine, text.request, ((text.index, word) for word in new), special=False)
                words.learn(new, counts)
                continue
            if len(found) > most:
                raise _too_many(text.request, most)
            if not found or found[-1].next in (behind, len(part)):
                return [Window(within.start + chunk.start, within.start + chunk.end) for chunk in found]

    async def _count(
        self, engine: Engine, request: RowRequest, texts: Iterable[tuple[int, Text]], *, special: bool = True
    ) -> list[int]:
        """Return the tokens of texts, each with the index of the request's text that it belongs to, for failures.

        special: count the special tokens around them, too.
        """
        counts: list[int] = []
        for part in _parts(texts, PART_TEXTS if special else _WORDS_AT_ONCE):
            try:
                read = await read_tokens(engine, [text for _, text in part])
            except UnreadableError as failure:
                raise request.failure(request.keys[part[failure.index][0]], failure.error) from failure.error
            counts += [len(tokens.ids) if special else int((~tokens.special).sum()) for tokens in read]
        return counts

    def _words_of(self, model: tuple[str, str]) -> WordTokens:
        found = self._words.get(model)
        if found is None:
            if len(self._words) >= _MODELS:
                self._words.clear()
            found = self._words[model] = WordTokens()
        return found


def _whole_row(rows: Sequence[Row | CachedRow], *, dense: bool) -> Row | CachedRow:
    if len(rows) == 1:
        return rows[0]
    return mean_row(rows) if dense else Row(rows[0].vector, sum(row.tokens for row in rows))


def mean_row(rows: Sequence[Row | CachedRow]) -> Row:
    """Return the mean of rows, weighted by their tokens, and the tokens of all."""
    tokens = [row.tokens for row in rows]
    mean = np.average(np.stack([row.vector for row in rows]).astype(np.float64), axis=0, weights=tokens)
    return Row(mean.astype(np.float32), sum(tokens))


def pooled(result: EmbedResult, request: RowRequest, windowed: Windowed | None, chunks: bool) -> EmbedResult:
    """Return a result with one row for each text of a request, from a result with a row for each window.

    windowed: None if there are no windows. chunks: keep the windows' rows, too. What is not dense has no mean: the row of
    the first window stands for all.
    """
    dense = result.outputs == DENSE
    windowed = windowed or Windowed(request, [None] * len(result.rows))
    groups, windows = list(windowed.grouped(result.rows)), windowed.windows
    found = result
    if windowed.request is not request:
        found = msgspec.structs.replace(
            result,
            rows=[_whole_row(rows, dense=dense) for rows, own in zip(groups, windows, strict=True)],
            memory_label=None,
        )
    if chunks:
        texts = zip(request.given, request.names, windows, groups, strict=True)
        found.windows = [_window_rows(*text) for text in texts]
    return found


def _window_rows(given: str, name: str, windows: list[Window] | None, rows: Sequence[Row | CachedRow]) -> list[WindowRow]:
    """Return the rows of a text's windows, with their places in the text that the client sent; `name` is the cleaned one."""
    if windows is None:
        return [WindowRow(0, len(given), rows[0])]
    spans = np.array(windows, dtype=np.int32)
    if given != name:
        spans = origins_of(given, name).of(spans)
    return [WindowRow(start, end, row) for (start, end), row in zip(spans.tolist(), rows, strict=True)]


def _doubtful(request: RowRequest, context: int) -> list[int]:
    """Return the indexes of the texts that may be too long. context: the model's longest text; 0 if that is unknown."""
    most = request.lengths.most(context or _SHORT_TOKENS)
    return [index for index, text in enumerate(request.texts) if tokens_at_most(text) > most]


def _take(chunker: Chunker, text: str, found: list[Chunk]) -> None:
    """Append the chunks of the next block of a text to those that were found. Raises UnknownWordsError."""
    begin = found[-1].next if found else 0
    for chunk in chunker.chunks(text, begin):
        found.append(chunk)
        if chunk.next >= begin + _BLOCK:
            break


def _windowed(request: RowRequest, windows: list[list[Window] | None]) -> Windowed:
    """Return a request with windows in place of texts."""
    names: list[str] = []
    texts: list[Text] = []
    keys: list[bytes] = []
    owners: list[int] = []
    identities: list[str] = []
    for index, (name, text, key) in enumerate(zip(request.names, request.texts, request.keys, strict=True)):
        parts, own_keys = [name], [key]
        identity = request.identity if isinstance(request.identity, str) else request.identity[index]
        if (own := windows[index]) is not None:
            parts = [name[window.start : window.end] for window in own]
            own_keys = keys_of(request.key_maker, identity, parts, request.kind)
        names += parts
        keys += own_keys
        texts += [text] if own is None else [_part(text, part) for part in parts]
        owners += [index] * len(parts)
        identities += [identity] * len(parts)
    few = len(names) <= len(request.names) + _INTERACTIVE_WINDOWS
    changed = msgspec.structs.replace(
        request,
        names=names,
        texts=texts,
        keys=keys,
        owners=owners,
        identity=request.identity if isinstance(request.identity, str) else identities,
        interactive=request.interactive and few,
        frequent=request.client.cache == "keep" or (request.frequent and few),
    )
    return Windowed(changed, windows)


def _part(text: Text, part: str) -> Text:
    """Return a text with a part in place of the whole, and the same prompt or query."""
    match text:
        case str():
            return part
        case Prompted():
            return dataclasses.replace(text, text=part)
        case Pair():
            return msgspec.structs.replace(text, document=part)


def _emptied(text: Text) -> Text:
    """Return what is around a text."""
    return _part(text, "")


def _too_many(request: RowRequest, most: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"{request.client.param} has more than {most:,} windows; send shorter texts, or fewer at a time",
        param=request.client.param,
    )


def _cut_key(request: RowRequest, index: int, context: int) -> _CutKey:
    """Return what decides how a text is cut: the model, the prompt and the text itself, and the length of a window."""
    return request.keys[index], request.lengths.most(context)


def _parts(texts: Iterable[tuple[int, Text]], most: int) -> Iterator[Sequence[tuple[int, Text]]]:
    """Yield texts in parts of at most `most` that are tokenised one after another."""
    part, characters = list[tuple[int, Text]](), 0
    for index, text in texts:
        read = characters_to_read(text)
        if part and (characters + read > PART_CHARACTERS or len(part) >= most):
            yield part
            part, characters = [], 0
        part.append((index, text))
        characters += read
    if part:
        yield part
