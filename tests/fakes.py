"""A deterministic engine without a model: a text always gives the same row, and tests decide when and how it answers."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from edgeembed.cache import VectorCache
from edgeembed.common.status import EngineStatus
from edgeembed.engine.classes import Classes
from edgeembed.engine.interface import (
    DENSE,
    Float32Matrix,
    Float32Row,
    Limits,
    ModelInfo,
    Output,
    Pair,
    Priority,
    Prompted,
    Reference,
    Role,
    Row,
    Task,
    Text,
    Tokenized,
    TokenWant,
)
from edgeembed.engine.outputs import pack
from edgeembed.errors import EdgeEmbedError, EngineUnavailableError, InputTooLongError
from edgeembed.hub.catalogue import Prompts
from edgeembed.inference.service import EmbeddingService, ServiceOptions
from edgeembed.models.pool import ModelPool, PoolRules
from edgeembed.models.registry import ModelRegistry
from edgeembed.models.served_model import ServedModel

DIMENSIONS = 16
CONTEXT_TOKENS = 20
SPECIAL_TOKENS = 2
"""Around each text."""


def fake_row(text: str, dimensions: int = DIMENSIONS) -> Float32Row:
    """Return the row that FakeEngine computes for a text: from its digest, not normalised."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return (np.random.default_rng(seed).standard_normal(dimensions) * 3).astype(np.float32)


def fake_packed_row(text: str, outputs: tuple[Output, ...], dimensions: int = DIMENSIONS) -> Float32Row:
    """Return the packed row that FakeEngine computes for a text: of its words, with the special tokens where they count."""
    words, parts = text.split(), dict[Output, Float32Matrix]()
    for output in outputs:
        match output:
            case "dense":
                parts[output] = fake_row(text, dimensions)[None]
            case "tokens":
                parts[output] = np.stack(
                    [fake_row(f"{place} {text}", dimensions) for place in range(len(words) + SPECIAL_TOKENS)]
                )
            case "multi":
                rows = np.stack([fake_row(word, dimensions) for word in words])
                parts[output] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            case "sparse":
                weights = sorted({len(word) + 10: 1.0 + words.count(word) for word in words}.items())
                parts[output] = np.array(weights, dtype=np.float32).reshape(-1, 2)
    return pack(parts)


