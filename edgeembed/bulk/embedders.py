"""What embeds the texts of a job: the running daemon, or a model loaded in this process. The job does not know which."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from edgeembed import __version__
from edgeembed.bulk.computed import Computed
from edgeembed.client import Connection, Reply, connected
from edgeembed.common.progress import ReportLine
from edgeembed.common.retry import with_retries
from edgeembed.config.resolution import Resolved
from edgeembed.engine.interface import DENSE, ModelInfo, Output, Row, Side
from edgeembed.errors import (
    ConfigError,
    EngineError,
)
from edgeembed.inference.chunking import ChunkRules, CountTokens
from edgeembed.inference.postprocess import Matrix, unit_rows
from edgeembed.inference.requests import EmbedRequest, EmbedResult, LongText, RerankRequest, TokenizeRequest
from edgeembed.inference.service import EmbeddingService
from edgeembed.inference.truncation import Lengths
from edgeembed.models.prompts import InputType
from edgeembed.models.served_model import ServedModel
from edgeembed.runtime.backends import OUTPUT_FIELDS, STATES, Parts, items_of, parts_of, require_outputs, states_of
from edgeembed.runtime.in_process import in_process_service

PROBE = "edgeembed"
"""A text embedded at the start to learn which model answers and how long its vectors are."""
_HEALTH_SECONDS = 5.0
_WORDS_PER_REQUEST = 1024
_POOLING_FIELDS = ("model", "input_type", "instruction", "truncate")


class EmbedOptions(NamedTuple):
    """How texts are embedded. model: None for the daemon's default model, or the configured one.

    outputs: what to compute of each text, in the order of OUTPUTS. long_text, truncate: what happens to texts that are too
    long; without either, it is what the daemon's settings say, or they are refused.
    """

    model: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None
    dimensions: int | None = None
    outputs: tuple[Output, ...] = DENSE
    long_text: LongText | None = None
    truncate: Side | None = None

    def as_body(self) -> dict[str, Any]:
        """Return the options that are set as fields of a request's body; token vectors are computed on another route."""
        found = {name: value for name, value in self._asdict().items() if value is not None and name != "outputs"}
        if self.outputs != DENSE:
            found |= {name: output in self.outputs for output, name in OUTPUT_FIELDS.items()}
        return found

    def as_request(self, texts: Sequence[str]) -> EmbedRequest:
        """Return a request that asks the default model."""
        return EmbedRequest(
            texts,
            input_type=self.input_type,
            instruction=self.instruction,
            dimensions=self.dimensions,
            outputs=self.outputs,
            lengths=Lengths(self.truncate or "none"),
            long_text=self.long_text or "none",
        )


class EmbedderInfo(NamedTuple):
    """The model and the machine behind an embedder."""

    model: str
    digest: str
    """SHA-256 of the model's file; empty when the daemon does not report it."""
    outputs: tuple[Output, ...]
    widths: dict[Output, int]
    """Numbers in a row of each output, as far as its rows are vectors."""
    description: str
    """What computes, for people: "this process", "the daemon at ..."."""
    max_requests: int
    """Concurrent requests that keep it busy."""
    batch_tokens: int = 0
    """Target size of a forward pass in tokens; 0 when unknown."""
    engine: str = ""
    """Build and device, for people; empty when unknown."""
    context_tokens: int = 0
    """Longest text in tokens, with prompt and special tokens; 0 when unknown."""
    probe_tokens: int = 0
    """Tokens of PROBE, with prompt and special tokens."""
    type: str = ""
    """Of the model's file, such as Q8_0; empty when unknown."""

    @property
    def dimensions(self) -> int:
        """Numbers in a dense row; 0 where no dense rows are computed."""
        return self.widths.get("dense", 0)


