"""Make a checkpoint with three outputs from all-MiniLM-L6-v2: its dense vector, vectors of tokens, weights of tokens.

    PYTHON -m tests.reference.make_token_heads CHECKPOINT OUT [--texts FOLDER] [--pairs 3000]

PYTHON is that of an environment with torch (CPU) and transformers. CHECKPOINT is the model's folder. OUT gets its files, and
two more in the form of BAAI/bge-m3: sparse_linear.pt (384 -> 1) and colbert_linear.pt (384 -> 128).

No public weights of a model with all three outputs could be reached where this was written, so these two matrices are ours:
small, trained in minutes on two cores, made to measure and to show the way, not to compete. The encoder is left as it is.
They are trained contrastively, each on its own score as bge-m3's are, on pairs from docstrings: the first sentence, and a
later paragraph of the same docstring. The docstrings are those of Python packages (FOLDER, by default where torch is
installed), none of the standard library, as tests/benchmarks/hybrid_search.py asks about its documentation.
"""

from __future__ import annotations

import argparse
import ast
import copy
import inspect
import random
import re
import shutil
import site
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

PACKAGES = ("numpy", "scipy", "sklearn", "torch", "sympy", "networkx")
VECTOR_NUMBERS = 128
QUERY_TOKENS, PASSAGE_TOKENS = 24, 72
TOGETHER = 64
"""Pairs of a step: each query has the passages of the others as wrong answers."""
EPOCHS = 5
HELD = 4
"""Steps' worth of pairs that are held out."""
SEED = 0
_TEMPERATURE = 0.02
_LEXICAL_TEMPERATURE = 0.1
_PROSE = re.compile(r"[A-Za-z][a-z]+")
_NO_PROSE = re.compile(
    r">>>|^\s*[-=~]{3,}|^\s*(Parameters|Returns|Args|Examples?|Notes?|References|Raises)\b|^\s*\.\. ", re.M
)