class FakeEngine:
    """An `Engine` whose tokens are words.

    paused: texts wait until `resume`.
    failing: gives the error of a text, or None.
    """

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self.dimensions = dimensions
        self.computed: list[str] = []
        self.read: list[str] = []
        """Texts that were tokenised without being computed."""
        self.roles: dict[str, Role] = {}
        """Of each text that has one, by the text without its prompt."""
        self.priorities: list[Priority] = []
        self.isolated: list[bool] = []
        """Of each text, whether it was to share forward passes with its own request's alone."""
        self.cancelled: list[str] = []
        self.paused = False
        self.failing: Callable[[str], EdgeEmbedError | None] = lambda _text: None
        self.distrusted: list[str] = []
        self.reference: Reference | None = None
        self.state = "ready"
        self.reason: str | None = None
        self.busy_since: float | None = None
        self.row_of: Callable[[str], Float32Row] = lambda text: fake_row(text, self.dimensions)
        self.closed = False
        self.attainable_tokens = 0
        self.mode = "fake"
        self.loaded = asyncio.Event()
        """Cleared by a test that wants the model to take its time."""
        self.loaded.set()
        self.row_of_outputs: Callable[[str, tuple[Output, ...]], Float32Row] = lambda text, outputs: fake_packed_row(
            text, outputs, self.dimensions
        )
        self._waiting: list[tuple[Text, asyncio.Future[Row], tuple[Output, ...]]] = []
        self._changed = asyncio.Event()

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            architecture="fake",
            name="fake",
            dimensions=self.dimensions,
            context_tokens=CONTEXT_TOKENS,
            pooling="mean",
            file_type="F32",
            parameters=0,
            size_bytes=0,
            llama_cpp="none",
            reference=self.reference,
            attainable_tokens=self.attainable_tokens,
            mode=self.mode,
        )

    @property
    def is_over(self) -> bool:
        return self.status.state in ("failed", "stopped")

    @property
    def status(self) -> EngineStatus:
        return EngineStatus(
            state=self.state,  # type: ignore[arg-type]
            reason=self.reason,
            mode=self.mode,
            demotions=[],
            restarts=0,
            texts_computed=len(self.computed),
            batches_computed=0,
            texts_waiting=len(self._waiting),
            busy_since=self.busy_since,
        )

    @property
    def waiting(self) -> list[str]:
        """The texts that are not computed yet."""
        return [whole_text(text) for text, _, _ in self._waiting]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition, checked when the engine starts or closes and when texts come, end or are cancelled."""
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def distrust(self, reason: str) -> None:
        self.distrusted.append(reason)

    async def start(self) -> None:
        self._changed.set()
        await self.loaded.wait()
        if self.state == "failed":
            raise EngineUnavailableError(self.reason or "failed")

    async def close(self) -> None:
        self.closed = True
        self._changed.set()
        for _, future, _ in self._waiting:
            if not future.done():
                future.set_exception(EngineUnavailableError("closed"))

    def submit(
        self, texts: Sequence[Text], priority: Priority, *, isolated: bool = False, outputs: tuple[Output, ...] = DENSE
    ) -> list[asyncio.Future[Row]]:
        loop = asyncio.get_running_loop()
        futures = []
        for text in texts:
            whole = whole_text(text)
            future: asyncio.Future[Row] = loop.create_future()
            future.add_done_callback(functools.partial(self._done, whole))
            self.priorities.append(priority)
            if isinstance(text, Prompted) and text.role:
                self.roles[text.text] = text.role
            self.isolated.append(isolated)
            self._waiting.append((text, future, outputs))
            futures.append(future)
        self._changed.set()
        if not self.paused:
            loop.call_soon(self.resume)
        return futures

    def _done(self, text: str, future: asyncio.Future[Row]) -> None:
        if future.cancelled():
            self.cancelled.append(text)
        self._changed.set()

    def tokenize(self, texts: Sequence[Text], want: TokenWant = "ids") -> list[asyncio.Future[Tokenized]]:
        """Return the words, numbered by their length, between two special tokens; as text, ids are numbers."""
        futures: list[asyncio.Future[Tokenized]] = []
        for text in texts:
            future = asyncio.get_running_loop().create_future()
            future.set_result(_tokenized(whole_text(text), want))
            self.read.append(whole_text(text))
            futures.append(future)
        return futures

    def resume(self) -> None:
        """Answer every text that waits."""
        waiting, self._waiting = self._waiting, []
        for text, future, outputs in waiting:
            if future.done():
                continue
            whole = whole_text(text)
            limits = None if isinstance(text, str) else text.limits
            if error := self.failing(whole):
                future.set_exception(error)
                continue
            tokens, kept = len(whole.split()) + SPECIAL_TOKENS, _within(text, limits or Limits())
            if kept is None:
                limit = min(CONTEXT_TOKENS, limits.most or CONTEXT_TOKENS) if limits else CONTEXT_TOKENS
                future.set_exception(InputTooLongError(f"{tokens} tokens", tokens=tokens, limit=limit))
                continue
            self.computed.append(kept)
            cut = kept != whole
            row = self.row_of(kept) if outputs == DENSE else self.row_of_outputs(kept, outputs)
            future.set_result(Row(row, len(kept.split()) + SPECIAL_TOKENS, tokens if cut else 0))


def _tokenized(text: str, want: TokenWant) -> Tokenized:
    words = list(re.finditer(r"\S+", text))
    if want in ("text", "text_with_special"):
        kept = [word.group() for word in words if want != "text" or int(word.group()) >= SPECIAL_TOKENS]
        return Tokenized(np.empty(0, np.int32), np.empty(0, np.bool_), text=" ".join(kept))
    ids = np.array([0, *(len(word.group()) + 10 for word in words), 1], dtype=np.int32)
    pieces = [b"[CLS]", *(word.group().encode() for word in words), b"[SEP]"]
    spans = np.array([(-1, -1), *(word.span() for word in words), (-1, -1)], dtype=np.int32)
    return Tokenized(ids, ids < SPECIAL_TOKENS, pieces, spans) if want == "tokens" else Tokenized(ids, ids < SPECIAL_TOKENS)


def whole_text(text: Text) -> str:
    """Return a text with its prompt, a pair's parts with bars in between, or the numbers of ids."""
    match text:
        case str():
            return text
        case Pair(query, document, instruction):
            return f"{instruction}|{query}|{document}"
        case Prompted(prefix, inner, suffix):
            ids = np.frombuffer(text.ids or b"", dtype=np.int32).tolist()
            return prefix + inner + " ".join(map(str, ids)) + suffix