class Embedder(Protocol):
    """Embeds texts; any number of calls may run concurrently."""

    info: EmbedderInfo

    async def embed(self, texts: Sequence[str]) -> Computed:
        """Return the outputs of each text.

        Raises EdgeEmbedError; its `param` is input[N] when text N is at fault. EngineUnavailableError, OverloadedError and
        EngineTimeoutError may be temporary.
        """
        ...

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, without special tokens and prompt. Raises EdgeEmbedError."""
        ...


class Scored(NamedTuple):
    """The relevance of each document, from 0 to 1, in the documents' order. cut: how many were too long and were cut."""

    model: str
    scores: list[float]
    cut: int


@asynccontextmanager
async def open_embedder(
    resolved: Resolved, options: EmbedOptions, report: ReportLine, *, in_process: bool = False
) -> AsyncIterator[DaemonEmbedder | LocalEmbedder]:
    """Connect to the running daemon; load the model in this process if there is none, or if `in_process` is set.

    Raises EdgeEmbedError.
    """
    async with connected(resolved.settings) as connection:
        if not in_process and await connection.is_running():
            daemon = DaemonEmbedder(connection, options)
            await daemon.start()
            yield daemon
            return
    async with in_process_service(resolved, report, cache=False) as (service, model):
        local = LocalEmbedder(service, model, options)
        await local.start()
        yield local


