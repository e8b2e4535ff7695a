"""How each model runs best on this machine, as it was measured, and kept."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import msgspec

from edgeembed.common.files import write_json
from edgeembed.engine.machine import build_fingerprint, machine_fingerprint

log = logging.getLogger(__name__)

PROFILE_FILE = "run-profiles.json"


DEFAULT_BATCH_TOKENS = 128


class RunProfile(msgspec.Struct, frozen=True):
    """A way to run a model; None leaves the choice to the engine."""

    threads: int
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    bulk_lanes: int | None = None
    pad_from_tokens: int | None = None
    card_batch_tokens: int = 0
    """`batch_tokens` for a graphics card, which wants far larger ones; 0 leaves that to the engine."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """How fast one way is. Times in milliseconds, medians."""

    profile: RunProfile
    query_ms: float
    """A text of ten words, alone."""
    sentence_ms: float
    """A text of forty words, alone."""
    tokens_per_second: float
    """In a bulk load of texts of 10 to 80 words."""
    mode: str = ""
    """Of the ladder that it was measured on."""

    @property
    def on_card(self) -> bool:
        """Whether a graphics card computed, at least in part."""
        return self.mode.startswith("gpu")

    def score(self, first: Measurement) -> float:
        """Give the geometric mean of the times against another way's; less is better."""
        ratios = (
            self.query_ms / first.query_ms,
            self.sentence_ms / first.sentence_ms,
            first.tokens_per_second / self.tokens_per_second,
        )
        return math.prod(ratios) ** (1 / len(ratios))


class TuningResult(msgspec.Struct, frozen=True, kw_only=True):
    """The best way that was found for a model on this machine."""

    profile: RunProfile
    made_at: float
    """Unix seconds."""
    thorough: bool
    """False for the quick look on a model's first load."""
    measured: list[Measurement]
    """Everything that was tried, the first way first."""

    @property
    def gain(self) -> float:
        """How many times faster the best way is than the first one, by score."""
        best = next(each for each in self.measured if each.profile == self.profile)
        return 1 / best.score(self.measured[0])


class TuningResults:
    """Profiles on disk: by machine, build of llama.cpp and model file. One that cannot be read is none."""

    def __init__(self, state: Path) -> None:
        self._file = state / PROFILE_FILE

    def find(self, digest: str) -> TuningResult | None:
        """Give the profile of a model file with this SHA-256."""
        try:
            return msgspec.convert(self._all().get(_key(digest)), TuningResult | None)
        except msgspec.ValidationError:
            return None  # of an older version

    def keep(self, digest: str, tuned: TuningResult) -> None:
        """Write a profile down. Raises OSError."""
        write_json(self._file, {**self._all(), _key(digest): msgspec.to_builtins(tuned)})

    def forget(self, digest: str) -> bool:
        """Remove a profile; says whether there was one. Raises OSError."""
        known = self._all()
        if known.pop(_key(digest), None) is None:
            return False
        write_json(self._file, known)
        return True

    def _all(self) -> dict[str, object]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, object])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be read and is ignored: %s", self._file, error)
            return {}


def _key(digest: str) -> str:
    return f"{machine_fingerprint()} {build_fingerprint()} {digest[:16]}"
