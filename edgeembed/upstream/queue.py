"""Texts that wait for upstream, and which of them go into one request."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgeembed.common.spans import traceparent
from edgeembed.engine.interface import BULK, INTERACTIVE, Pair, Priority, Prompted, Row, Text
from edgeembed.engine.text_sizes import tokens_at_most
from edgeembed.errors import InputTooLongError, RequestError


@dataclass(eq=False)
class PendingText:
    """A text without its row yet. sent: the text as upstream gets it, with its prompt."""

    text: Text
    sent: str
    priority: Priority
    future: asyncio.Future[Row]
    most_tokens: int = 0
    """The client's own limit, if the text may exceed it: it is then sent alone, so that upstream counts its tokens. Or 0."""
    tries: int = 0
    """Requests with this text during which upstream closed the connection."""
    since: float = field(default_factory=time.monotonic)
    traceparent: str | None = field(default_factory=traceparent)
    """Of the request that the text came with."""

    @property
    def alone(self) -> bool:
        return bool(self.most_tokens) or self.tries > 1

    def too_long(self, tokens: int) -> RequestError | None:
        """Return the error for a text that upstream counted, if it has more tokens than its client allows."""
        if not self.most_tokens or tokens <= self.most_tokens:
            return None
        if isinstance(self.text, Prompted) and self.text.limits is not None and self.text.limits.cut != "none":
            return RequestError(
                f"the text has {tokens} tokens, {self.most_tokens} are allowed, and upstream cannot truncate on request; "
                "shorten it"
            )
        message = f"the text has {tokens} tokens, but {self.most_tokens} are allowed"
        return InputTooLongError(message, tokens=tokens, limit=self.most_tokens)

    def finish(self, row: Row) -> None:
        """Set the row, unless the waiter is gone."""
        if not self.future.done():
            self.future.set_result(row)

    def fail(self, error: Exception) -> None:
        """Set the error, unless the waiter is gone."""
        if not self.future.done():
            self.future.set_exception(error)


def pending_text(text: Text, priority: Priority) -> PendingText:
    """Return a text ready for the queue. Raises RequestError for what cannot be sent to another server."""
    future: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
    match text:
        case str():
            return PendingText(text, text, priority, future)
        case Pair():
            raise RequestError("upstream only embeds texts; it cannot score pairs")
        case Prompted(prefix, inner, suffix, limits, ids):
            if ids is not None:
                raise RequestError("token ids cannot be sent upstream, whose vocabulary is unknown here; send text")
            most = limits.most if limits is not None and not limits.own else 0
            sent = prefix + inner + suffix
            return PendingText(text, sent, priority, future, most if most and tokens_at_most(sent) > most else 0)


class TextQueue:
    """Waiting texts, interactive ones before bulk. Everything runs on one event loop."""

    def __init__(self, most_texts: int, most_characters: int) -> None:
        """Set the limits of one request."""
        self.most_texts = most_texts
        self._most_characters = most_characters
        self._lines: dict[Priority, deque[PendingText]] = {INTERACTIVE: deque(), BULK: deque()}

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[PendingText]:
        return (one for line in self._lines.values() for one in line if not one.future.done())

    def has(self, priority: Priority) -> bool:
        """Return whether a text of this priority waits."""
        line = self._lines[priority]
        while line and line[0].future.done():
            line.popleft()
        return bool(line)

    def put(self, texts: Sequence[PendingText]) -> None:
        """Append texts."""
        for text in texts:
            self._lines[text.priority].append(text)

    def put_back(self, texts: Sequence[PendingText]) -> None:
        """Put texts of a failed request back at the head."""
        for text in reversed(texts):
            self._lines[text.priority].appendleft(text)

    def take(self, priority: Priority) -> list[PendingText]:
        """Remove and return the texts of one request: as many as fit."""
        taken: list[PendingText] = []
        characters = 0
        while self.has(priority):
            first = self._lines[priority][0]
            characters += len(first.sent)
            if taken and (first.alone or len(taken) >= max(1, self.most_texts) or characters > self._most_characters):
                break
            taken.append(self._lines[priority].popleft())
            if first.alone:
                break
        return taken

    def clear(self) -> list[PendingText]:
        """Remove and return all texts."""
        everything = list(self)
        for line in self._lines.values():
            line.clear()
        return everything