def _within(text: Text, limits: Limits) -> str | None:
    """Return what is computed of a text, by words; None when it is too long."""
    whole = whole_text(text)
    if isinstance(text, Pair) and limits.query and limits.cut != "none":
        text = _with_short_query(text, limits)
        whole = whole_text(text)
    before = whole[: len(whole) - len(text.document)] if isinstance(text, Pair) else ""
    before = text.prefix if isinstance(text, Prompted) else before
    own = whole[len(before) :].split()
    around = len(whole.split()) - len(own) + SPECIAL_TOKENS
    most = min(CONTEXT_TOKENS, limits.most + (around if limits.own else 0) or CONTEXT_TOKENS)
    room = most - around
    if len(own) <= room:
        return whole
    if limits.cut == "none":
        return None
    return before + " ".join(own[:room] if limits.cut == "end" else own[-room:])


def _with_short_query(pair: Pair, limits: Limits) -> Pair:
    """Return a pair whose query has at least half of the words that fit, and what the document leaves."""
    words, document = pair.query.split(), len(pair.document.split())
    most = CONTEXT_TOKENS if limits.own else min(CONTEXT_TOKENS, limits.most or CONTEXT_TOKENS)
    room = most - SPECIAL_TOKENS
    kept = max(room - (min(document, limits.most) if limits.own else document), room // 2)
    return pair if len(words) <= kept else msgspec.structs.replace(pair, query=" ".join(words[:kept]))


def fake_model(
    name: str = "fake-model",
    task: Task = "embed",
    prompts: Prompts | None = None,
    classes: Classes | None = None,
) -> ServedModel:
    """Return a model that a fake engine can stand for."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return ServedModel(
        name,
        digest,
        type="F32",
        task=task,
        prompts=prompts,
        dimensions=DIMENSIONS if task == "embed" else None,
        classes=classes,
        created=1_700_000_000,
    )


def fake_service(
    engine: FakeEngine,
    cache: VectorCache | None = None,
    *,
    prompts: Prompts | None = None,
    aliases: Mapping[str, str] | None = None,
    outputs: tuple[Output, ...] = DENSE,
    **options: Any,
) -> EmbeddingService:
    """Return a service of one model on a fake engine. outputs: of the model. options: of ServiceOptions."""
    registry = ModelRegistry(dataclasses.replace(fake_model(prompts=prompts), outputs=outputs), aliases=aliases)
    pool = ModelPool(lambda _model: engine, PoolRules(budget_bytes=1))
    return EmbeddingService(
        registry,
        pool,
        cache,
        ServiceOptions(**{"timeout": 20.0} | options),
    )


@dataclass
class Lines:
    """Collects what is reported."""

    said: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.said.append(line)

    def __str__(self) -> str:
        return "\n".join(self.said)
