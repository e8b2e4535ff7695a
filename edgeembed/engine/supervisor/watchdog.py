"""Whether a worker hangs: a thread of it is at the same work for longer than that can take.

The bound grows with the work, and is far beyond what the slowest machine needs: a worker that is only slow must live. Time
is counted in looks, not by the clock: a machine that slept has not computed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeembed.engine.ipc.activity_table import NESTED, READING

GRACE_SECONDS = 60.0
"""What any work may take."""
CHARACTER_SECONDS = 1e-4
"""What reading a character may take."""
LOOK_SECONDS = 1.0
_WIDE = 0
_IDLE = -1

Entries = Mapping[int, tuple[float, tuple[int, ...]]]
"""What `ActivityTable.entries` gives: of each thread that works the start, and the ids of its texts."""


@dataclass
class _Work:
    signature: object
    bound: float
    what: str
    seconds: float = 0.0


class Watchdog:
    """Remembers what each thread of one worker was at."""

    def __init__(
        self,
        characters_of: Callable[[int], int | None],
        *,
        token_seconds: float,
        context_tokens: int,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """characters_of: gives a text's length by its id, None for one that nobody waits for any more."""
        self._characters_of = characters_of
        self._token_seconds = token_seconds
        self._context_tokens = context_tokens
        self._grace = grace
        self._works: dict[int, _Work] = {}

    def look(self, entries: Entries, *, waiting: int, heard: int, seconds: float) -> str | None:
        """Look once; say what hangs, or None.

        waiting: texts whose outcome has not come. heard: messages that came so far. seconds: since the last look.
        """
        now: dict[int, tuple[object, tuple[int, ...]]] = {}
        for entry, (began, ids) in entries.items():
            if entry not in (_WIDE, NESTED):
                now[entry] = (began, ids), ids
        # Between two pieces of a long text the wide context computes queries: as long as they come and go, it lives.
        wide = tuple(entries.get(entry) for entry in (_WIDE, NESTED))
        if any(wide):
            now[_WIDE] = wide, tuple(id_ for found in wide if found for id_ in found[1])
        if not entries and waiting:
            now[_IDLE] = heard, ()
        works: dict[int, _Work] = {}
        for entry, (signature, ids) in now.items():
            known = self._works.get(entry)
            if known is not None and known.signature == signature:
                known.seconds += seconds
                works[entry] = known
            else:
                works[entry] = self._begin(entry, signature, ids)
        self._works = works
        hung = next((work for work in works.values() if work.seconds > work.bound), None)
        return f"nothing has come for {hung.seconds:.0f} s while {hung.what}" if hung else None

    def _begin(self, entry: int, signature: object, ids: tuple[int, ...]) -> _Work:
        lengths = [self._characters_of(id_) for id_ in ids]
        if entry == _IDLE:
            return _Work(signature, self._grace, "texts wait that no thread of the worker takes")
        if entry in READING.values():
            known = sum(length or 0 for length in lengths)
            return _Work(signature, self._grace + CHARACTER_SECONDS * known, f"reading a text of {known} characters")
        # A character is a token at most, nearly; a text that is not known any more may have been a long one.
        most = self._context_tokens
        tokens = sum(most if length is None else min(length, most) for length in lengths)
        what = f"computing {len(ids)} text{'s' if len(ids) != 1 else ''} of at most {tokens} tokens"
        return _Work(signature, self._grace + self._token_seconds * tokens, what)
