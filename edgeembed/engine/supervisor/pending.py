"""Texts in the supervisor's hands until their outcome has come, whichever worker brings it."""

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
from edgeembed.engine.interface import Priority, Row, Text, Tokenized
from edgeembed.engine.ipc.messages import EmbedItem, Failed, IsolatedBatch, Read, RowItem, Want
from edgeembed.errors import (
    BadVectorError,
    EdgeEmbedError,
    EmptyInputError,
    EngineError,
    InputTooLongError,
    RequestError,
    WorkerCrashedError,
)

CRASHES_PER_TEXT = 2
"""Native crashes with one text in the running batch after which the text is given up."""
KILLS_PER_TEXT = 5
"""The same for kills from outside, such as the kernel's when memory runs out."""


@dataclass
class _PendingText:
    """A text whose outcome has not come yet. future: ends with a Row, or with a Tokenized."""

    text: Text
    priority: Priority
    want: Want
    future: asyncio.Future[Any]
    seal: int = 0
    """Id of the texts that it was isolated with; 0 when it was not."""
    crashes: int = 0
    kills: int = 0
    request: str | None = field(default_factory=request_id)
    """Id of the request that it came with."""

    @property
    def suspect(self) -> bool:
        """Whether it was computing when a worker died."""
        return bool(self.crashes or self.kills)


class PendingTexts:
    """Texts by their ids. Everything runs on the event loop's thread."""

    def __init__(self, left: Callable[[int], None]) -> None:
        """Prepare. left: called with the id of a text whose future was cancelled, which has given up its place by then."""
        self._left = left
        self._ids = itertools.count(1)
        self._texts: dict[int, _PendingText] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def add(
        self, texts: Sequence[Text], priority: Priority, want: Want, *, isolated: bool = False
    ) -> tuple[list[EmbedItem], list[asyncio.Future[Any]]]:
        """Take texts; gives what a worker is sent, and a future for each. isolated: as in `Engine.submit`."""
        loop = asyncio.get_running_loop()
        items: list[EmbedItem] = []
        futures: list[asyncio.Future[Any]] = []
        seal = IsolatedBatch(next(self._ids), len(texts)) if isolated else None
        for text in texts:
            id_, future = next(self._ids), loop.create_future()
            self._texts[id_] = _PendingText(text, priority, want, future, seal.id if seal else 0)
            future.add_done_callback(partial(self._done, id_))
            items.append(EmbedItem(id_, text, priority, False, want, seal))
            futures.append(future)
        return items, futures

    def items(self) -> list[EmbedItem]:
        """Give what the next worker is sent; a text that was computing when one died has a batch of its own."""
        left = Counter(pending.seal for pending in self._texts.values() if not pending.suspect)
        return [
            EmbedItem(
                id_,
                pending.text,
                pending.priority,
                pending.suspect,
                pending.want,
                IsolatedBatch(pending.seal, left[pending.seal]) if pending.seal and not pending.suspect else None,
            )
            for id_, pending in self._texts.items()
        ]

    def finish_rows(self, rows: Sequence[RowItem]) -> None:
        """Hand rows to those who wait for them."""
        for row in rows:
            self._finish(row.id, Row(np.frombuffer(row.vector, dtype=np.float32), row.tokens, row.full))

    def finish_read(self, message: Read) -> None:
        """Hand a text's tokens to those who wait for them."""
        ids = np.frombuffer(message.ids, dtype=np.int32)
        special = np.frombuffer(message.special, dtype=np.bool_)
        self._finish(message.id, Tokenized(ids, special, message.texts if len(message.texts) == len(ids) else None))

    def finish_failed(self, message: Failed) -> None:
        """Tell those who wait for a text why it has no row."""
        self._finish(message.id, _error_of(message))

    def fail_all(self, make_error: Callable[[], EdgeEmbedError]) -> None:
        """End every text with an error of its own."""
        for id_ in list(self._texts):
            self._finish(id_, make_error())

    def blame(self, ids: Sequence[int], reason: str, *, from_outside: bool) -> bool:
        """Count a worker's death against the texts that it was computing; says whether one of them is given up for it."""
        condemned = False
        for id_ in ids:
            pending = self._texts.get(id_)
            if pending is None:
                continue
            if from_outside:
                pending.kills += 1
            else:
                pending.crashes += 1
            if pending.crashes >= CRASHES_PER_TEXT or pending.kills >= KILLS_PER_TEXT:
                condemned = True
                times = pending.crashes + pending.kills
                self._finish(
                    id_,
                    WorkerCrashedError(f"this text ended the worker {times} times ({reason}); it is not tried again"),
                )
        return condemned

    def characters_of(self, id_: int) -> int | None:
        """Give the length of a text; None when nobody waits for it."""
        found = self._texts.get(id_)
        return EmbedItem(id_, found.text, found.priority, False).characters if found else None

    def requests_of(self, ids: Sequence[int]) -> list[str]:
        """Give the ids of the requests that texts came with."""
        return sorted({found.request for id_ in ids if (found := self._texts.get(id_)) and found.request})

    def _finish(self, id_: int, outcome: Row | Tokenized | EdgeEmbedError) -> None:
        pending = self._texts.pop(id_, None)
        if pending is None or pending.future.done():
            return  # cancelled meanwhile
        if isinstance(outcome, EdgeEmbedError):
            pending.future.set_exception(outcome)
        else:
            pending.future.set_result(outcome)

    def _done(self, id_: int, future: asyncio.Future[Any]) -> None:
        """Free the place of a text whose future was cancelled."""
        if future.cancelled() and self._texts.pop(id_, None) is not None:
            self._left(id_)


def _error_of(message: Failed) -> EdgeEmbedError:
    match message.kind:
        case "too_long":
            return InputTooLongError(message.message, tokens=message.tokens, limit=message.limit)
        case "empty":
            return EmptyInputError(message.message)
        case "bad_ids" | "no_room":
            return RequestError(message.message)
        case "bad_vector":
            return BadVectorError(message.message)
        case "engine":
            return EngineError(message.message)
