"""Hybrid search with Qdrant over 1,000 paragraphs of Python's documentation: recall of each output alone and together.

    python -m tests.benchmarks.hybrid_search SOURCES --model MODEL.gguf [--sparse-model SPLADE.gguf] [--json FILE]

SOURCES are the documentation's; see python_docs. MODEL has dense, sparse and multi outputs; docs/search.md says how ours is
made. A real daemon embeds the paragraphs with all three in one pass, over HTTP. They go as they come into qdrant-client in
memory mode, which has to be installed: named vectors, a sparse vector, and a multi-vector compared by MaxSim. Queries are
first sentences that were taken out of their paragraphs, titles of sections, and names from the index. Printed are recall@10
for each kind of query, and recall@10 and the mean reciprocal rank (of the first 10) of all. Qdrant's memory mode compares in
Python, so that multi-vectors take minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient, models

from tests.benchmarks.python_docs import Query, RetrievalSet, retrieval_set
from tests.e2e.daemon import Daemon, post, running
from tests.e2e.models import install

MODEL, SPARSE_MODEL = "three-outputs", "splade"
COLLECTION = "python-docs"
TEXTS_PER_REQUEST = 50
FOUND = 10
CANDIDATES = 50
"""Of each output, before their ranks are joined; and what is reranked."""

Vectors = dict[str, Any]


@dataclass
class Ranked:
    """The ranks of the right paragraphs under one way to search: 1 for the best, None if not among the first 10."""

    ranks: list[int | None]

    def recall(self, queries: Sequence[Query], kind: str | None = None) -> float:
        """Return the share of queries whose paragraph is among the first 10."""
        return statistics.mean(
            rank is not None for rank, query in zip(self.ranks, queries, strict=True) if kind in (None, query.kind)
        )

    @property
    def reciprocal(self) -> float:
        return statistics.mean(1 / rank if rank else 0.0 for rank in self.ranks)


class Embedder:
    """Embeds with the daemon: all outputs of the model in one pass, and the sparse vectors of another model, if any."""

    def __init__(self, daemon: Daemon, *, splade: bool) -> None:
        self._daemon = daemon
        self._splade = splade

    def embed(self, texts: Sequence[str], input_type: str) -> list[Vectors]:
        """Return the vectors of each text as Qdrant takes them, by the names of the collection."""
        found: list[Vectors] = []
        for begin in range(0, len(texts), TEXTS_PER_REQUEST):
            some = list(texts[begin : begin + TEXTS_PER_REQUEST])
            for item in self._ask(MODEL, some, input_type, sparse=True, multi_vector=True):
                sparse = models.SparseVector(**item["sparse_embedding"])
                found.append({"dense": item["embedding"], "sparse": sparse, "multi": item["multi_embedding"]})
            if self._splade:
                items = self._ask(SPARSE_MODEL, some, input_type, sparse=True)
                for vectors, item in zip(found[begin:], items, strict=True):
                    vectors["splade"] = models.SparseVector(**item["sparse_embedding"])
        return found

    def rerank(self, query: str, documents: Sequence[str]) -> list[int]:
        """Return the places of the documents in the order of their scores."""
        status, answer = post(self._daemon, "/v1/rerank", model=MODEL, query=query, documents=list(documents))
        assert status == 200, answer
        return [result["index"] for result in answer["results"]]

    def _ask(self, model: str, texts: Sequence[str], input_type: str, **outputs: bool) -> list[dict[str, Any]]:
        status, answer = post(self._daemon, "/v1/embeddings", model=model, input=texts, input_type=input_type, **outputs)
        assert status == 200, answer
        items: list[dict[str, Any]] = answer["data"]
        return items


def make_collection(client: QdrantClient, paragraphs: Sequence[str], vectors: Sequence[Vectors]) -> None:
    """Store paragraphs with their vectors; a paragraph's id is its number."""
    first = vectors[0]
    max_sim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    client.create_collection(
        COLLECTION,
        vectors_config={
            "dense": models.VectorParams(size=len(first["dense"]), distance=models.Distance.COSINE),
            "multi": models.VectorParams(
                size=len(first["multi"][0]), distance=models.Distance.COSINE, multivector_config=max_sim
            ),
        },
        sparse_vectors_config={name: models.SparseVectorParams() for name in ("sparse", "splade") if name in first},
    )
    points = [
        models.PointStruct(id=number, vector=each, payload={"text": text})
        for number, (text, each) in enumerate(zip(paragraphs, vectors, strict=True))
    ]
    client.upsert(COLLECTION, points)


