"""The best run profile of each model on this machine, as measured, in a file."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import msgspec

from edgeembed.common.files import UNREADABLE_JSON, write_json
from edgeembed.engine.machine import build_fingerprint, machine_fingerprint

log = logging.getLogger(__name__)

PROFILE_FILE = "run-profiles.json"


DEFAULT_BATCH_TOKENS = 128


class RunProfile(msgspec.Struct, frozen=True):
    """Settings to run a model with; None: the engine chooses."""

    threads: int
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    bulk_lanes: int | None = None
    pad_from_tokens: int | None = None
    card_batch_tokens: int = 0
    """`batch_tokens` for a graphics card, which needs far larger batches; 0: the engine chooses."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a run profile is. Times are medians in milliseconds."""

    profile: RunProfile
    query_ms: float
    """A text of ten words, alone."""
    sentence_ms: float
    """A text of forty words, alone."""
    tokens_per_second: float
    """In bulk, with texts of 10 to 80 words."""
    mode: str = ""
    """The execution mode it was measured in."""

    @property
    def on_card(self) -> bool:
        """Whether a graphics card was used, at least in part."""
        return self.mode.startswith("gpu")

    def score(self, first: Measurement) -> float:
        """Return the geometric mean of the times relative to another measurement's; less is better."""
        ratios = (
            self.query_ms / first.query_ms,
            self.sentence_ms / first.sentence_ms,
            first.tokens_per_second / self.tokens_per_second,
        )
        return math.prod(ratios) ** (1 / len(ratios))


class TuningResult(msgspec.Struct, frozen=True, kw_only=True):
    """The best run profile found for a model on this machine."""

    profile: RunProfile
    made_at: float
    """Unix seconds."""
    thorough: bool
    """False for the autotune of a model's first load."""
    measured: list[Measurement]
    """All measurements, that of the initial profile first."""

    @property
    def gain(self) -> float:
        """How many times faster the best profile is than the initial one, by score."""
        best = next(each for each in self.measured if each.profile == self.profile)
        return 1 / best.score(self.measured[0])


class TuningResults:
    """Tuning results on disk, by machine, build of llama.cpp and model file. Unreadable ones are ignored."""

    def __init__(self, state: Path) -> None:
        self._file = state / PROFILE_FILE

    def find(self, digest: str) -> TuningResult | None:
        """Return the tuning result of the model file with this SHA-256."""
        try:
            return msgspec.convert(self._all().get(_key(digest)), TuningResult | None)
        except msgspec.ValidationError:
            return None  # written by another version

    def keep(self, digest: str, tuned: TuningResult) -> None:
        """Save a tuning result. Raises OSError."""
        write_json(self._file, {**self._all(), _key(digest): msgspec.to_builtins(tuned)})

    def forget(self, digest: str) -> bool:
        """Remove a tuning result; return whether there was one. Raises OSError."""
        results = self._all()
        if results.pop(_key(digest), None) is None:
            return False
        write_json(self._file, results)
        return True

    def _all(self) -> dict[str, object]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, object])
        except FileNotFoundError:
            return {}
        except (OSError, *UNREADABLE_JSON) as error:
            log.warning("cannot read %s, which is ignored: %s", self._file, error)
            return {}


def _key(digest: str) -> str:
    return f"{machine_fingerprint()} {build_fingerprint()} {digest[:16]}"