async def fitted_rules(rules: ChunkRules, embedder: Embedder) -> ChunkRules:
    """Return rules whose chunks are no longer than the embedder's model takes. Raises EdgeEmbedError."""
    info = embedder.info
    if not info.context_tokens:
        return rules
    around = info.probe_tokens - (await with_retries(lambda: embedder.count([PROBE])))[0]
    room = info.context_tokens - around
    return ChunkRules(room, min(rules.overlap, room // 2)) if 0 < room < rules.tokens else rules


def counter(embedder: Embedder) -> CountTokens:
    """Return what counts tokens for the threads that read inputs. To be called in the embedder's event loop."""
    loop = asyncio.get_running_loop()

    def count(words: Sequence[str]) -> list[int]:
        found: list[int] = []
        for first in range(0, len(words), _WORDS_PER_REQUEST):
            part = embedder.count(words[first : first + _WORDS_PER_REQUEST])
            found += asyncio.run_coroutine_threadsafe(part, loop).result()
        return found

    return count


async def rerank(resolved: Resolved, query: str, documents: Sequence[str], model: str | None, report: ReportLine) -> Scored:
    """Score documents against a query, with the running daemon or a model loaded in this process. Raises EdgeEmbedError.

    What is too long is cut, or divided with the setting long_text, as POST /v1/rerank does.
    """
    async with connected(resolved.settings) as connection:
        if await connection.is_running():
            named = {"model": model} if model else {}
            body = {"query": query, "documents": list(documents), "return_documents": False, **named}
            answer = (await connection.post("/v1/rerank", body)).body
            scores = {item["index"]: item["relevance_score"] for item in answer["results"]}
            return Scored(
                answer["model"], [scores[index] for index in range(len(documents))], len(answer.get("truncated", ()))
            )
    async with in_process_service(resolved, report, cache=False) as (service, _):
        windows = service.long_text != "none"
        request = RerankRequest(query, documents, model=model, lengths=Lengths("end", query=True), windows=windows)
        result = await service.rerank(request)
        return Scored(result.model.name, result.scores, len(result.cuts))


class DaemonEmbedder:
    """The running daemon, asked at bulk priority and without its cache."""

    info: EmbedderInfo

    def __init__(self, connection: Connection, options: EmbedOptions) -> None:
        self._connection = connection
        self._options = options.as_body()
        self._outputs = options.outputs
        self._first: tuple[str, str] | None = None
        """The model that answered first, and the digest of its file."""
        self._special_tokens: int | None = None

    async def start(self) -> None:
        """Learn which model answers, and ask for that one from now on. Raises EdgeEmbedError."""
        first, parts = await with_retries(lambda: self._parts([PROBE]))
        answer = first.body
        self._options.setdefault("model", answer["model"])
        reply = await self._connection.ask("/v1/status", _HEALTH_SECONDS)
        loaded = (reply.body.get("models") if reply else None) or []
        named = str(self._options["model"]).lower().removesuffix(":query").removesuffix(":document")
        same = [model for model in loaded if isinstance(model, dict) and model.get("name") == answer["model"]]
        # A daemon before version 0.2 does not say which file it computed from. Where two types of a model are loaded, only a
        # name with the type tells them apart.
        exact = [model for model in same if f"{model.get('name')}:{model.get('type')}".lower() == named]
        if first.digest:
            exact = [model for model in loaded if isinstance(model, dict) and model.get("digest") == first.digest]
        found = exact or same or [{}]
        digests = {str(model.get("digest", "")) for model in found if model}
        self.info = EmbedderInfo(
            model=answer["model"],
            digest=first.digest or (digests.pop() if len(digests) == 1 else ""),
            outputs=self._outputs,
            widths=computed_of(parts, self._outputs).widths,
            description=f"the daemon at {reply.url.removesuffix('/v1/status')}" if reply else "the daemon",
            max_requests=4,
            engine=str(found[0].get("device") or ""),
            context_tokens=int(found[0].get("context_tokens") or 0),
            probe_tokens=int(answer["usage"]["prompt_tokens"]),
            type=str(found[0].get("type") or "") if len(found) == 1 else "",
        )

    async def embed(self, texts: Sequence[str]) -> Computed:
        _, parts = await self._parts(texts, repeatable=True)
        computed = computed_of(parts, self._outputs)
        if len(parts) != len(texts) or not computed.widths.items() <= self.info.widths.items():
            raise EngineError(
                f"the daemon returned {len(parts)} rows of {computed.widths}; expected {len(texts)} of {self.info.widths}"
            )
        return computed

    async def count(self, texts: Sequence[str]) -> list[int]:
        if self._special_tokens is None:
            self._special_tokens = (await self._tokens([""]))[0]
        counts = await self._tokens(texts)
        return [max(count - self._special_tokens, 0) for count in counts]

    def reading_as(self, input_type: InputType) -> DaemonEmbedder:
        """Return an embedder of the same model for texts of another kind."""
        other = copy.copy(self)
        other._options = self._options | {"input_type": input_type}
        other._special_tokens = None
        return other

    async def _tokens(self, texts: Sequence[str]) -> list[int]:
        options = {name: value for name, value in self._options.items() if name in ("model", "input_type", "instruction")}
        body = {"input": list(texts), **options}
        answer = (await self._connection.post("/v1/tokenize", body)).body
        return [item["tokens"] for item in answer["data"]]

    async def _parts(self, texts: Sequence[str], *, repeatable: bool = False) -> tuple[Reply, list[dict[Output, Matrix]]]:
        """Return the outputs of each text, and an answer that names the model. Raises EdgeEmbedError."""
        asked = {"input": list(texts), "encoding_format": "base64", "cache": False, "repeatable": repeatable}
        parts: list[dict[Output, Matrix]] = [{} for _ in texts]
        if self._outputs != ("tokens",):
            reply = await self._ask("/v1/embeddings", asked | self._options)
            parts = [parts_of(item) for item in items_of(reply)]
        if "tokens" in self._outputs:
            own = {name: value for name, value in self._options.items() if name in _POOLING_FIELDS}
            reply = await self._ask("/pooling", asked | own | STATES)
            for part, item in zip(parts, items_of(reply), strict=True):
                part["tokens"] = states_of(item)
        return reply, parts

    async def _ask(self, path: str, body: dict[str, Any]) -> Reply:
        """Return an answer of the model and file that answered first. Raises EdgeEmbedError."""
        reply = await self._connection.post(path, body)
        model = reply.body["model"]
        if self._first is None:
            self._first = model, reply.digest
        if model != self._first[0]:
            raise ConfigError(f"the daemon now answers with {model}; it answered with {self._first[0]} before")
        _require_same_file(model, self._first[1], reply.digest)
        return reply


class LocalEmbedder:
    """A model loaded for this job, in a worker of this process."""

    info: EmbedderInfo

    def __init__(self, service: EmbeddingService, model: ServedModel, options: EmbedOptions) -> None:
        self._service = service
        self._model = model
        self._options = options

    async def start(self) -> None:
        """Load the model. Raises EdgeEmbedError; what a model in this process cannot load now it cannot load later."""
        if self._model.upstream is None:
            await self._service.pool.load(self._model)
        probe = await with_retries(lambda: self._embed([PROBE]))
        info = self._engine_info
        self.info = EmbedderInfo(
            model=self._model.name,
            digest=self._model.digest,
            outputs=self._options.outputs,
            widths=_computed(probe).widths,
            description="this process",
            max_requests=4,
            batch_tokens=info.batch_tokens,
            engine=_engine_of(info),
            context_tokens=info.context_tokens,
            probe_tokens=probe.tokens[0],
            type=self._model.type,
        )

    async def embed(self, texts: Sequence[str]) -> Computed:
        result = await self._embed(texts)
        info, engine = self._engine_info, self.info.engine
        found = _engine_of(info)
        if info.batch_tokens != self.info.batch_tokens:
            found += f", {info.batch_tokens} tokens at a time"
        if any(row.alone for row in result.rows if isinstance(row, Row)):
            found += ", single texts after failures"
        return _computed(result)._replace(engine=found if found != engine else "")

    async def count(self, texts: Sequence[str]) -> list[int]:
        result = await self._service.count_tokens(TokenizeRequest(texts, special=False))
        return [len(text.ids) for text in result.tokens]

    def reading_as(self, input_type: InputType) -> LocalEmbedder:
        """Return an embedder of the same model for texts of another kind."""
        other = copy.copy(self)
        other._options = self._options._replace(input_type=input_type)
        return other

    @property
    def _engine_info(self) -> ModelInfo:
        """What computes now: a worker may have been replaced by one in another execution mode."""
        slot = self._service.pool.slot_of(self._model)
        assert slot is not None and slot.engine is not None and slot.engine.info is not None, "it has just embedded a text"
        return slot.engine.info

    async def _embed(self, texts: Sequence[str]) -> EmbedResult:
        request = msgspec.structs.replace(self._options.as_request(texts), cache="off", repeatable=True)
        result = await self._service.embed(request)
        _require_same_file(self._model.name, self._model.digest, result.model.digest)
        return result


def computed_of(parts: Sequence[Parts], outputs: Sequence[Output]) -> Computed:
    """Return the outputs of texts, at least one. Raises EngineError if one is missing."""
    require_outputs(outputs, parts)
    none = np.zeros((1, 0), np.float32)
    dense = np.concatenate([part.get("dense", none) for part in parts])
    return Computed(dense, {output: [part[output] for part in parts] for output in outputs if output != "dense"})


def _engine_of(info: ModelInfo) -> str:
    """Return what the last digits of rows depend on, for people."""
    return f"edgeembed {__version__}, {info.mode}, {info.llama_cpp}"


def _computed(result: EmbedResult) -> Computed:
    dense = result.vectors if "dense" in result.outputs else np.zeros((len(result.rows), 0), np.float32)
    others: dict[Output, list[Matrix]] = {each: result.parts(each) for each in result.outputs if each != "dense"}
    if "multi" in others:  # as the daemon returns them
        others["multi"] = [unit_rows([*rows]) if len(rows) else rows for rows in others["multi"]]
    return Computed(dense, others)


def _require_same_file(model: str, digest: str, found: str) -> None:
    """Raise ConfigError if rows come from another model file than the first ones. An empty digest is unknown."""
    if digest and found and digest != found:
        raise ConfigError(
            f"the file of {model} was replaced while the job ran; its vectors cannot be mixed with those of the old "
            "one. Put the old file back to continue, or start again with --overwrite"
        )
