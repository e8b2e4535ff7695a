"""Progress of a job, with rate and time left: a bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import NoReturn

from tqdm import tqdm

from edgeembed.common.progress import ReportLine, human_time, on_terminal

_FIRST_LINE = 10.0
"""Seconds until the first line; then there is one for every tenth, and at least one a minute."""
_EVERY = 60.0


class JobProgress:
    """Counts texts, and estimates their total from the bytes read. Use as a context manager."""

    def __init__(self, report: ReportLine) -> None:
        self._report = report
        self._bar: tqdm[NoReturn] | None = None
        self._texts = self._before = 0
        self._done = self._all = 0.0
        self._has_size = False
        self._began = self._last = time.monotonic()
        self._tenth = 0

    @property
    def seconds(self) -> float:
        """Seconds since embedding began."""
        return time.monotonic() - self._began

    @property
    def new_texts(self) -> int:
        """Texts embedded in this run."""
        return self._texts - self._before

    def begin(self, texts: int, done_bytes: int, all_bytes: int | None) -> None:
        """See `edgeembed.bulk.job.JobListener`."""
        self._texts = self._before = texts
        self._done, self._all, self._has_size = float(done_bytes), float(all_bytes or 0), all_bytes is not None
        self._began = self._last = time.monotonic()
        self._tenth = int(10 * self._share)
        if texts:
            self._report(f"resuming: {texts:,} texts are done already")
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
        with tqdm.external_write_mode(sys.stderr) if self._bar is not None else contextlib.nullcontext():
            self._report(line)

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
            self._report(self.line())

    def assembling(self) -> None:
        """See `edgeembed.bulk.job.JobListener`."""
        self.close()

    def line(self) -> str:
        """Return the progress as one line."""
        rate = self.new_texts / max(self.seconds, 1e-9)
        line = f"{self._texts:,} texts, {rate:,.0f} texts/s"
        total = self._total
        if total is None or not rate:
            return f"embedding: {line}"
        return f"embedding: {100 * self._share:.0f} %, {line}, {human_time(max(total - self._texts, 0) / rate)} left"

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> JobProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _share(self) -> float:
        """How much is done, from 0 to 1; 0 when unknown."""
        return min(self._done / self._all, 1.0) if self._all else 0.0

    @property
    def _total(self) -> int | None:
        """Estimated number of texts; None when unknown."""
        if not self._has_size or not self._done or not self._texts:
            return None
        return max(round(self._texts / self._share), self._texts) if self._share else None
