"""Drift: whether a model's vectors still look as they used to, by statistics of computed rows against a stored baseline.

Rows are watched by model and by input type, because queries and documents have different prompts. The first rows that a
model computes on this machine become its baseline, which is stored in the state folder under the file's digest. From
then on an exponentially weighted window is compared with it. A text that is repeated soon counts once, so that a
benchmark that sends one text a thousand times changes nothing.

Leaving a band is a sign, not a proof: the mean direction also moves when people embed other texts than before. The
proof is a probe text, whose row depends on the model alone. The service computes it from time to time, and whenever a band
is left. What its row must be is never learned from a probe: the model's file gives it, or the worker computes it when it has
just loaded the file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from edgeembed.cache import CachedRow
from edgeembed.common.files import read_json_or_warn, write_json
from edgeembed.engine import canary
from edgeembed.engine.interface import Float32Row, Reference, Row
from edgeembed.inference.moments import Moments, Sums, moments_of
from edgeembed.inference.row_watch import BASELINE_ROWS, RowWatch
from edgeembed.models.served_model import ServedModel

log = logging.getLogger(__name__)

PLAIN = "plain"
"""The input type of texts without one."""
ADOPT_ROWS = 5 * BASELINE_ROWS
"""Rows outside the band, of a model whose probe is right, after which they become the new baseline."""
_MOST_ROWS = 2**53
_MOST_LOG = 200.0
"""Beyond the logarithm of any norm of float32."""


class Baseline(msgspec.Struct, kw_only=True):
    """Statistics of the first rows. mean: of the unit rows, float32, as bytes."""

    rows: Annotated[int, msgspec.Meta(ge=0, le=_MOST_ROWS)]
    mean: bytes
    log_norm: Annotated[float, msgspec.Meta(ge=-_MOST_LOG, le=_MOST_LOG)]
    log_norm_squared: Annotated[float, msgspec.Meta(ge=0, le=_MOST_LOG**2)]

    def __post_init__(self) -> None:
        _require_row(self.mean)


class KeptReference(msgspec.Struct, kw_only=True):
    """The probe text's row, float32, as a worker computed it when it had just loaded a file that gives none."""

    row: bytes
    made_at: float
    confirmed: bool = False
    """By another worker, which loaded the file at another time."""

    def __post_init__(self) -> None:
        _require_row(self.row)


def _require_row(content: bytes) -> None:
    """Raise ValueError for bytes that are no row of float32: the file was damaged."""
    if not np.isfinite(np.frombuffer(content, dtype="<f4")).all():
        raise ValueError("a row is not finite")


class BaselineFile(msgspec.Struct, kw_only=True):
    """What the state folder stores for one model file."""

    model: str
    reference: KeptReference | None = None
    baselines: dict[str, Baseline] = {}


@dataclass(frozen=True)
class VectorStats:
    """Statistics of a model's rows, for one input type. Figures of an empty window are None."""

    model: str
    input_type: str
    rows: int
    """Computed since the daemon started; `bad` likewise."""
    bad: int
    norm_buckets: Sequence[int]
    """Rows by norm: up to each of NORM_BOUNDS, then above the last."""
    norm_sum: float
    now: Moments | None
    bad_share: float | None
    baseline: Moments | None
    baseline_rows: int
    """Of the BASELINE_ROWS that make one."""
    drift_cosine: float | None
    alarm: str | None


