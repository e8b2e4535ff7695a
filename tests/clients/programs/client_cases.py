"""The part that all client programs in Python share: their cases, run one by one as `tests.clients.matrix` asks for them.

A program runs in an environment of its own, so that this module needs nothing but the standard library. It reads the number
of a case from standard input, and writes one line of JSON: the rows, scores or value that the client returned, or what it
raised. Whether that is right is for the matrix to judge.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import traceback
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

SETTING: dict[str, Any] = json.loads(Path(os.environ["CLIENT_SETTING"]).read_text(encoding="utf-8"))
URL: str = SETTING["url"]
"""The daemon without an API key, such as http://127.0.0.1:8327."""
LOCKED_URL: str = SETTING["locked_url"]
"""The daemon that requires KEY."""
KEY: str = SETTING["key"]
MODEL: str = SETTING["model"]
RERANKER: str = SETTING["reranker"]
TEXTS: dict[str, list[str]] = SETTING["texts"]
QUERY: str = SETTING["query"]
DOCUMENTS: list[str] = SETTING["documents"]
LONG_DOCUMENTS: list[str] = SETTING["long_documents"]
ANY_KEY = "unused"

Expectation = dict[str, Any]
_cases: list[tuple[str, str, Expectation, Callable[[], Any]]] = []


def rows(texts: str, dimensions: int | None = None, least: float = 0.9999) -> Expectation:
    """Expect the rows of a list of texts of the setting. least: lowest cosine to the model's own row."""
    return {"rows": texts, "dimensions": dimensions, "least": least}


def finite(texts: str) -> Expectation:
    """Expect a finite row for each text, of which the first is the model's."""
    return {"finite": texts}


def scores(count: int | None = None, *, documents: str = "documents") -> Expectation:
    """Expect the reranker's order and scores. count: how many; by default all."""
    return {"scores": documents, "count": count}


def value(expected: Any) -> Expectation:
    """Expect a value, equal after JSON."""
    return {"value": expected}


def raises(*names: str, match: str = "") -> Expectation:
    """Expect an exception of one of these classes, written package.Class, whose message matches a regular expression."""
    return {"raises": list(names), "match": match}


def case(client: str, operation: str, expected: Expectation, run: Callable[[], Any]) -> None:
    _cases.append((client, operation, expected, run))


Rows = Iterable[Sequence[float]]
Scores = Iterable[tuple[int, float]]
"""Pairs of a document's index and its score, best first."""


def embedder(
    client: str,
    embed: Callable[..., Rows],
    one: Callable[[str], Sequence[float]] | None = None,
    *,
    long: Expectation,
    empty: Expectation,
    unknown: Expectation | None,
    wrong_key: Expectation | None,
    many: Expectation | None = None,
) -> None:
    """Add the cases of a client that embeds.

    embed: (texts, url, model, key) to rows. one: embeds a query.
    long, empty: what a text of 600 words, or an empty one, gives.
    unknown: a model that is not there; None if the client sends no name.
    wrong_key: None if the client cannot send a key.
    many: 2,500 short texts, given to the client at once; by default their rows.
    """

    def of(texts: str, url: str = URL, model: str = MODEL, key: str = ANY_KEY) -> Callable[[], Any]:
        return lambda: embed(TEXTS[texts], url=url, model=model, key=key)

    if one is not None:
        case(client, "one query", rows("one"), lambda: [one(TEXTS["one"][0])])
    case(client, "300 texts", rows("batch"), of("batch"))
    case(client, "unicode", rows("unicode"), of("unicode"))
    case(client, "2,500 texts", many or rows("many"), of("many"))
    case(client, "350,000 tokens", rows("book"), of("book"))
    case(client, "too long a text", long, of("long"))
    case(client, "an empty text", empty, of("empty"))
    if unknown is not None:
        case(client, "unknown model", unknown, of("one", model="no-such-model"))
    if wrong_key is not None:
        case(client, "right key", rows("one"), of("one", url=LOCKED_URL, key=KEY))
        case(client, "wrong key", wrong_key, of("one", url=LOCKED_URL, key="wrong"))


def reranker(
    client: str,
    rerank: Callable[..., Scores],
    *,
    long: Expectation | None = None,
    unknown: Expectation | None = None,
    top: bool = True,
    query: str = QUERY,
) -> None:
    """Add the cases of a client that reranks.

    rerank: (documents, top, model) to scores. top: whether it can ask for fewer than all.
    """
    case(client, "rerank", scores(), lambda: rerank(DOCUMENTS, top=len(DOCUMENTS), model=RERANKER))
    if top:
        case(client, "rerank, best 2", scores(2), lambda: rerank(DOCUMENTS, top=2, model=RERANKER))
    case(
        client,
        "rerank, too long a document",
        long or scores(documents="long_documents"),
        lambda: rerank(LONG_DOCUMENTS, top=len(LONG_DOCUMENTS), model=RERANKER),
    )
    if unknown is not None:
        case(client, "rerank, unknown model", unknown, lambda: rerank(DOCUMENTS, top=2, model="no-such-model"))


def _encoded(result: Any, expected: Expectation) -> dict[str, Any]:
    if "scores" in expected:
        return {"scores": [[int(index), float(score)] for index, score in result]}
    if "rows" in expected or "finite" in expected or _looks_like_rows(result):
        found = [array("f", row) for row in result]
        if len({len(row) for row in found}) > 1:
            return {"value": f"rows of different lengths: {sorted({len(row) for row in found})}"}
        joined = b"".join(row.tobytes() for row in found)
        return {"rows": base64.b64encode(joined).decode(), "count": len(found)}
    return {"value": json.loads(json.dumps(result, default=str))}


def _looks_like_rows(result: Any) -> bool:
    try:
        return not isinstance(result, (str, dict)) and isinstance(float(result[0][0]), float)
    except (TypeError, ValueError, IndexError, KeyError):
        return False


def main() -> None:
    """Write the list of cases, then answer the number of a case with its result until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what clients print is no answer

    def answer(content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    answer([[client, operation, expected] for client, operation, expected, _ in _cases])
    for line in sys.stdin:
        _, _, expected, run = _cases[int(line)]
        try:
            answer(_encoded(run(), expected))
        except Exception as error:
            classes = [f"{each.__module__.partition('.')[0]}.{each.__name__}" for each in type(error).__mro__]
            answer({"raised": classes, "message": str(error)[:2000], "trace": traceback.format_exc()[-3000:]})
