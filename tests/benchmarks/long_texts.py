"""How well are long documents found by one vector of their beginning, by the mean of their windows, or by windows?

    python -m tests.benchmarks.long_texts MODEL.gguf [LIMIT…]

LIMIT: tokens that the model takes; 256 and 128 if none is given.

The documents are the modules of Python's standard library: for each one with enough of them, the docstrings of its classes
and functions, one after another. There are two kinds of queries, with one relevant document each. "whole": the first
sentence of the module's own docstring, which the document lacks. "part": the first sentence of one docstring, drawn at
random among those of the module and left out of the document, while the rest of that docstring stays. So a query of the
second kind is about one place in a document, anywhere in it.
"""

from __future__ import annotations

import ast
import asyncio
import random
import re
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeembed.config.resolution import resolve
from edgeembed.diagnostics.verify import ndcg
from edgeembed.inference.requests import EmbedRequest, EmbedResult, WindowRow
from edgeembed.inference.service import EmbeddingService
from edgeembed.inference.truncation import Lengths
from edgeembed.inference.windows import mean_row
from edgeembed.runtime.in_process import in_process_service

LEAST_CHARACTERS = 2000
LONGEST_CHARACTERS = 60_000
LEAST_QUERY = 25
_LIMITS = (256, 128)


class Documents(NamedTuple):
    """Documents, and for each a query about the whole and one about a part."""

    texts: list[str]
    whole: list[str]
    part: list[str]


def collect() -> Documents:
    """Return the modules of the standard library that have enough documentation."""
    found = Documents([], [], [])
    dice = random.Random(20)
    folder = Path(sysconfig.get_path("stdlib"))
    for file in sorted(folder.rglob("*.py")):
        if {"site-packages", "test", "tests", "idle_test", "lib2to3"} & set(file.relative_to(folder).parts):
            continue
        tree = ast.parse(file.read_text("utf-8", "replace"))
        about, rest = _first_sentence(ast.get_docstring(tree) or "")
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        parts = [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]
        # A sentence that stands elsewhere in the module, too, would find it by that alone.
        asked = [index for index, part in enumerate(parts) if _may_be_asked(part, parts)]
        if len(about) < LEAST_QUERY or not asked:
            continue
        chosen = dice.choice(asked)
        detail, parts[chosen] = _first_sentence(parts[chosen])
        text = "\n\n".join(part for part in [rest, *parts] if part)
        if LEAST_CHARACTERS <= len(text) <= LONGEST_CHARACTERS and about not in found.whole:
            found.texts.append(text)
            found.whole.append(about)
            found.part.append(detail)
    return found


def _may_be_asked(part: str, parts: list[str]) -> bool:
    first, rest = _first_sentence(part)
    return len(first) >= LEAST_QUERY and len(rest) >= LEAST_QUERY and sum(first in other for other in parts) == 1


def _first_sentence(text: str) -> tuple[str, str]:
    """Return the first sentence or paragraph of a text, and what follows."""
    found = re.match(r"(.+?)(?:(?<=[.!?])\s|\n\s*\n|\Z)", text.strip(), re.DOTALL)
    return (" ".join(found[1].split()), text.strip()[found.end() :].strip()) if found else ("", "")


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return unit


def _mean_of_units(windows: list[WindowRow]) -> np.ndarray:
    rows = _unit(np.stack([window.row.vector for window in windows]).astype(np.float64))
    return np.average(rows, axis=0, weights=[window.row.tokens for window in windows])


async def _measure(service: EmbeddingService, documents: Documents, limit: int) -> None:
    async def embed(texts: list[str], **more: object) -> EmbedResult:
        return await service.embed(EmbedRequest(texts, **more))  # type: ignore[arg-type]

    begin = await embed(documents.texts, lengths=Lengths("end", limit))
    began = time.perf_counter()
    found = await embed(documents.texts, lengths=Lengths("none", limit), long_text="chunks")
    seconds = time.perf_counter() - began
    assert found.windows is not None
    unequal = [_unit(mean_row([window.row for window in windows]).vector) for windows in found.windows]
    rows = {
        "cut": begin.vectors,
        "mean": np.stack(unequal),
        "mean of unit rows": _unit(np.stack([_mean_of_units(windows) for windows in found.windows])),
    }
    windows = _unit(np.stack([window.row.vector for windows in found.windows for window in windows]))
    firsts = np.cumsum([0, *(len(windows) for windows in found.windows[:-1])])
    print(
        f"\n{limit} tokens: {len(documents.texts)} documents, {len(windows)} windows, {sum(found.tokens):,} tokens in "
        f"{seconds:.0f} s\n"
    )
    print("| | whole | part |\n|---|---|---|")
    relevant = np.eye(len(documents.texts), dtype=bool)
    queries = [(await embed(queries)).vectors for queries in (documents.whole, documents.part)]
    for name, matrix in rows.items():
        _print(name, [asked @ matrix.T for asked in queries], relevant)
    _print("chunks, the best one", [np.maximum.reduceat(asked @ windows.T, firsts, axis=1) for asked in queries], relevant)


def _print(name: str, kinds: list[np.ndarray], relevant: np.ndarray) -> None:
    means = [np.mean([ndcg(row, relevant[query]) for query, row in enumerate(scores)]) for scores in kinds]
    print(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")


async def main(model: str, limits: list[int]) -> None:
    documents = collect()
    async with in_process_service(resolve({"model": model}), print, cache=False) as (service, _):
        for limit in limits:
            await _measure(service, documents, limit)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], [int(limit) for limit in sys.argv[2:]] or [*_LIMITS]))
