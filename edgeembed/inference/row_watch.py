"""Statistics of the rows that a model computes, and the bands in which they are expected."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeembed.engine.interface import Float32Row
from edgeembed.inference.moments import NORM_BOUNDS, Batch, Moments, Sums, moments_of

BASELINE_ROWS = 1000
HALF_LIFE_ROWS = 200
"""After this many further rows, a row in the window has half its weight."""
JUDGED_ROWS = 200
"""A window with fewer rows is not judged."""
RECENT_TEXTS = 4096
ROWS_AT_ONCE = 32
"""Rows are counted in batches of this size, or when statistics are read: one row takes as long as many."""

_BOUNDS = np.array(NORM_BOUNDS)

LOWEST_COSINE = 0.05
"""Of the window's mean direction to the baseline's. Low, because the kind of text moves it far:
between English documentation, code, licences, single words, numbers and five languages MiniLM has 0.11 to 0.85
(`tests/benchmarks/vector_bands.py`). Random rows have 0 +- 0.05 at 384 dimensions; the probe finds what this misses."""
LEAST_LENGTH = 0.1
"""If the mean of the baseline's unit rows is shorter, the rows have no common direction that could drift."""
NORM_DEVIATIONS = 4.0
NORM_RATIO = 3.0
"""The window's geometric mean of norms may differ by this many of the baseline's
standard deviations, and by this ratio in any case: between the same kinds of text MiniLM's mean norms differ up to 2.5
times; single words have the longest rows."""
MOST_BAD = 0.01
"""Share of rows that are NaN, infinite or zero. A single one may be caused by its text."""
LEAST_SPREAD = 0.02
"""Mean squared distance of unit rows from their mean; below this, different texts get the same vector."""


class RowWatch:
    """One model's rows of one input type."""

    def __init__(self) -> None:
        self.first = Sums()
        self.window = Sums(HALF_LIFE_ROWS)
        self.rows = self.bad = 0
        self.bad_recent = 0.0
        self.norm_buckets = [0] * (len(NORM_BOUNDS) + 1)
        self.norm_sum = 0.0
        self.outside_since: int | None = None
        self.alarmed = False
        self._recent: dict[bytes, None] = {}
        self._waiting: dict[bytes, Float32Row] = {}

    @property
    def baseline(self) -> Moments | None:
        """Statistics of the first rows; None while there are too few."""
        return moments_of(self.first) if self.first.rows >= BASELINE_ROWS else None

    def add(self, rows: Mapping[bytes, Float32Row]) -> None:
        """Add computed rows, by the keys of their texts."""
        self._waiting |= rows
        if len(self._waiting) >= ROWS_AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Count the rows that were added since."""
        new = {key: row for key, row in self._waiting.items() if key not in self._recent}
        self._waiting.clear()
        if not new:
            return
        self._recent |= dict.fromkeys(new)
        while len(self._recent) > RECENT_TEXTS:
            del self._recent[next(iter(self._recent))]
        matrix = np.stack(list(new.values()))
        norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
        if not 0 < norms.min() <= norms.max() < np.inf:  # NaN makes this False, too
            good = np.isfinite(norms) & (norms > 0)
            self.add_bad(int(len(good) - good.sum()))
            matrix, norms = matrix[good], norms[good]
            if not len(norms):
                return
        for bucket in np.searchsorted(_BOUNDS, norms).tolist():
            self.norm_buckets[bucket] += 1
        self.norm_sum += float(norms.sum())
        self.rows += len(norms)
        self.bad_recent *= self.window.decay(len(norms))
        batch = Batch.of(matrix, norms)
        self.window.add(batch)
        if self.first.rows < BASELINE_ROWS:
            self.first.add(batch)

    def add_bad(self, rows: int) -> None:
        """Count rows that are NaN, infinite or zero."""
        self.bad += rows
        self.bad_recent += rows

    @property
    def bad_share(self) -> float | None:
        """Their share among recent rows; None if there are none."""
        everything = self.bad_recent + self.window.rows
        return self.bad_recent / everything if everything else None

    def drift(self) -> float | None:
        """Return the cosine of the window's mean direction to the baseline's; None if there is no common direction."""
        base, now = self.baseline, moments_of(self.window)
        if base is None or now is None or base.mean_length < LEAST_LENGTH or not now.mean_length:
            return None
        if base.mean.shape != now.mean.shape:
            return None  # the file of the baseline was damaged
        return float(base.mean @ now.mean / (base.mean_length * now.mean_length))

    def alarm(self) -> str | None:
        """Return which band the window has left; None if none, or if the window is too short to judge."""
        share = self.bad_share or 0.0
        if self.bad_recent >= 3 and share > MOST_BAD:
            return f"{100 * share:.1f} % of the rows are NaN, infinite or zero"
        now, base = moments_of(self.window), self.baseline
        if now is None or self.window.rows < JUDGED_ROWS:
            return None
        if now.spread < LEAST_SPREAD and (base is None or base.spread > 2 * LEAST_SPREAD):
            return f"different texts get nearly the same vector (spread {now.spread:.4f})"
        if base is None:
            return None
        allowed = max(np.log(NORM_RATIO), NORM_DEVIATIONS * base.log_norm_deviation)
        if abs(now.log_norm - base.log_norm) > allowed:
            return f"norms are about {np.exp(now.log_norm):.4g}, and were about {np.exp(base.log_norm):.4g}"
        drift = self.drift()
        if drift is not None and drift < LOWEST_COSINE:
            return f"the mean direction has a cosine of {drift:.2f} to that of the first {BASELINE_ROWS} rows"
        return None
