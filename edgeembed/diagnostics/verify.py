"""Checks a model file: canary rows, published similarities, and how much quality each quantisation type loses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt

from edgeembed.common.progress import Progress, ReportLine
from edgeembed.config.paths import Paths
from edgeembed.config.settings import Settings
from edgeembed.engine.canary import HEAD_TEXTS, least_for, least_of_head, least_together, likeness_of_outputs
from edgeembed.engine.interface import BULK, Engine, Float32Matrix, Limits, ModelInfo, Output, Prompted
from edgeembed.engine.outputs import unpack
from edgeembed.errors import EngineError
from edgeembed.hub.store import InstalledModel, Store
from edgeembed.inference.postprocess import Matrix, unit_rows
from edgeembed.models.prompts import choose_prompt
from edgeembed.runtime.engines import make_engine

PUBLISHED_TOLERANCE = 0.02
"""Largest difference from a published similarity, which is of the unquantised model in 16 bits."""
TEXTS_AT_ONCE = 32
RANKED = 50


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `edgeembed verify` for one file."""

    model: str
    type: str
    mode: str
    canary_cosines: list[float]
    """For each canary text, between its row and that from the unquantised weights; for a reranker, 1 minus the difference of
    the scores. Empty when the file has none."""
    canary_least: float
    """The lowest acceptable value."""
    published: list[list[float]] | None
    """Similarities published by the model's makers, shape (queries, documents)."""
    measured: list[list[float]] | None
    """The same, measured here."""
    published_by: str | None
    outputs: dict[str, float] = {}
    """For each output besides the dense one, the lowest cosine of a text computed alone and together with others."""
    outputs_least: float = 0.0

    @property
    def holds(self) -> bool | None:
        """Whether all comparisons are within their limits; None when there is nothing to compare with."""
        together = all(cosine >= self.outputs_least for cosine in self.outputs.values())
        if not self.canary_cosines and self.published is None:
            return None if together else False
        near = self.published is None or bool(
            np.abs(np.subtract(self.published, self.measured or [])).max() <= PUBLISHED_TOLERANCE
        )
        return near and together and all(cosine >= self.canary_least for cosine in self.canary_cosines)


@dataclass(frozen=True)
class EmbeddedTexts:
    """Texts embedded with a model. `rows`: of length 1, float32, shape (texts, dimensions)."""

    info: ModelInfo
    mode: str
    rows: Matrix
    tokens: int
    seconds: float
    outputs: dict[Output, float]
    """See `Verification.outputs`."""


def embed_texts(
    settings: Settings, paths: Paths, model: InstalledModel, texts: Sequence[str], report: ReportLine | None = None
) -> EmbeddedTexts:
    """Load a model and embed texts without prompts. Raises EngineError."""
    return asyncio.run(_embed(settings, paths, model, texts, report))


async def _embed(
    settings: Settings, paths: Paths, model: InstalledModel, texts: Sequence[str], report: ReportLine | None
) -> EmbeddedTexts:
    engine = make_engine(settings, paths, model)
    try:
        await engine.start()
        assert engine.info is not None
        rows, tokens = [], 0
        began = time.perf_counter()
        with Progress(report or (lambda _line: None), f"embedding with {model.type}", unit="text") as progress:
            for first in range(0, len(texts), TEXTS_AT_ONCE):
                for row in await asyncio.gather(*engine.submit(texts[first : first + TEXTS_AT_ONCE], BULK)):
                    rows.append(row.vector)
                    tokens += row.tokens
                progress.update(len(rows), len(texts))
        seconds = time.perf_counter() - began
        matrix = unit_rows(rows) if rows else np.zeros((0, engine.info.dimensions), dtype=np.float32)
        outputs: dict[Output, float] = {
            output: await _likeness(engine, output) for output in engine.info.outputs if output != "dense"
        }
        return EmbeddedTexts(engine.info, engine.status.mode, matrix, tokens, seconds, outputs)
    finally:
        await engine.close()


async def _likeness(engine: Engine, output: Output) -> float:
    """Return the lowest cosine of an output of the canary texts, each computed alone and all together. Raises EngineError.

    The worker compares it with that of the unquantised weights, too, where the file has it.
    """
    outputs = (output,)

    async def compute(texts: Sequence[Prompted]) -> list[Float32Matrix]:
        rows = await asyncio.gather(*engine.submit(texts, BULK, outputs=outputs))
        return [unpack(row.vector, outputs)[output] for row in rows]

    texts = [replace(text, limits=Limits(cut="end")) for text in HEAD_TEXTS]
    alone = [(await compute([text]))[0] for text in texts]
    pairs = zip(alone, await compute(texts), strict=True)
    return min((likeness_of_outputs(output, one, other) for one, other in pairs), default=1.0)


