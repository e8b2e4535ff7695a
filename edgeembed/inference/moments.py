"""Running sums over rows, and the moments that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

NORM_BOUNDS = tuple(2.0 ** (exponent / 2) for exponent in range(-8, 21))
"""Upper bounds of the norm histogram, 1/16 to 1,024, each sqrt(2) times the one before: norms before normalising differ that
much between models, and little within one model."""


@dataclass(frozen=True)
class Moments:
    """Statistics of rows.

    mean: of the unit rows, shape (dimensions,); mean_length: its norm, 0 to 1; spread: mean squared distance of unit rows
    from it, which is 1 - mean_length²; log_norm, log_norm_deviation: mean and standard deviation of the norms' natural
    logarithm; value_mean, value_variance: of the numbers in the rows before normalising.
    """

    mean: npt.NDArray[np.float64]
    mean_length: float
    log_norm: float
    log_norm_deviation: float
    value_mean: float
    value_variance: float

    @property
    def spread(self) -> float:
        return max(0.0, 1.0 - self.mean_length**2)


class Batch(NamedTuple):
    """Sums over the rows of one batch; see `Sums`."""

    rows: int
    unit: npt.NDArray[np.float32]
    log_norm: float
    log_norm_squared: float
    values: float
    squares: float

    @classmethod
    def of(cls, matrix: npt.NDArray[np.float32], norms: npt.NDArray[np.float64]) -> Batch:
        """Add up rows, shape (rows, dimensions), with their norms, shape (rows,), all finite and above zero."""
        logs = np.log(norms)
        return cls(
            rows=len(norms),
            # float32 is precise enough for a sum over one batch, and BLAS needs one type on both sides.
            unit=(1.0 / norms).astype(np.float32) @ matrix,
            log_norm=float(logs.sum()),
            log_norm_squared=float(logs @ logs),
            values=float(matrix.sum()),
            squares=float(norms @ norms),
        )


class Sums:
    """Sums over rows. half_life: after this many further rows a row has half its weight; None: weights stay."""

    def __init__(self, half_life: float | None = None) -> None:
        self._base = 0.5 ** (1.0 / half_life) if half_life else 1.0
        self.rows = 0.0
        """Weight of all rows."""
        self.unit: npt.NDArray[np.float64] | None = None
        self.log_norm = self.log_norm_squared = self.values = self.squares = 0.0

    @classmethod
    def of(cls, rows: int, mean: npt.NDArray[np.float64], log_norm: float, log_norm_squared: float) -> Sums:
        """Return the sums over `rows` rows with these means; the sums of their values are unknown and 0."""
        sums = cls()
        sums.rows, sums.unit = float(rows), mean * rows
        sums.log_norm, sums.log_norm_squared = log_norm * rows, log_norm_squared * rows
        return sums

    def copy(self, rows: int) -> Sums:
        """Return sums with the same means over `rows` rows of full weight."""
        assert self.unit is not None
        return Sums.of(rows, self.unit / self.rows, self.log_norm / self.rows, self.log_norm_squared / self.rows)

    def decay(self, rows: int) -> float:
        """Return the weight that earlier rows have left after `rows` further ones."""
        return float(self._base**rows)

    def add(self, batch: Batch) -> None:
        """Count a batch of rows."""
        keep = self.decay(batch.rows)
        # Another length would be another model under the same digest, which happens with engines of tests only.
        if self.unit is None or self.unit.shape != batch.unit.shape:
            self.unit, keep = np.zeros(len(batch.unit)), 0.0
        self.unit *= keep
        self.unit += batch.unit
        self.rows = self.rows * keep + batch.rows
        self.log_norm = self.log_norm * keep + batch.log_norm
        self.log_norm_squared = self.log_norm_squared * keep + batch.log_norm_squared
        self.values = self.values * keep + batch.values
        self.squares = self.squares * keep + batch.squares


def moments_of(sums: Sums) -> Moments | None:
    """Return the moments; None if no row was counted."""
    if sums.unit is None or not sums.rows:
        return None
    mean = sums.unit / sums.rows
    numbers = sums.rows * len(mean)
    log_norm = sums.log_norm / sums.rows
    value_mean = sums.values / numbers
    return Moments(
        mean=mean,
        mean_length=float(np.sqrt(mean @ mean)),
        log_norm=log_norm,
        log_norm_deviation=float(np.sqrt(max(0.0, sums.log_norm_squared / sums.rows - log_norm**2))),
        value_mean=value_mean,
        value_variance=max(0.0, sums.squares / numbers - value_mean**2),
    )
