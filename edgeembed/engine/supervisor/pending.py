"""Texts whose outcome has not come yet; they outlive the worker that computes them."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from edgeembed.common.logs import request_id
from edgeembed.common.trace import traced
from edgeembed.engine.interface import DENSE, INTERACTIVE, Output, Priority, Row, Text, Tokenized
from edgeembed.engine.ipc.messages import EmbedItem, Failed, IsolatedBatch, ReadTokens, RowItem, Want
from edgeembed.engine.outputs import unpack
from edgeembed.engine.text_sizes import characters_to_read
from edgeembed.errors import (
    BadVectorError,
    EdgeEmbedError,
    EmptyInputError,
    EngineError,
    InputTooLongError,
    NoRoomError,
    RequestError,
    WorkerCrashedError,
)

CRASHES_PER_TEXT = 2
"""A text fails after this many native crashes while it was being computed."""
KILLS_PER_TEXT = 5
"""The same for kills from outside, such as those of the system's OOM killer."""


@dataclass
class _PendingText:
    """A text without an outcome. future: its result is a Row or a Tokenized."""

    text: Text
    priority: Priority
    want: Want
    future: asyncio.Future[Any]
    isolated_id: int = 0
    """Id of its isolated batch; 0 when it is in none."""
    outputs: tuple[Output, ...] = DENSE
    crashes: int = 0
    kills: int = 0
    request: str | None = field(default_factory=request_id)
    """Id of its request."""

    @property
    def suspect(self) -> bool:
        """Whether it was being computed when a worker died."""
        return bool(self.crashes or self.kills)


