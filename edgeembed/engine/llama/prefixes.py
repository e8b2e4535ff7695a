"""Prefixes whose KV cells are kept in a context, for the texts that begin with them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from edgeembed.engine.llama.bindings import lib
from edgeembed.engine.reading import Prefix, Reading, Tokens

MOST_REMEMBERED = 256
"""Prefixes remembered after their first text; a prefix gets cells with the second one."""


class KeptPrefixes:
    """Cells of prefixes in sequences of their own; the least recently used prefix is evicted first.

    cells: the most that all prefixes together may use. sequences: ids reserved for prefixes. compute: fills the cells of a
    sequence.
    """

    def __init__(self, memory: Any, cells: int, sequences: range, compute: Callable[[Tokens, int], None]) -> None:
        self._memory = memory
        self._cells = cells
        self._free = list(sequences)
        self._compute = compute
        self._kept: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        """Sequence and number of cells, by the prefix's tokens."""
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    @property
    def count(self) -> int:
        """Number of prefixes that are kept."""
        return len(self._kept)

    def prepare(self, texts: Sequence[Reading], *, at_once: bool = False) -> list[int]:
        """Return the first position of each text that has to be computed; not 0 where the cells of its prefix are kept.

        A prefix that several of these texts share, or that was seen before, is computed here unless its cells are kept
        already. at_once: compute every prefix, seen before or not.
        """
        prefixes = {text.prefix.key: text.prefix for text in texts if text.prefix}
        if not prefixes:
            return [0] * len(texts)
        users = Counter(text.prefix.key for text in texts if text.prefix)
        for key in prefixes:
            if key in self._kept:
                self._kept.move_to_end(key)
        for key, prefix in prefixes.items():
            if key not in self._kept and (at_once or users[key] > 1 or self._seen_before(key)):
                self._keep(prefix, in_use=prefixes)
        return [text.shared if text.prefix and text.prefix.key in self._kept else 0 for text in texts]

    def attach(self, text: Reading, sequence: int) -> None:
        """Copy the cells of a prepared text's prefix into a sequence, as its beginning."""
        assert text.prefix is not None
        kept, _ = self._kept[text.prefix.key]
        lib.llama_memory_seq_cp(self._memory, kept, sequence, 0, text.shared)

    def forget(self) -> None:
        """Keep no prefix any more; the caller frees their cells."""
        self._free += [sequence for sequence, _ in self._kept.values()]
        self._kept.clear()

    def _seen_before(self, key: bytes) -> bool:
        if key in self._seen:
            del self._seen[key]
            return True
        self._seen[key] = None
        if len(self._seen) > MOST_REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def _keep(self, prefix: Prefix, in_use: dict[bytes, Prefix]) -> None:
        if len(prefix) > self._cells:
            return
        while not self._free or sum(cells for _, cells in self._kept.values()) + len(prefix) > self._cells:
            oldest = next(iter(self._kept))
            if oldest in in_use:  # and so are all that follow
                return
            sequence, _ = self._kept.pop(oldest)
            lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            self._free.append(sequence)
        sequence = self._free.pop()
        try:
            self._compute(prefix.tokens, sequence)
        except BaseException:
            lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            self._free.append(sequence)
            raise
        self._kept[prefix.key] = (sequence, len(prefix))
