"""Helpers for tests of inputs: opens them, and returns what is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeembed.bulk.inputs import Columns, Cursor, Inputs, open_inputs
from edgeembed.bulk.records import Record, Reject
from edgeembed.inference.chunking import Chunker, ChunkRules, WordTokens


def count(words: Sequence[str]) -> list[int]:
    return [len(word.split()) for word in words]


def opened(
    *paths: Path, column: str | None = None, id_column: str | None = None, keep: Sequence[str] = (), chunk_rows: bool = False
) -> Inputs:
    chunker = Chunker(ChunkRules(6, 2), WordTokens(count))
    return open_inputs([str(path) for path in paths], None, Columns(column, id_column, keep), chunker, chunk_rows=chunk_rows)


def records(inputs: Inputs, start: Cursor | None = None) -> list[tuple[object, str]]:
    return [(step.read.id, step.read.text) for step in inputs.read(start or Cursor()) if isinstance(step.read, Record)]


def rejects(inputs: Inputs) -> list[tuple[str, str]]:
    return [(step.read.place, step.read.reason) for step in inputs.read(Cursor()) if isinstance(step.read, Reject)]