class PendingTexts:
    """Texts by id. Everything runs on the event loop's thread."""

    def __init__(self, on_cancelled: Callable[[int], None]) -> None:
        """on_cancelled: called with the id of a text whose future was cancelled, after it was removed."""
        self._on_cancelled = on_cancelled
        self._ids = itertools.count(1)
        self._texts: dict[int, _PendingText] = {}
        self.queries = 0
        """How many texts without an outcome are interactive."""

    def __len__(self) -> int:
        return len(self._texts)

    @traced(before="admit")
    def add(
        self,
        texts: Sequence[Text],
        priority: Priority,
        want: Want,
        *,
        isolated: bool = False,
        outputs: tuple[Output, ...] = DENSE,
    ) -> tuple[list[EmbedItem], list[asyncio.Future[Any]]]:
        """Add texts; return the items for a worker, and a future for each. isolated, outputs: as in `Engine.submit`."""
        loop = asyncio.get_running_loop()
        items: list[EmbedItem] = []
        futures: list[asyncio.Future[Any]] = []
        isolated_batch = IsolatedBatch(next(self._ids), len(texts)) if isolated else None
        for text in texts:
            id_, future = next(self._ids), loop.create_future()
            batch = isolated_batch.id if isolated_batch else 0
            self.queries += priority == INTERACTIVE
            self._texts[id_] = _PendingText(text, priority, want, future, batch, outputs)
            future.add_done_callback(partial(self._done, id_))
            items.append(EmbedItem(id_, text, priority, False, want, isolated_batch, outputs))
            futures.append(future)
        return items, futures

    def items(self) -> list[EmbedItem]:
        """Return the items for the next worker; a text that was being computed when one died gets a separate batch."""
        left = Counter(pending.isolated_id for pending in self._texts.values() if not pending.suspect)

        def batch_of(pending: _PendingText) -> IsolatedBatch | None:
            id_ = pending.isolated_id
            return IsolatedBatch(id_, left[id_]) if id_ and not pending.suspect else None

        return [
            EmbedItem(id_, pending.text, pending.priority, pending.suspect, pending.want, batch_of(pending), pending.outputs)
            for id_, pending in self._texts.items()
        ]

    @traced(before="reach the daemon")
    def finish_rows(self, rows: Sequence[RowItem], dimensions: int, worker: int = 0) -> None:
        """Resolve the futures of rows. dimensions: of a dense row. worker: see `Row`.

        Raises ValueError for a row of another length.
        """
        for row in rows:
            pending = self._texts.get(row.id)
            if pending is None:
                continue  # cancelled meanwhile
            if pending.outputs == DENSE and len(row.vector) != 4 * dimensions:
                raise ValueError(f"a row of {len(row.vector)} bytes instead of {4 * dimensions}")
            vector = np.frombuffer(row.vector, dtype=np.float32)
            if pending.outputs != DENSE:
                unpack(vector, pending.outputs)
            self._finish(row.id, Row(vector, row.tokens, row.full, worker, row.alone))

    def finish_read(self, message: ReadTokens) -> None:
        """Resolve the future of a text's tokens."""
        ids = np.frombuffer(message.ids, dtype=np.int32)
        special = np.frombuffer(message.special, dtype=np.bool_)
        pieces, spans = message.pieces or None, np.frombuffer(message.spans, dtype=np.int32).reshape(-1, 2)
        self._finish(message.id, Tokenized(ids, special, pieces, spans if len(spans) else None, message.text))

    def finish_failed(self, message: Failed) -> None:
        """End the future of a text without a row with an error."""
        self._finish(message.id, _error_of(message))

    def fail_all(self, make_error: Callable[[], EdgeEmbedError]) -> None:
        """End every future, each with an error of its own."""
        for id_ in list(self._texts):
            self._finish(id_, make_error())

    def blame(self, ids: Sequence[int], reason: str, *, from_outside: bool) -> bool:
        """Count a worker's exit against the texts that it was computing; return whether one of them failed for it."""
        any_failed = False
        for id_ in ids:
            pending = self._texts.get(id_)
            if pending is None:
                continue
            if from_outside:
                pending.kills += 1
            else:
                pending.crashes += 1
            if pending.crashes >= CRASHES_PER_TEXT or pending.kills >= KILLS_PER_TEXT:
                any_failed = True
                times = pending.crashes + pending.kills
                self._finish(
                    id_,
                    WorkerCrashedError(f"this text ended the worker {times} times ({reason}); it is not tried again"),
                )
        return any_failed

    def condemn(self, ids: Sequence[int], reason: str) -> None:
        """Fail the texts that the model's tokenizer does not finish; it would not finish them in any other worker."""
        for id_ in ids:
            self._finish(id_, RequestError(f"the model's tokenizer cannot read this text ({reason}); it is not tried again"))

    def characters_of(self, id_: int) -> int | None:
        """Return the length of a text; None when nobody waits for it."""
        found = self._texts.get(id_)
        return characters_to_read(found.text) if found else None

    def requests_of(self, ids: Sequence[int]) -> list[str]:
        """Return the ids of the requests of texts."""
        return sorted({found.request for id_ in ids if (found := self._texts.get(id_)) and found.request})

    def _finish(self, id_: int, outcome: Row | Tokenized | EdgeEmbedError) -> None:
        pending = self._remove(id_)
        if pending is None or pending.future.done():
            return  # cancelled meanwhile
        if isinstance(outcome, EdgeEmbedError):
            pending.future.set_exception(outcome)
        else:
            pending.future.set_result(outcome)

    def _done(self, id_: int, future: asyncio.Future[Any]) -> None:
        """Remove a text whose future was cancelled."""
        if future.cancelled() and self._remove(id_) is not None:
            self._on_cancelled(id_)

    def _remove(self, id_: int) -> _PendingText | None:
        pending = self._texts.pop(id_, None)
        if pending is not None:
            self.queries -= pending.priority == INTERACTIVE
        return pending


def _error_of(message: Failed) -> EdgeEmbedError:
    match message.kind:
        case "too_long":
            return InputTooLongError(message.message, tokens=message.tokens, limit=message.limit, at_least=message.at_least)
        case "empty":
            return EmptyInputError(message.message)
        case "bad_ids":
            return RequestError(message.message)
        case "no_room":
            return NoRoomError(message.message)
        case "bad_vector":
            return BadVectorError(message.message)
        case "engine":
            return EngineError(message.message)
