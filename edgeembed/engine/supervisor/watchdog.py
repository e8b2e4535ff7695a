"""Detects a worker that hangs: one of its threads takes longer for its work than that work can take.

The limit grows with the work and is far beyond what the slowest machine needs, so that a slow worker is not killed. Time is
counted between checks, not by the clock: a machine that slept has not computed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeembed.engine.ipc.activity_table import NESTED, READING

GRACE_SECONDS = 60.0
"""What any work may take."""
CHARACTER_SECONDS = 2e-5
"""What tokenising a character may take; the slowest vocabularies take a fifth of it."""
CHECK_SECONDS = 1.0
_WIDE = 0
_IDLE = -1

Entries = Mapping[int, tuple[float, tuple[int, ...]]]
"""`ActivityTable.entries`: for each busy thread the start of its work and the ids of its texts."""


@dataclass(frozen=True)
class Hang:
    """A thread of a worker that makes no progress.

    texts: ids of the texts on whose tokens it hangs. They are at fault, and not the mode: no mode tokenises differently.
    """

    description: str
    texts: tuple[int, ...] = ()


@dataclass
class _Work:
    signature: object
    limit: float
    description: str
    texts: tuple[int, ...] = ()
    """Ids of the texts that are being tokenised."""
    seconds: float = 0.0


class Watchdog:
    """Remembers what each thread of one worker is working on."""

    def __init__(
        self,
        characters_of: Callable[[int], int | None],
        *,
        token_seconds: float,
        context_tokens: int,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """characters_of: returns a text's length by its id, None for one that nobody waits for any more."""
        self._characters_of = characters_of
        self._token_seconds = token_seconds
        self._context_tokens = context_tokens
        self._grace = grace
        self._works: dict[int, _Work] = {}

    def check(self, entries: Entries, *, waiting: int, received: int, seconds: float) -> Hang | None:
        """Return what hangs; None if nothing does.

        waiting: texts without an outcome. received: messages so far. seconds: since the last check.
        """
        now: dict[int, tuple[object, tuple[int, ...]]] = {}
        for entry, (began, ids) in entries.items():
            if entry not in (_WIDE, NESTED):
                now[entry] = (began, ids), ids
        # Between two pieces of a long text the wide context computes queries: while these change, it does not hang.
        wide = tuple(entries.get(entry) for entry in (_WIDE, NESTED))
        if any(wide):
            now[_WIDE] = wide, tuple(id_ for found in wide if found for id_ in found[1])
        if not entries and waiting:
            now[_IDLE] = received, ()
        works: dict[int, _Work] = {}
        for entry, (signature, ids) in now.items():
            before = self._works.get(entry)
            if before is not None and before.signature == signature:
                before.seconds += seconds
                works[entry] = before
            else:
                works[entry] = self._begin(entry, signature, ids)
        self._works = works
        hung = next((work for work in works.values() if work.seconds > work.limit), None)
        return Hang(f"no progress for {hung.seconds:.0f} s while {hung.description}", hung.texts) if hung else None

    def _begin(self, entry: int, signature: object, ids: tuple[int, ...]) -> _Work:
        lengths = [self._characters_of(id_) for id_ in ids]
        if entry == _IDLE:
            return _Work(signature, self._grace, "texts wait and no thread of the worker takes them")
        if entry in READING.values():
            total = sum(length or 0 for length in lengths)
            limit = self._grace + CHARACTER_SECONDS * total
            return _Work(signature, limit, f"tokenising a text of {total} characters", ids)
        # A token has at least one character, nearly always; a text that nobody waits for any more may have been a long one.
        most = self._context_tokens
        tokens = sum(most if length is None else min(length, most) for length in lengths)
        description = f"computing {len(ids)} text{'s' if len(ids) != 1 else ''} of at most {tokens} tokens"
        return _Work(signature, self._grace + self._token_seconds * tokens, description)
