"""Runs client programs against a real daemon, and judges what the clients returned."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from tests.clients.environments import Environment
from tests.clients.recorder import Recorder, recording
from tests.e2e.daemon import Daemon, cosines, post, running

MODEL = "all-minilm-l6-v2"
RERANKER = "tiny-ranker"
M3 = "tiny-m3"
"""With dense vectors, sparse ones and vectors of tokens."""
KEY = "a-key-of-the-matrix"
START_SECONDS = 120

TEXTS: dict[str, list[str]] = {
    "one": ["The rain falls."],
    "batch": [f"text number {number}: {'some words of different length ' * (number % 7)}" for number in range(300)],
    "unicode": [
        "naïve café, Ærø, ﬁn",
        "日本語の文章です。",
        "😀 emoji 👩‍👩‍👧‍👦 and 🇩🇪",
        "e\u0301 combining, A\u030a",
        "العربية و עברית",
        'tabs\tand "quotes" \\ and {braces}',
        "two\nlines",
    ],
    "many": [f"n{number}" for number in range(2500)],
    "book": [f"page {number} " + "word " * 240 for number in range(10)] * 140,
    "long": ["short", "The rain falls. " * 300],
    "empty": ["not empty", ""],
}
QUERY = "Is it raining?"
DOCUMENTS = ["A dry desert.", "The rain falls.", "Umbrellas are sold out.", "日本は雨です。"]
LONG_DOCUMENTS = [*DOCUMENTS[:2], "rain falls on the plain " * 400]
REFERENCE_BATCH = 100


@dataclass
class References:
    """What the daemon's own /v1/embeddings and /v1/rerank return for the texts."""

    rows: dict[str, npt.NDArray[np.float32]]
    scores: dict[str, list[float]]

    @classmethod
    def ask(cls, daemon: Daemon) -> References:
        def embed(texts: list[str]) -> npt.NDArray[np.float32]:
            distinct = list(dict.fromkeys(text for text in texts if text))
            parts = [distinct[start : start + REFERENCE_BATCH] for start in range(0, len(distinct), REFERENCE_BATCH)]
            made = np.concatenate([daemon.embed(part, truncate="end") for part in parts])
            of = dict(zip(distinct, made, strict=True))
            return np.stack([of[text] if text else np.zeros_like(made[0]) for text in texts])

        def score(documents: list[str]) -> list[float]:
            body = {"model": RERANKER, "query": QUERY, "documents": documents, "max_tokens_per_doc": 400}
            status, answer = post(daemon, "/v1/rerank", **body)
            assert status == 200, answer
            return [item["relevance_score"] for item in sorted(answer["results"], key=lambda item: item["index"])]

        scores = {"documents": score(DOCUMENTS), "long_documents": score(LONG_DOCUMENTS)}
        return cls({name: embed(texts) for name, texts in TEXTS.items()}, scores)


@dataclass
class Outcome:
    """One case of one client. fault: why it failed, None if it did not. sent: requests and answers, where it failed."""

    client: str
    operation: str
    fault: str | None
    seconds: float
    sent: list[str] = field(default_factory=list)


class Program:
    """A running client program: one line in, one line out."""

    def __init__(self, environment: Environment, program: str, setting: Path) -> None:
        variables = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        variables |= {"CLIENT_SETTING": str(setting), "HF_HUB_DISABLE_TELEMETRY": "1", **environment.variables}
        self._log = (setting.parent / f"{program}.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            environment.command(environment.program(program)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=variables,
            cwd=setting.parent,
        )

    @property
    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin and self._process.stdout
        return self._process.stdin, self._process.stdout

    def read(self) -> Any:
        """Read a line of JSON.

        Raises:
            RuntimeError: the program ended.
        """
        line = self._pipes[1].readline()
        if not line:
            self._process.wait(10)
            self._log.seek(0)
            raise RuntimeError(f"the program ended: {self._log.read()[-3000:]}")
        return json.loads(line)

    def ask(self, number: int) -> Any:
        self._pipes[0].write(f"{number}\n")
        self._pipes[0].flush()
        return self.read()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


class Matrix:
    """Two daemons, of which one requires a key, and the reference rows."""

    def __init__(self, daemon: Daemon, locked: Daemon, folder: Path) -> None:
        self._daemons = daemon, locked
        self._folder = folder
        self._references = References.ask(daemon)

    @property
    def url(self) -> str:
        """The address of the daemon without a key."""
        return self._daemons[0].url

    def run(
        self, environment: Environment, program: str, wanted: Callable[[str, str], bool] = lambda client, operation: True
    ) -> Iterator[Outcome]:
        """Run a program's cases. wanted: (client, operation) to whether that case is run."""
        ports = [urlsplit(daemon.url).port or 0 for daemon in self._daemons]
        with recording(ports[0]) as open_, recording(ports[1]) as locked:
            setting = self._folder / f"{program}.json"
            setting.write_text(json.dumps(_setting(open_.port, locked.port)), encoding="utf-8")
            running_ = Program(environment, program, setting)
            try:
                for number, (client, operation, expected) in enumerate(running_.read()):
                    if wanted(client, operation):
                        yield self._case(running_, number, client, operation, expected, (open_, locked))
            finally:
                running_.close()

    def _case(
        self,
        program: Program,
        number: int,
        client: str,
        operation: str,
        expected: dict[str, Any],
        recorders: tuple[Recorder, Recorder],
    ) -> Outcome:
        for recorder in recorders:
            recorder.forget()
        began = time.monotonic()
        got = program.ask(number)
        seconds = time.monotonic() - began
        fault = judge(got, expected, self._references)
        sent = [line for recorder in recorders for line in recorder.shown()] if fault else []
        return Outcome(client, operation, fault, seconds, sent)