def verify(settings: Settings, paths: Paths, model: InstalledModel) -> Verification:
    """Read a model's whole file, load it, which checks its canary rows, and compare it with published similarities.

    Raises DamagedModelError when the file is not what was installed, EngineError with the numbers when the canary rows are
    wrong in every mode.
    """
    if damage := Store(paths).damage(model):
        raise damage
    check = model.entry.check if model.entry else None
    texts: list[str] = []
    if check:
        query = choose_prompt(model.prompts, "query", check.instruction, model.name)
        document = choose_prompt(model.prompts, "document", None, model.name)
        texts = [*map(query.apply, check.queries), *map(document.apply, check.documents)]
    embedded = embed_texts(settings, paths, model, texts)
    measured = None
    if check:
        queries, documents = embedded.rows[: len(check.queries)], embedded.rows[len(check.queries) :]
        measured = [[round(float(value), 4) for value in row] for row in queries @ documents.T]
    return Verification(
        model=model.name,
        type=model.type,
        mode=embedded.mode,
        canary_cosines=[round(value, 5) for value in embedded.info.canary_cosines],
        canary_least=round(least_for(embedded.info.file_type, scores=embedded.info.pooling == "rank"), 4),
        published=check.scores if check else None,
        measured=measured,
        published_by=check.source if check else None,
        outputs={output: round(value, 5) for output, value in embedded.outputs.items()},
        outputs_least=round(least_of_head(least_together(embedded.info.file_type)), 5),
    )


# --- quality lost by quantisation --------------------------------------------------------------------------------------


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """How one quantisation type differs from F32."""

    type: str
    size_bytes: int
    mean_cosine: float
    worst_cosine: float
    ndcg: float
    """nDCG@10 on the retrieval set: each heading searches the paragraphs of its own section."""
    tau: float
    """Kendall's tau between the ranking of F32's 50 best paragraphs and this type's, averaged over the queries."""
    tokens_per_second: float


@dataclass(frozen=True)
class RetrievalSet:
    """queries[i] searches the documents whose section is i."""

    queries: list[str]
    documents: list[str]
    sections: npt.NDArray[np.int64]


def retrieval_set(most_per_section: int = 4) -> RetrievalSet:
    """Return a small retrieval set from Python's language reference (pydoc_data.topics, part of Python)."""
    from pydoc_data.topics import topics

    queries: list[str] = []
    documents: list[str] = []
    sections: list[int] = []
    for text in topics.values():
        heading, _, body = text.partition("\n")
        paragraphs = [" ".join(paragraph.split()) for paragraph in body.split("\n\n")]
        good = [paragraph for paragraph in paragraphs if 100 <= len(paragraph) <= 600][:most_per_section]
        if good:
            sections += [len(queries)] * len(good)
            queries.append(heading)
            documents += good
    return RetrievalSet(queries, documents, np.array(sections))


def loss_table(settings: Settings, paths: Paths, models: Sequence[InstalledModel], report: ReportLine) -> list[Loss]:
    """Compare types of a model with the first one in `models`. Raises EngineError."""
    data = retrieval_set()
    losses: list[Loss] = []
    reference: Matrix | None = None
    for model in models:
        embedded = embed_texts(settings, paths, model, [*data.queries, *data.documents], report)
        rows = embedded.rows
        reference = rows if reference is None else reference
        if rows.shape != reference.shape:
            raise EngineError(f"{model.type} has {rows.shape[1]} dimensions, the first model has {reference.shape[1]}")
        cosines = np.einsum("ij,ij->i", rows.astype(np.float64), reference.astype(np.float64))
        count = len(data.queries)
        scores, expected = rows[:count] @ rows[count:].T, reference[:count] @ reference[count:].T
        losses.append(
            Loss(
                type=model.type,
                size_bytes=model.size_bytes,
                mean_cosine=float(cosines.mean()),
                worst_cosine=float(cosines.min()),
                ndcg=float(np.mean([ndcg(row, data.sections == query) for query, row in enumerate(scores)])),
                tau=float(np.mean([kendall_tau(a, b) for a, b in zip(expected, scores, strict=True)])),
                tokens_per_second=embedded.tokens / embedded.seconds,
            )
        )
    return losses


def ndcg(scores: npt.NDArray[np.floating], relevant: npt.NDArray[np.bool_], at: int = 10) -> float:
    """Return nDCG@`at` of one query with binary relevance (Järvelin and Kekäläinen, 2002)."""
    order = np.argsort(-scores, kind="stable")[:at]
    discounts = 1 / np.log2(np.arange(2, at + 2))
    gained = float((relevant[order] * discounts[: len(order)]).sum())
    return gained / float(discounts[: int(relevant.sum())].sum())


def kendall_tau(expected: npt.NDArray[np.floating], scores: npt.NDArray[np.floating], best: int = RANKED) -> float:
    """Return Kendall's tau (1938) between two scorings of the first one's `best` documents, without its ties."""
    order = np.argsort(-expected, kind="stable")[:best]
    one, other = np.triu_indices(len(order), k=1)
    before, after = expected[order], scores[order]
    signs = np.sign(before[one] - before[other])
    agreement = signs * np.sign(after[one] - after[other])
    return float(agreement.sum() / np.abs(signs).sum()) if signs.any() else 1.0


def format_losses(losses: Sequence[Loss]) -> list[str]:
    """Return the table as lines of Markdown."""
    header = ["type", "size", "mean cosine", "worst cosine", "nDCG@10", "Kendall tau", "tokens/s"]
    rows = [
        [
            loss.type,
            f"{loss.size_bytes / 1e6:.1f} MB",
            f"{loss.mean_cosine:.5f}",
            f"{loss.worst_cosine:.5f}",
            f"{loss.ndcg:.4f}",
            f"{loss.tau:.4f}",
            f"{loss.tokens_per_second:,.0f}",
        ]
        for loss in losses
    ]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    top = "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(header, widths, strict=True)) + " |"
    return [top, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines]
