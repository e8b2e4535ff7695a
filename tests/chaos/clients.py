"""Clients that try again as OpenAI's do, and hold every row against its reference."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import numpy as np
import numpy.typing as npt

SAME = 0.999
"""Least cosine of two rows of one text and one model file: batches of other shapes round differently."""
GIVE_UP_SECONDS = 90.0
"""After so long without an answer a request has failed."""
LONGEST_PAUSE = 4.0
_PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})
"""Statuses after which OpenAI's clients try again."""

Row = npt.NDArray[np.float32]
Rows = Mapping[str, Row]


@dataclass
class Expected:
    """The rows that are right now. All rows of an answer are of one model."""

    sets: list[Rows]
    """Of the model, or of two while one takes the place of the other."""
    of_digest: dict[str, Rows] = field(default_factory=dict)
    """The rows of each model file. An answer that names one of these digests has that file's rows, and no others."""
    unseen: bool = False
    """Whether the other server tells a lie that is not seen at once."""


@dataclass
class Counts:
    """What the clients got."""

    answers: int = 0
    rows: int = 0
    wrong: int = 0
    """Rows that are not the text's."""
    unseen: int = 0
    """Those that came before a lie was seen; docs/security.md says of which lies."""
    seconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    """Requests without an answer, by the last reason."""
    repeated: Counter[str] = field(default_factory=Counter)
    """Attempts after which the client tried again, by reason."""
    examples: list[str] = field(default_factory=list)

    def p99(self) -> float:
        """Return the 99th percentile of the times from the first attempt to the answer, in seconds."""
        return float(np.percentile(self.seconds, 99)) if self.seconds else float("nan")


class Client:
    """Asks a daemon for random texts, one request after the other."""

    def __init__(self, session: aiohttp.ClientSession, url: str, expected: Expected, counts: Counts, seed: str) -> None:
        self._session = session
        self._url = url
        self._expected = expected
        self._counts = counts
        self._draw = random.Random(seed)
        self._texts = sorted(expected.sets[0])

    async def run(self, until: asyncio.Event) -> None:
        """Ask until the event is set; the last request is finished."""
        while not until.is_set():
            count = self._draw.choice((1, 1, 1, 2, 4, 16))
            await self.ask(self._draw.sample(self._texts, count))

    async def ask(self, texts: Sequence[str], *, cached: float = 0.7) -> bool:
        """Ask for texts until there is an answer, and count it. Returns whether there was one, and it was right.

        cached: the probability with which the daemon's cache may answer.
        """
        began, before, unseen = time.monotonic(), list(self._expected.sets), self._expected.unseen
        body = {"input": list(texts), "encoding_format": "base64", "cache": self._draw.random() < cached}
        attempt = 0
        while True:
            reason, pause = await self._attempt(body, began, before)
            if reason is None:
                wrong = int(pause or 0)
                if unseen or self._expected.unseen:  # the lie began or was seen while this request was under way
                    self._counts.unseen += wrong
                else:
                    self._counts.wrong += wrong
                return not wrong
            if pause is None or time.monotonic() - began > GIVE_UP_SECONDS:
                self._counts.failed[reason] += 1
                return False
            self._counts.repeated[reason] += 1
            attempt += 1
            wait = min(max(pause, 0.05 * 2**attempt), LONGEST_PAUSE) * self._draw.uniform(0.75, 1.0)
            await asyncio.sleep(wait)  # as a client that tries again

    async def _attempt(self, body: dict[str, object], began: float, before: list[Rows]) -> tuple[str | None, float | None]:
        """Return why there was no answer and how long to wait, None for ever; or (None, number of wrong rows)."""
        timeout = aiohttp.ClientTimeout(total=60)
        try:
            async with self._session.post(f"{self._url}/v1/embeddings", json=body, timeout=timeout) as response:
                if response.status != 200:
                    reason = f"HTTP {response.status} {_code_of(await response.json(content_type=None))}"
                    wait = float(response.headers.get("Retry-After", 0))
                    return reason, wait if response.status in _PASSING else None
                answer = await response.json()
                digest = response.headers.get("X-Edgeembed-Digest", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return type(error).__name__, 0.0
        self._counts.seconds.append(time.monotonic() - began)
        wrong = self._count(body["input"], answer["data"], before, digest)  # type: ignore[arg-type] # a list
        return None, float(wrong)

    def _count(self, texts: list[str], data: list[dict[str, str]], before: list[Rows], digest: str) -> int:
        rows = {item["index"]: np.frombuffer(base64.b64decode(item["embedding"]), np.float32) for item in data}
        self._counts.answers += 1
        self._counts.rows += len(texts)
        allowed = [*before, *(rows_ for rows_ in self._expected.sets if not any(rows_ is other for other in before))]
        if digest in self._expected.of_digest:
            allowed = [self._expected.of_digest[digest]]
        wrong = min(
            sum(not _same(rows.get(place), right[text]) for place, text in enumerate(texts))  # type: ignore[call-overload]
            for right in allowed
        )
        if wrong and len(self._counts.examples) < 20:
            self._counts.examples.append(f"{time.strftime('%X')} {wrong} of {len(texts)} rows, {len(allowed)} files allowed")
        return wrong


def _same(row: Row | None, right: Row) -> bool:
    if row is None or row.shape != right.shape or not np.isfinite(row).all():
        return False
    return float(row @ right / max(np.linalg.norm(row) * np.linalg.norm(right), 1e-9)) > SAME


def _code_of(answer: object) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error.get("code")) if isinstance(error, dict) else "?"