class VectorHealth:
    """Watches the rows of all models. Everything runs on one event loop; files are read and written in a thread."""

    def __init__(self, folder: Path | None = None) -> None:
        """folder: where baselines are stored; without one they are kept in memory."""
        self._folder = folder
        self._watches: dict[tuple[str, str], dict[str, RowWatch]] = {}
        self._models: dict[tuple[str, str], ServedModel] = {}
        self._references: dict[tuple[str, str], KeptReference] = {}
        self._well: dict[tuple[str, str], bool] = {}
        """What the last probe of a model showed."""
        self._read: set[tuple[str, str]] = set()
        self._written: dict[tuple[str, str], bytes] = {}

    def observe(
        self, model: ServedModel, input_type: str | None, keys: Sequence[bytes], rows: Sequence[Row | CachedRow]
    ) -> None:
        """Count the rows of a request that were just computed, not those from the cache.

        keys: of the texts with their prompts; a text that is repeated soon counts once.
        """
        computed = {key: row.vector for key, row in zip(keys, rows, strict=True) if isinstance(row, Row)}
        self._watch(model, input_type).add(computed)

    def refused(self, model: ServedModel) -> None:
        """Count a text for which the model has no usable row, not even when computed alone."""
        self._watch(model, None).add_bad(1)

    def probed(self, model: ServedModel, row: Float32Row, reference: Reference) -> str | None:
        """Compare the probe text's row with the worker's reference; return what is wrong, or None."""
        source = "in the model file" if reference.given else "that was computed when the model was loaded"
        return self._unlike(model, row, reference.row, reference, source)

    def probed_before(self, model: ServedModel, row: Float32Row, reference: Reference) -> str | None:
        """Compare the probe text's row with the references of earlier workers, once two of them agreed.

        A file with its own reference has none.
        """
        if reference.given or not (kept := self._keep(model, reference)).confirmed:
            return None
        return self._unlike(model, row, kept.row, reference, "that other workers computed from this model file")

    def _unlike(self, model: ServedModel, row: Float32Row, expected: bytes, reference: Reference, source: str) -> str | None:
        self._models.setdefault(model.key, model)
        found = _likeness(model, row, expected)
        self._well[model.key] = found >= reference.least
        return None if self._well[model.key] else f"the probe text's vector has a cosine of {found:.2f} to the one {source}"

    def _keep(self, model: ServedModel, reference: Reference) -> KeptReference:
        """Return the kept reference of a model; another worker's confirms it, or takes its place if it is not confirmed."""
        new = KeptReference(row=reference.row, made_at=reference.made_at)
        if self._folder is not None and model.key not in self._read:
            return new  # what is kept will be read soon
        kept = self._references.setdefault(model.key, new)
        if not kept.confirmed and kept.made_at != reference.made_at:
            if _likeness(model, np.frombuffer(kept.row, dtype=np.float32), reference.row) >= reference.least:
                kept.confirmed = True
            else:
                log.warning("%s: two workers computed different vectors for the same text from the same file", model.spec)
                kept = self._references[model.key] = new
        return kept

    def alarm(self, model: ServedModel) -> str | None:
        """Return which band the model's rows have left, and what the last probe showed; None if all is well."""
        self._settle()
        found = [
            f"{f'{kind}: ' if kind != PLAIN else ''}{reason}"
            for kind, watch in self._watches.get(model.key, {}).items()
            if (reason := watch.alarm())
        ]
        if not found:
            return None
        verdict = {
            True: "; the probe text still has the same vector, so the texts have changed, not the model",
            False: "; the probe text's vector has changed, too: the model computes other vectors than before",
        }
        return "; ".join(found) + (verdict[self._well[model.key]] if model.key in self._well else "")

    def stats(self) -> list[VectorStats]:
        """Return the statistics of every watched model and input type."""
        self._settle()
        found = []
        for key, watches in self._watches.items():
            for kind, watch in watches.items():
                found.append(
                    VectorStats(
                        model=self._models[key].spec,
                        input_type=kind,
                        rows=watch.rows,
                        bad=watch.bad,
                        norm_buckets=tuple(watch.norm_buckets),
                        norm_sum=watch.norm_sum,
                        now=moments_of(watch.window),
                        bad_share=watch.bad_share,
                        baseline=watch.baseline,
                        baseline_rows=int(watch.first.rows),
                        drift_cosine=watch.drift(),
                        alarm=watch.alarm(),
                    )
                )
        return found

    async def sync(self) -> None:
        """Read the baselines of new models, write those that changed, log alarms that started or ended."""
        self._settle()
        for key, model in list(self._models.items()):
            if self._folder is not None:
                file = self._folder / f"{model.digest[:32]}.json"
                if key not in self._read:
                    self._take(key, await asyncio.to_thread(_read, file))
                    self._read.add(key)
                content = msgspec.json.encode(self._content(key))
                if content != self._written.get(key):
                    await asyncio.to_thread(_write, file, self._content(key))
                    self._written[key] = content
            self._log_alarms(key, model)

    def _log_alarms(self, key: tuple[str, str], model: ServedModel) -> None:
        """Log alarms that started or ended; a change that lasts, of a model whose probe is right, becomes the baseline."""
        for kind, watch in self._watches.get(key, {}).items():
            reason = watch.alarm()
            if reason is None:
                watch.outside_since = None
            elif watch.outside_since is None:
                watch.outside_since = watch.rows
            elif watch.rows - watch.outside_since >= ADOPT_ROWS and self._well.get(key):
                log.info("%s, %s: recent rows are the new baseline; %s", model.spec, kind, reason)
                watch.first = watch.window.copy(rows=BASELINE_ROWS)
                reason = watch.outside_since = None
            if (reason is not None) is not watch.alarmed:
                watch.alarmed = reason is not None
                if reason:
                    log.warning("vectors of %s (%s) have left their band: %s", model.spec, kind, reason)
                else:
                    log.info("vectors of %s (%s) are within their band again", model.spec, kind)

    def _settle(self) -> None:
        for watches in self._watches.values():
            for watch in watches.values():
                watch.settle()

    def _watch(self, model: ServedModel, input_type: str | None) -> RowWatch:
        watches = self._watches.get(model.key)
        if watches is None:
            watches = self._watches[model.key] = {}
            self._models[model.key] = model
        kind = input_type or PLAIN
        watch = watches.get(kind)
        if watch is None:
            watch = watches[kind] = RowWatch()
        return watch

    # --- files --------------------------------------------------------------------------------------------------------

    def _take(self, key: tuple[str, str], kept: BaselineFile | None) -> None:
        if kept is None:
            return
        if kept.reference:
            self._references[key] = kept.reference
        for kind, baseline in kept.baselines.items():
            watch = self._watch(self._models[key], kind)
            mean = np.frombuffer(baseline.mean, dtype="<f4").astype(np.float64)
            # Rows that were computed while the file was being read belong to the window alone.
            watch.first = Sums.of(baseline.rows, mean, baseline.log_norm, baseline.log_norm_squared)

    def _content(self, key: tuple[str, str]) -> BaselineFile:
        return BaselineFile(
            model=self._models[key].spec,
            reference=self._references.get(key),
            baselines={
                kind: Baseline(
                    rows=int(watch.first.rows),
                    mean=moments.mean.astype("<f4").tobytes(),
                    log_norm=moments.log_norm,
                    log_norm_squared=moments.log_norm**2 + moments.log_norm_deviation**2,
                )
                for kind, watch in self._watches.get(key, {}).items()
                if (moments := moments_of(watch.first)) is not None
            },
        )


def _likeness(model: ServedModel, row: Float32Row, other: bytes) -> float:
    """Return the likeness of two rows; 0 for rows of different lengths, or a row that is zero or not finite."""
    expected = np.frombuffer(other, dtype=np.float32)
    if expected.shape != row.shape or canary.defect(row) or canary.defect(expected):
        return 0.0
    return canary.likeness(row, expected, scores=model.task != "embed")


def _read(file: Path) -> BaselineFile | None:
    return read_json_or_warn(file, BaselineFile, "the baseline of vectors is rebuilt")


def _write(file: Path, content: BaselineFile) -> None:
    """A folder that cannot be written costs the memory, not the daemon."""
    try:
        write_json(file, content)
    except OSError as error:
        log.warning("cannot keep the baseline of vectors in %s: %s", file, error)