class Search:
    """Searches a collection in each way."""

    def __init__(self, client: QdrantClient, embedder: Embedder, data: RetrievalSet, vectors: Sequence[Vectors]) -> None:
        """vectors: of the queries."""
        self._client = client
        self._embedder = embedder
        self._data = data
        self._vectors = vectors

    def searches(self) -> Iterator[tuple[str, Callable[[int], list[int]]]]:
        """Yield each way to search: its name, and what returns the ids of the best paragraphs for a query by its number."""
        yield "dense", lambda number: self._one("dense", number, FOUND)
        yield "sparse", lambda number: self._one("sparse", number, FOUND)
        yield "multi (MaxSim)", lambda number: self._one("multi", number, FOUND)
        yield "dense + sparse (RRF)", lambda number: self._joined(("dense", "sparse"), number, FOUND)
        yield "dense + sparse + multi (RRF)", lambda number: self._joined(("dense", "sparse", "multi"), number, FOUND)
        yield "dense + sparse (RRF), the first 50 by multi", self._multi_of_joined
        yield "dense + sparse (RRF), the first 50 by /v1/rerank", self._reranked
        if "splade" in self._vectors[0]:
            yield "SPLADE", lambda number: self._one("splade", number, FOUND)
            yield "dense + SPLADE (RRF)", lambda number: self._joined(("dense", "splade"), number, FOUND)
            yield "dense + SPLADE + multi (RRF)", lambda number: self._joined(("dense", "splade", "multi"), number, FOUND)

    def run(self, search: Callable[[int], list[int]]) -> Ranked:
        """Search for all queries."""
        ranked = Ranked([])
        for number, query in enumerate(self._data.queries):
            found = search(number)
            ranked.ranks.append(found.index(query.paragraph) + 1 if query.paragraph in found else None)
        return ranked

    def _one(self, name: str, number: int, limit: int) -> list[int]:
        return _ids(self._client.query_points(COLLECTION, query=self._vectors[number][name], using=name, limit=limit))

    def _joined(self, names: Sequence[str], number: int, limit: int) -> list[int]:
        return _ids(
            self._client.query_points(
                COLLECTION,
                prefetch=self._prefetches(names, number),
                query=models.FusionQuery(fusion=models.Fusion.RRF),
                limit=limit,
            )
        )

    def _multi_of_joined(self, number: int) -> list[int]:
        """Qdrant itself orders what dense and sparse find by the multi-vector."""
        joined = models.Prefetch(
            prefetch=self._prefetches(("dense", "sparse"), number),
            query=models.FusionQuery(fusion=models.Fusion.RRF),
            limit=CANDIDATES,
        )
        query = self._vectors[number]["multi"]
        return _ids(self._client.query_points(COLLECTION, prefetch=joined, query=query, using="multi", limit=FOUND))

    def _reranked(self, number: int) -> list[int]:
        found = self._joined(("dense", "sparse"), number, CANDIDATES)
        documents = [self._data.paragraphs[each] for each in found]
        return [found[place] for place in self._embedder.rerank(self._data.queries[number].text, documents)][:FOUND]

    def _prefetches(self, names: Sequence[str], number: int) -> list[models.Prefetch]:
        vectors = self._vectors[number]
        return [models.Prefetch(query=vectors[name], using=name, limit=CANDIDATES) for name in names]


def _ids(answer: Any) -> list[int]:
    return [int(point.id) for point in answer.points]


@contextmanager
def daemon_with(model: Path, splade: Path | None) -> Iterator[Daemon]:
    """Run a daemon with a home of its own, in which the models are installed."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        install(home, MODEL, "file", model)
        if splade is not None:
            install(home, SPARSE_MODEL, "file", splade)
        with running("--model", MODEL, home=home) as daemon:
            yield daemon


def table(found: dict[str, Ranked], queries: Sequence[Query]) -> str:
    """Format the results as a table in Markdown."""
    kinds = list(dict.fromkeys(query.kind for query in queries))
    counts = [sum(query.kind == kind for query in queries) for kind in kinds]
    heads = [f"{kind}s ({count})" for kind, count in zip(kinds, counts, strict=True)]
    lines = [f"| search | {' | '.join(heads)} | all | MRR@10 |", "|---|" + "---|" * (len(kinds) + 2)]
    for name, ranked in found.items():
        shares = [ranked.recall(queries, kind) for kind in (*kinds, None)]
        cells = [*(f"{share:.3f}" for share in shares), f"{ranked.reciprocal:.3f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Embed, store, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sparse-model", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ranks here, too")
    arguments = parser.parse_args()
    data = retrieval_set(arguments.sources)
    with daemon_with(arguments.model, arguments.sparse_model) as daemon:
        embedder = Embedder(daemon, splade=arguments.sparse_model is not None)
        start = time.perf_counter()
        vectors = embedder.embed(data.paragraphs, "document")
        print(f"{len(vectors)} paragraphs embedded in {time.perf_counter() - start:.1f} s")
        numbers = (
            statistics.mean(len(each["sparse"].indices) for each in vectors),
            statistics.mean(len(each["multi"]) for each in vectors),
        )
        print(f"a paragraph has {numbers[0]:.0f} weights and {numbers[1]:.0f} vectors of tokens on average")
        client = QdrantClient(":memory:")
        make_collection(client, data.paragraphs, vectors)
        asked = embedder.embed([query.text for query in data.queries], "query")
        search = Search(client, embedder, data, asked)
        found: dict[str, Ranked] = {}
        for name, one in search.searches():
            found[name] = search.run(one)
            print(f"{name}: {found[name].recall(data.queries):.3f}", flush=True)
    print("\n" + table(found, data.queries))
    if arguments.json:
        arguments.json.write_text(json.dumps({name: ranked.ranks for name, ranked in found.items()}), encoding="utf-8")


if __name__ == "__main__":
    main()
