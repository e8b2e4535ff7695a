"""Answers, and the functions that the expectations of cases use."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """A response. `a["name"]` and `a[0]` read its JSON."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @cached_property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    @cached_property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def message(self) -> str:
        """The text of an error in any dialect's shape."""
        error = self.json.get("error", self.json)
        return str(error.get("message", error.get("detail", error)) if isinstance(error, dict) else error)

    def __getitem__(self, key: str | int) -> Any:
        return self.json[key]

    def __len__(self) -> int:
        return len(self.json)

    def __contains__(self, key: object) -> bool:
        return key in self.json


def rows(answer: Answer) -> Rows:
    """Return the vectors of an answer in any dialect's shape, shape (texts, dimensions)."""
    body = answer.json
    if isinstance(body, list):
        found = body
    elif "data" in body:
        found = [item["embedding"] for item in body["data"]]
    elif "embedding" in body:
        found = [body["embedding"]]
    else:
        found = body["embeddings"]
        found = found["float"] if isinstance(found, dict) else found
    return np.array([numbers(row) if isinstance(row, str) else row for row in found], dtype=np.float64)


def scores(answer: Answer) -> list[float]:
    """Return the scores of an answer in any dialect's shape, in the order of the documents."""
    body = answer.json
    items = body if isinstance(body, list) else body["results"] if "results" in body else body["data"]
    found = sorted(items, key=lambda item: item["index"])
    return [float(item["relevance_score"] if "relevance_score" in item else item["score"]) for item in found]


def order(answer: Answer) -> list[int]:
    """Return the indices of a reranker's results, in the order of the answer."""
    body = answer.json
    items = body if isinstance(body, list) else body["results"] if "results" in body else body["data"]
    return [item["index"] for item in items]


def numbers(coded: str | bytes, dtype: str = "float32", endianness: str = "native") -> Rows:
    """Return the numbers of base64 text or of bytes. endianness: native, little or big."""
    content = base64.b64decode(coded, validate=True) if isinstance(coded, str) else coded
    little = endianness == "little" or (endianness == "native" and sys.byteorder == "little")
    sign = "<" if little else ">"
    if dtype == "bfloat16":
        halves = np.frombuffer(content, f"{sign}u2").astype(np.uint32) << 16
        return halves.view(np.float32).astype(np.float64)
    codes = {"float32": "f4", "float16": "f2", "int8": "i1", "uint8": "u1"}
    return np.frombuffer(content, sign + codes[dtype]).astype(np.float64)


def cosine(one: Any, other: Any) -> float:
    """Return the lowest cosine of the pairs of rows; a single row is compared with each row of the other side."""
    a, b = np.atleast_2d(np.asarray(one, np.float64)), np.atleast_2d(np.asarray(other, np.float64))
    found = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(found.min())


def norms(found: Any) -> Rows:
    """Return the length of each row."""
    result: Rows = np.linalg.norm(np.atleast_2d(np.asarray(found, np.float64)), axis=1)
    return result


def near(one: Any, other: Any, tolerance: float = 1e-3) -> bool:
    """Return whether numbers differ by at most the tolerance."""
    return bool(np.allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=0, atol=tolerance))


def distance(one: Any, other: Any, power: int) -> float:
    """Return the distance of two rows: power 1 adds the differences up, 2 is Euclid's."""
    return float(np.linalg.norm(np.asarray(one, np.float64) - np.asarray(other, np.float64), ord=power))


def sigmoid(found: Any) -> Rows:
    """Return the logistic function of numbers."""
    result: Rows = 1 / (1 + np.exp(-np.asarray(found, np.float64)))
    return result


def lines(answer: Answer) -> list[Any]:
    """Return the objects of newline-delimited JSON."""
    return [json.loads(line) for line in answer.text.splitlines() if line]


NAMES = {
    function.__name__: function
    for function in (rows, scores, order, numbers, cosine, norms, near, distance, sigmoid, lines, json.loads)
}