def _setting(port: int, locked_port: int) -> dict[str, Any]:
    return {
        "url": f"http://127.0.0.1:{port}",
        "locked_url": f"http://127.0.0.1:{locked_port}",
        "key": KEY,
        "model": MODEL,
        "reranker": RERANKER,
        "texts": TEXTS,
        "query": QUERY,
        "documents": DOCUMENTS,
        "long_documents": LONG_DOCUMENTS,
    }


def judge(got: dict[str, Any], expected: dict[str, Any], references: References) -> str | None:
    """Return why a case failed, or None."""
    if "raises" in expected:
        return _judge_raised(got, expected)
    if "raised" in got:
        return f"raised {got['raised'][0]}: {got['message'][:400]}"
    if "scores" in expected:
        return _judge_scores(got["scores"], expected, references.scores[expected["scores"]])
    if "value" in expected:
        return None if got.get("value") == expected["value"] else f"expected {expected['value']!r}, got {_short(got)}"
    name = expected.get("rows") or expected["finite"]
    if "rows" not in got:
        return f"expected rows, got {_short(got)}"
    found = (
        np.frombuffer(base64.b64decode(got["rows"]), dtype=np.float32).reshape(got["count"], -1) if got["count"] else None
    )
    if found is None or len(found) != len(references.rows[name]):
        return f"expected {len(references.rows[name])} rows, got {got['count']}"
    if "finite" in expected:
        if not np.isfinite(found).all() or not found.any(1).all():
            return "a row is not finite, or zero"
        cosine = cosines(found[:1], references.rows[name][:1]).min()
        return None if cosine >= 0.9999 else f"cosine {cosine:.6f} of the first row"
    return _judge_rows(found, expected, references.rows[name])


def _judge_rows(found: npt.NDArray[np.float32], expected: dict[str, Any], reference: npt.NDArray[np.float32]) -> str | None:
    width = expected["dimensions"] or reference.shape[1]
    if found.shape[1] != width:
        return f"expected {width} numbers a row, got {found.shape[1]}"
    each = cosines(found, reference[:, :width])
    worst = int(np.argmin(each))
    return None if each[worst] >= expected["least"] else f"cosine {each[worst]:.6f} of row {worst}"


def _judge_scores(found: list[list[float]], expected: dict[str, Any], reference: list[float]) -> str | None:
    best = sorted(range(len(reference)), key=lambda index: -reference[index])[: expected["count"]]
    if expected["scores"] != "documents":  # where a long document is cut is the dialect's choice, and with it the score
        whole = sorted(index for index, _ in found) == sorted(best) and np.isfinite([score for _, score in found]).all()
        return None if whole else f"expected documents {best} in any order, got {found}"
    if [index for index, _ in found] != best:
        return f"expected documents {best}, got {found}"
    if not np.allclose([score for _, score in found], [reference[index] for index in best], atol=1e-3):
        return f"expected scores {[reference[index] for index in best]}, got {found}"
    return None


def _judge_raised(got: dict[str, Any], expected: dict[str, Any]) -> str | None:
    names = " or ".join(expected["raises"])
    if "raised" not in got:
        return f"expected {names}, got {_short(got)}"
    if not set(got["raised"]) & set(expected["raises"]):
        return f"expected {names}, raised {got['raised'][0]}: {got['message'][:400]}"
    if not re.search(expected["match"], got["message"]):
        return f"{got['raised'][0]} without {expected['match']!r}: {got['message'][:400]}"
    return None


def _short(got: dict[str, Any]) -> str:
    if "count" in got:
        return f"{got['count']} rows"
    return json.dumps(got)[:300]


@contextmanager
def daemons(folder: Path, minilm: Path, tree: Path | None = None) -> Iterator[Matrix]:
    """Start the daemons with the real MiniLM and a tiny reranker. tree: another working tree, whose code is run."""
    from tests.convert.tiny_encoders import make_tiny_cross_encoder, make_tiny_m3
    from tests.convert.without_proof import convert_checkpoint
    from tests.e2e.models import install

    make_tiny_cross_encoder(folder / "ranker")
    convert_checkpoint(folder / "ranker", folder / "ranker.gguf", quantization="F32", license="Apache-2.0")
    make_tiny_m3(folder / "m3")
    convert_checkpoint(folder / "m3", folder / "m3.gguf", quantization="F32", license="MIT")
    homes = []
    for name in ("open", "locked"):
        home = folder / name
        home.mkdir()
        install(home, MODEL, "Q8_0", minilm)
        install(home, RERANKER, "F32", folder / "ranker.gguf")
        install(home, M3, "F32", folder / "m3.gguf")
        homes.append(home)
    (folder / "work").mkdir()
    other = {} if tree is None else {"PYTHONPATH": f"{tree}{os.pathsep}{tree / '.ci' / 'typed'}"}
    with (
        running("--model", MODEL, home=homes[0], **other) as daemon,
        running("--model", MODEL, home=homes[1], EDGEEMBED_API_KEY=KEY, **other) as locked,
    ):
        yield Matrix(daemon, locked, folder / "work")
