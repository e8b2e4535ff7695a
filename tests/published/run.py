"""Runs cases against real daemons, and reports what holds."""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.convert.tiny_encoders import make_tiny_cross_encoder
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo import FORMS
from tests.convert.zoo.classifiers import make_classifier
from tests.e2e.daemon import running
from tests.e2e.models import install
from tests.published.answers import NAMES, Answer
from tests.published.cases import CLASSIFIER, COLBERT, KEY, MODEL, RERANKER, WHOLE, Ask, Case, Peer

HOLDS, FAILS, DIFFERS = "holds", "fails", "differs on purpose"


@dataclass(frozen=True)
class Result:
    """What became of a case. failed: the expectation that does not hold, and why."""

    case: Case
    verdict: str
    failed: str = ""
    answers: tuple[Answer, ...] = ()


@contextmanager
def daemons(
    home: Path, minilm: Path, tree: Path | None = None, kinds: Sequence[bool] = (False, True)
) -> Iterator[dict[bool, str]]:
    """Run daemons, and return their base URLs by whether they ask for a key.

    tree: another checkout whose code they run. kinds: whether each asks for a key; by default, one does and one does not.
    """
    path = os.pathsep.join([str(tree), str(tree / ".ci" / "typed")]) if tree else os.environ.get("PYTHONPATH", "")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        make_tiny_cross_encoder(Path(folder) / "ranker")
        convert_checkpoint(Path(folder) / "ranker", Path(folder) / "ranker.gguf", quantization="F32", license="Apache-2.0")
        make_classifier(Path(folder) / "judge", make_tiny_cross_encoder, "classifier", ("Default", "Spoiled"))
        convert_checkpoint(Path(folder) / "judge", Path(folder) / "judge.gguf", quantization="F32", license="Apache-2.0")
        forms = {form.name: form for form in FORMS}
        for name, form in ((COLBERT, "colbert_bert"), (WHOLE, "bge_m3")):
            checkpoint = forms[form].make(Path(folder) / name)
            convert_checkpoint(checkpoint, Path(folder) / f"{name}.gguf", quantization="F32", license="MIT")
        urls = {}
        for keyed in kinds:
            place = home / ("keyed" if keyed else "open")
            place.mkdir(parents=True)
            install(place, MODEL, "Q8_0", minilm)
            install(place, RERANKER, "F32", Path(folder) / "ranker.gguf")
            install(place, CLASSIFIER, "F32", Path(folder) / "judge.gguf")
            for name in (COLBERT, WHOLE):
                install(place, name, "F32", Path(folder) / f"{name}.gguf")
            # Some peers' tests have texts of 500 tokens; MiniLM's makers use it for 256.
            length = ("--context-tokens", "512")
            flags = ("--model", MODEL, "--offline", "--preload", RERANKER, *length, *(("--api-key", KEY) if keyed else ()))
            urls[keyed] = stack.enter_context(running(*flags, home=place, PYTHONPATH=path)).url
        yield urls


def ask(url: str, request: Ask) -> Answer:
    """Send a request and return the answer. Nothing is added to its path and headers but Host and Content-Length."""
    target = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
    try:
        connection.request(request.method, request.path, request.content, dict(request.headers))
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    finally:
        connection.close()


def first_failure(expressions: Sequence[str], answers: Sequence[Answer]) -> str:
    """Return the first expression that is not true of the answers, and why; empty if all are."""
    names = {
        **NAMES,
        "MODEL": MODEL,
        "RERANKER": RERANKER,
        "CLASSIFIER": CLASSIFIER,
        "COLBERT": COLBERT,
        **dict(zip("abcdefghij", answers, strict=False)),
    }
    for expression in expressions:
        try:
            if not eval(expression, dict(names)):  # expressions of our own modules
                return expression
        except Exception as error:  # whatever an unexpected answer leads to
            return f"{expression} ({type(error).__name__}: {error})"
    return ""


def run_case(urls: dict[bool, str], one: Case) -> Result:
    """Run a case. One that is said to differ and holds fails, as then nothing differs any more."""
    answers = tuple(ask(urls[one.keyed], request) for request in one.asks)
    failed = first_failure(one.holds, answers)
    if one.differs is None:
        return Result(one, FAILS if failed else HOLDS, failed, answers)
    if not failed:
        return Result(one, FAILS, f"holds, although it is said to differ: {one.differs.reason}", answers)
    instead = first_failure(one.differs.instead, answers)
    return Result(one, FAILS if instead else DIFFERS, instead, answers)


def run(urls: dict[bool, str], peers: Sequence[Peer]) -> dict[str, list[Result]]:
    """Run the cases of all peers, and return the results by the peer's name."""
    return {peer.name: [run_case(urls, one) for one in peer.cases] for peer in peers}


def table(results: dict[str, list[Result]], peers: Sequence[Peer]) -> str:
    """Return a Markdown table: of each peer the cases that hold, fail and differ, and those that do not apply."""
    lines = ["| peer | cases | hold | fail | differ on purpose | left out |", "|---|---|---|---|---|---|"]
    sums = [0] * 5
    for peer in peers:
        verdicts = [result.verdict for result in results[peer.name]]
        numbers = [len(verdicts), *(verdicts.count(each) for each in (HOLDS, FAILS, DIFFERS))]
        numbers.append(sum(left.count for left in peer.left_out))
        sums = [one + other for one, other in zip(sums, numbers, strict=True)]
        lines.append(f"| {peer.name} | {' | '.join(map(str, numbers))} |")
    lines.append(f"| all | {' | '.join(map(str, sums))} |")
    return "\n".join(lines)


def summary(result: Result) -> str:
    """Return a case for people: its requests, the answers to them, and what was expected."""
    parts = [f"{result.verdict}: {result.case.test}"]
    if result.case.differs:
        parts.append(f"    differs: {result.case.differs.reason}")
    if result.failed:
        parts.append(f"    expected: {result.failed}")
    for request, answer in zip(result.case.asks, result.answers, strict=True):
        parts.append(f"    {request.method} {request.path} {_short(request.content)}")
        parts.append(f"    → {answer.status} {_short(answer.content)}")
    return "\n".join(parts)


def _short(content: bytes | None, most: int = 300) -> str:
    text = (content or b"").decode("utf-8", "replace")
    with suppress(ValueError):
        text = json.dumps(json.loads(text), ensure_ascii=False)
    return text if len(text) <= most else f"{text[:most]}…"