def pairs_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield first sentences of docstrings, and a later paragraph of each, from files in an order drawn with the seed."""
    files = [file for package in PACKAGES for file in sorted((folder / package).rglob("*.py")) if "tests" not in file.parts]
    random.shuffle(files)
    for file in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
                yield from _pair(inspect.cleandoc(text))


def unique_pairs(folder: Path, count: int) -> list[tuple[str, str]]:
    """Return so many pairs, in which no text comes twice."""
    seen: set[str] = set()
    found: list[tuple[str, str]] = []
    for pair in pairs_in(folder):
        if len(found) < count and seen.isdisjoint(pair):
            found.append(pair)
            seen.update(pair)
        elif len(found) == count:
            break
    return found


def _pair(text: str) -> Iterator[tuple[str, str]]:
    first, *others = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if not _NO_PROSE.search(block)] or [""]
    sentence = re.split(r"(?<=[.!?])\s", first)[0]
    for other in others:
        words = other.split()
        if len(words) >= 15 and len(_PROSE.findall(other)) > 0.7 * len(words) and 4 <= len(sentence.split()) <= 30:
            yield sentence, other
            return


class States:
    """Hidden states of texts, as the encoder makes them; one array for all, as most of the time goes into them."""

    def __init__(self, model: Any, tokenizer: Any, texts: list[str], longest: int) -> None:
        self.ids = torch.zeros(len(texts), longest, dtype=torch.long)
        self.kept = torch.zeros(len(texts), longest, dtype=torch.bool)
        """Whether a token is there, and is not [CLS]."""
        self.states = torch.zeros(len(texts), longest, model.config.hidden_size, dtype=torch.float16)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for begin in range(0, len(order), TOGETHER):
            some = order[begin : begin + TOGETHER]
            read = tokenizer(
                [texts[place] for place in some], truncation=True, max_length=longest, padding=True, return_tensors="pt"
            )
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                found = model(**read).last_hidden_state
            length = found.shape[1]
            self.ids[some, :length] = read["input_ids"]
            self.kept[some, 1:length] = read["attention_mask"][:, 1:].bool()
            self.states[some, :length] = found.half()


class Heads(torch.nn.Module):
    """bge-m3's two heads, and their scores."""

    def __init__(self, width: int, ends: set[int]) -> None:
        super().__init__()
        self.colbert = torch.nn.Linear(width, VECTOR_NUMBERS)
        self.lexical = torch.nn.Linear(width, 1)
        torch.nn.init.orthogonal_(self.colbert.weight)
        torch.nn.init.zeros_(self.colbert.bias)
        torch.nn.init.zeros_(self.lexical.weight)
        torch.nn.init.constant_(self.lexical.bias, 0.3)
        self._ends = torch.tensor(sorted(ends))

    def late_scores(self, query: tuple[Tensor, Tensor], passage: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean of the best cosines of each query's vectors in each passage, shape (queries, passages)."""
        asked, found = (torch.nn.functional.normalize(self.colbert(states), dim=-1) for states, _ in (query, passage))
        cosines = torch.einsum("qid,pjd->qpij", asked, found).masked_fill(~passage[1][None, :, None, :], -1.0)
        best = cosines.amax(dim=3) * query[1][:, None, :]
        return best.sum(dim=2) / query[1].sum(dim=1)[:, None]

    def lexical_scores(self, query: tuple[Tensor, Tensor], passage: tuple[Tensor, Tensor]) -> Tensor:
        """Return the sums over common tokens of the products of their weights. Each text: states, ids."""
        (asked, query_ids), (found, passage_ids) = query, passage
        query_weights, passage_weights = self._weights(asked, query_ids), self._weights(found, passage_ids)
        same = query_ids[:, None, :, None] == passage_ids[None, :, None, :]
        best = (same * passage_weights[None, :, None, :]).amax(dim=3)
        # A token that comes twice in a query counts once, with its highest weight; twice is rare, and shared out here.
        again = (query_ids[:, :, None] == query_ids[:, None, :]).sum(dim=2)
        return (best * (query_weights / again)[:, None, :]).sum(dim=2)

    def _weights(self, states: Tensor, ids: Tensor) -> Tensor:
        return torch.relu(self.lexical(states)).squeeze(-1) * ~torch.isin(ids, self._ends)


def train(heads: Heads, queries: States, passages: States) -> None:
    """Train both heads, each on its own loss, and keep each as it was after its best epoch, by pairs that are held out."""
    optimizer = torch.optim.AdamW(heads.parameters(), lr=1e-3, weight_decay=0.01)
    right = torch.arange(TOGETHER)
    places = torch.randperm(len(queries.ids))
    held, used = places[: HELD * TOGETHER], places[HELD * TOGETHER :]
    kept: dict[str, tuple[float, dict[str, Tensor]]] = {}
    for epoch in range(EPOCHS + 1):
        hits = dict.fromkeys(("colbert", "lexical"), 0.0)
        with torch.no_grad():
            for some in held.split(TOGETHER):
                for name, scores in zip(hits, _scores(heads, queries, passages, some), strict=True):
                    hits[name] += (scores.argmax(dim=1) == right).float().mean().item() / HELD
        for name, found in hits.items():
            if name not in kept or found > kept[name][0]:
                kept[name] = found, copy.deepcopy(getattr(heads, name).state_dict())
        print(f"epoch {epoch}: right passage of {TOGETHER}: {hits}", flush=True)
        if epoch < EPOCHS:
            _train_once(heads, optimizer, queries, passages, used[torch.randperm(len(used))])
    for name, (_, state) in kept.items():
        getattr(heads, name).load_state_dict(state)


def _train_once(heads: Heads, optimizer: torch.optim.Optimizer, queries: States, passages: States, places: Tensor) -> None:
    right = torch.arange(TOGETHER)
    for some in places.split(TOGETHER)[:-1]:
        late, lexical = _scores(heads, queries, passages, some)
        loss = torch.nn.functional.cross_entropy(late / _TEMPERATURE, right)
        loss = loss + torch.nn.functional.cross_entropy(lexical / _LEXICAL_TEMPERATURE, right)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _scores(heads: Heads, queries: States, passages: States, some: Tensor) -> tuple[Tensor, Tensor]:
    asked, found = queries.states[some].float(), passages.states[some].float()
    late = heads.late_scores((asked, queries.kept[some]), (found, passages.kept[some]))
    return late, heads.lexical_scores((asked, queries.ids[some]), (found, passages.ids[some]))


def main() -> None:
    """Collect pairs, compute their states, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--texts", type=Path, default=Path(site.getsitepackages()[0]))
    parser.add_argument("--pairs", type=int, default=3_000)
    arguments = parser.parse_args()
    random.seed(SEED)
    torch.manual_seed(SEED)
    began = time.perf_counter()
    pairs = unique_pairs(arguments.texts, arguments.pairs)
    print(f"{len(pairs)} pairs, {time.perf_counter() - began:.0f} s", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    model = AutoModel.from_pretrained(arguments.checkpoint).eval()
    queries = States(model, tokenizer, [first for first, _ in pairs], QUERY_TOKENS)
    passages = States(model, tokenizer, [later for _, later in pairs], PASSAGE_TOKENS)
    print(f"hidden states, {time.perf_counter() - began:.0f} s", flush=True)
    heads = Heads(model.config.hidden_size, set(tokenizer.all_special_ids))
    train(heads, queries, passages)
    shutil.copytree(arguments.checkpoint, arguments.out, dirs_exist_ok=True)
    torch.save(heads.colbert.state_dict(), arguments.out / "colbert_linear.pt")
    torch.save(heads.lexical.state_dict(), arguments.out / "sparse_linear.pt")
    print(f"{arguments.out}, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
