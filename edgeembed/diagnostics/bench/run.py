"""The cells of a benchmark, and how each is measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from edgeembed.diagnostics.bench.load import Client, LoadResult
from edgeembed.diagnostics.bench.texts import TextMaker
from edgeembed.errors import EngineError, RequestError

POOL_TEXTS = 64
"""Texts that are repeated when the cache is measured."""
MAX_OVERRUN = 4
"""A cell is skipped if one round of its requests would take longer than this many times the duration."""
OVERHEAD_SECONDS = 0.3
"""Additional time of a measurement, for the first requests and the last answers."""


@dataclass(frozen=True)
class Cell:
    """One measurement. words: of each text. texts: of each request. clients: concurrent ones.

    repeated: the texts were sent before, so that a cache can answer.
    """

    words: int
    clients: int = 1
    texts: int = 1
    repeated: bool = False

    @property
    def load(self) -> str:
        """The load in words."""
        if self.texts > 1:
            return f"{self.texts} texts a request"
        return f"{self.clients} client{'s' if self.clients > 1 else ''}"


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a cell. Latencies are of whole requests, in milliseconds; a percentile is None when there were too few
    requests. If `note` is set, nothing was measured.
    """

    words: int
    clients: int
    texts_per_request: int
    load: str
    """The load in words."""
    repeated: bool
    requests: int = 0
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    texts_per_second: float | None = None
    tokens_per_text: float | None = None
    """As counted by the server."""
    client_share: float | None = None
    """Share of the CPU time used by the clients, from 0 to 1."""
    note: str | None = None

    @property
    def tokens_per_second(self) -> float | None:
        if self.texts_per_second is None or self.tokens_per_text is None:
            return None
        return self.texts_per_second * self.tokens_per_text


def plan_cells(*, quick: bool) -> tuple[list[Cell], list[Cell]]:
    """Return the cells with new texts and those with repeated texts."""
    lengths = (10, 100) if quick else (10, 40, 100, 400)
    concurrencies = (1, 32) if quick else (1, 8, 32)
    new = list(_cells(lengths, concurrencies, repeated=False))
    return new, list(_cells((10,) if quick else (10, 100), concurrencies, repeated=True))


def _cells(lengths: Sequence[int], concurrencies: Sequence[int], *, repeated: bool) -> Iterator[Cell]:
    for words in lengths:
        # One client comes first: its latency shows which of the others would take too long.
        yield from (Cell(words, clients=clients, repeated=repeated) for clients in concurrencies)
        yield Cell(words, texts=64, repeated=repeated)


def expected_seconds(cells: Sequence[Cell], seconds: float) -> float:
    """Return the time that the cells take on a server of usual speed."""
    return len(cells) * (seconds + OVERHEAD_SECONDS)


class Runner:
    """Measures one server, cell by cell."""

    def __init__(self, client: Client, maker: TextMaker, seconds: float, *, alone: dict[int, float] | None = None) -> None:
        """Prepare. seconds: how long each load lasts. alone: seconds of one text by its words, where that is known."""
        self._client = client
        self._maker = maker
        self._seconds = seconds
        self._alone = {} if alone is None else alone

    async def measure(self, cell: Cell) -> CellResult:
        """Measure a cell. What the server refuses, such as texts longer than the model takes, ends in the result's note.

        Raises EngineUnavailableError when the server has gone.
        """
        frame = CellResult(
            words=cell.words, clients=cell.clients, texts_per_request=cell.texts, load=cell.load, repeated=cell.repeated
        )
        expected = self._alone.get(cell.words, 0.0) * max(cell.clients * cell.texts, POOL_TEXTS if cell.repeated else 0)
        if expected > MAX_OVERRUN * self._seconds:
            return msgspec.structs.replace(frame, note=f"skipped: one round would take up to {expected:.0f} s")
        try:
            next_texts = await self._pool(cell) if cell.repeated else lambda: self._maker.texts(cell.texts, cell.words)
            first = next_texts()
            answer = await self._client.ask(first)
            if cell.repeated and answer.cache not in ("hit", None):
                return msgspec.structs.replace(frame, note=f"the cache did not answer ({answer.cache})")
            # Open connections before the measurement.
            await self._client.load(lambda: self._maker.texts(1, 3), clients=cell.clients, seconds=0)
            load = await self._client.load(next_texts, clients=cell.clients, seconds=self._seconds)
        except (RequestError, EngineError) as error:
            if type(error).status == 503:
                raise
            return msgspec.structs.replace(frame, note=error.message)
        if cell.clients == cell.texts == 1 and not cell.repeated:
            self._alone[cell.words] = load.percentile(50) or 0.0
        return _filled(frame, load, answer.tokens / len(first) if answer.tokens else None)

    async def _pool(self, cell: Cell) -> Callable[[], Sequence[str]]:
        """Embed some texts so that they are cached, and return a function that returns them in turn."""
        pool = self._maker.texts(POOL_TEXTS, cell.words)
        await self._client.ask(pool)
        if cell.texts > 1:
            return lambda: pool[: cell.texts]
        turn = itertools.cycle(pool)
        return lambda: [next(turn)]


def _filled(frame: CellResult, load: LoadResult, tokens_per_text: float | None) -> CellResult:
    def milliseconds(percent: float) -> float | None:
        value = load.percentile(percent)
        return None if value is None else 1000 * value

    return msgspec.structs.replace(
        frame,
        requests=len(load.latencies),
        p50_ms=milliseconds(50),
        p90_ms=milliseconds(90),
        p99_ms=milliseconds(99),
        texts_per_second=load.texts_per_second,
        tokens_per_text=tokens_per_text,
        client_share=load.client_share,
    )
