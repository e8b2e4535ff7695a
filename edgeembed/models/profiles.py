"""The best run profile of each model on this machine, as measured, in a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import structs

from edgeembed.common.files import read_json_or_warn, write_json
from edgeembed.common.status import UnixSeconds
from edgeembed.engine.context_plan import MOST_BULK_LANES
from edgeembed.engine.machine import build_fingerprint, machine_fingerprint

PROFILE_FILE = "run-profiles.json"

DEFAULT_BATCH_TOKENS = 128
DEFAULT_CONTEXT_TOKENS = 4096
# No measurement finds more: a profile with more comes from a damaged file.
_MOST_THREADS = 4096
_MOST_TOKENS = 2**20
_MOST_TYPES = 63


class RunProfile(msgspec.Struct, frozen=True):
    """Settings to run a model with; None: the engine chooses."""

    threads: Annotated[int, msgspec.Meta(ge=1, le=_MOST_THREADS)]
    batch_tokens: Annotated[int, msgspec.Meta(ge=1, le=_MOST_TOKENS)] = DEFAULT_BATCH_TOKENS
    bulk_lanes: Annotated[int, msgspec.Meta(ge=0, le=MOST_BULK_LANES)] | None = None
    pad_from_tokens: Annotated[int, msgspec.Meta(ge=0, le=_MOST_TOKENS)] | None = None
    left_types: tuple[Annotated[int, msgspec.Meta(ge=0, le=_MOST_TYPES)], ...] | None = None
    """Types of weights, as ggml's numbers, for which llama.cpp's kernels are faster than ours; None: not measured."""
    card_batch_tokens: Annotated[int, msgspec.Meta(ge=0, le=_MOST_TOKENS)] = 0
    """`batch_tokens` for a graphics card, which needs far larger batches; 0: the engine chooses."""


def longest_text(context_tokens: int, max_seq_length: int | None) -> int:
    """Return the length in tokens up to which a model takes texts, its own limit aside.

    context_tokens: the setting; 0 if it is not set. max_seq_length: that of the model's makers, if it is known.
    """
    return context_tokens or min(DEFAULT_CONTEXT_TOKENS, max_seq_length or DEFAULT_CONTEXT_TOKENS)


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
    made_at: UnixSeconds
    thorough: bool
    """False for the autotune of a model's first load."""
    measured: list[Measurement]
    """All measurements, that of the initial profile first."""

    @property
    def gain(self) -> float:
        """How many times faster the best profile is than the initial one, by score."""
        best = next(each for each in self.measured if each.profile == self.profile)
        return 1 / best.score(self.measured[0])

    @property
    def lacks_padding(self) -> bool:
        """Whether the length from which padding pays is still to be measured, at a model's next load."""
        return not self.thorough and self.profile.pad_from_tokens is None

    def with_profile(self, **changes: Any) -> TuningResult:
        """Return the result with another value of a parameter that was the same in all measurements."""
        measured = [structs.replace(each, profile=structs.replace(each.profile, **changes)) for each in self.measured]
        return structs.replace(self, profile=structs.replace(self.profile, **changes), measured=measured)


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
        return read_json_or_warn(self._file, dict[str, object], "tuning results are ignored") or {}


def _key(digest: str) -> str:
    return f"{machine_fingerprint()} {build_fingerprint()} {digest[:16]}"
