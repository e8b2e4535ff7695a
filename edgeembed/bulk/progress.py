"""How far a job is: a bar on a terminal, a line now and then elsewhere; with the rate and the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import NoReturn

from tqdm import tqdm

from edgeembed.common.progress import human_time, on_terminal

_FIRST_LINE = 10.0
"""Seconds until the first plain line; then one comes each time that a tenth is done, and at least every minute."""
_EVERY = 60.0


class JobProgress:
    """Counts texts; how many there are is estimated from the bytes read. Use as a context manager."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._bar: tqdm[NoReturn] | None = None
        self._texts = self._before = 0
        self._done = self._all = 0.0
        self._known = False
        self._began = self._last = time.monotonic()
        self._tenth = 0

    @property
    def seconds(self) -> float:
        """Time since the job began to embed."""
        return time.monotonic() - self._began

    @property
    def new_texts(self) -> int:
        """Texts that are behind since then."""
        return self._texts - self._before

    def begin(self, texts: int, done_bytes: int, all_bytes: int | None) -> None:
        """See `edgeembed.bulk.job.JobListener`."""
        self._texts = self._before = texts
        self._done, self._all, self._known = float(done_bytes), float(all_bytes or 0), all_bytes is not None
        self._began = self._last = time.monotonic()
        self._tenth = int(10 * self._share)
        if texts:
            self._say(f"{texts:,} texts are there already")
        if on_terminal():
            self._bar = tqdm(
                desc="embedding",
                unit=" texts",
                initial=texts,
                total=self._total,
                leave=False,
                dynamic_ncols=True,
                file=sys.stderr,
            )

    def note(self, line: str) -> None:
        """See `edgeembed.bulk.job.JobListener`."""
        self._say(line)

    def add(self, texts: int, read_bytes: float) -> None:
        """See `edgeembed.bulk.job.JobListener`."""
        self._texts += texts
        self._done += read_bytes
        if self._bar is not None:
            self._bar.total = self._total
            self._bar.update(texts)
            return
        now, tenth = time.monotonic(), int(10 * self._share)
        if now - self._began > _FIRST_LINE and (tenth > self._tenth or now - self._last > _EVERY):
            self._last, self._tenth = now, tenth
            self._say(self.line())

    def assembling(self) -> None:
        """See `edgeembed.bulk.job.JobListener`."""
        self.close()

    def line(self) -> str:
        """Say how far it is."""
        rate = self.new_texts / max(self.seconds, 1e-9)
        line = f"{self._texts:,} texts, {rate:,.0f} texts/s"
        total = self._total
        if total is None or not rate:
            return f"embedding: {line}"
        return f"embedding: {100 * self._share:.0f} %, {line}, {human_time(max(total - self._texts, 0) / rate)} left"

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> JobProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _share(self) -> float:
        """How much is done, from 0 to 1; 0 when nobody knows."""
        return min(self._done / self._all, 1.0) if self._all else 0.0

    @property
    def _total(self) -> int | None:
        """Estimate how many texts there are."""
        if not self._known or not self._done or not self._texts:
            return None
        return max(round(self._texts / self._share), self._texts) if self._share else None
