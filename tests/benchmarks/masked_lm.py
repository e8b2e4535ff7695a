"""What SPLADE's head costs next to the encoder, by ggml and by NumPy, on one thread.

    python -m tests.benchmarks.masked_lm MODEL.gguf [--tokens 10,50,128,512] [--rounds 5]
    python -m tests.benchmarks.masked_lm --make FOLDER     # a random checkpoint of BERT-base's size, for edgeembed convert

Times are the processor's, the least of the rounds, which other programs on the machine change less than the clock's. "ggml"
multiplies the token embeddings of the file, in a copy that its kernels lay out for themselves, or in place; "NumPy" a copy
in float32.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeembed.engine.llama.library import send_log_to
from edgeembed.engine.llama.masked_lm import MaskedLm, find_embeddings
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.llama.rows import tensor_bytes
from edgeembed.engine.reading import Reading
from edgeembed.engine.sparse import CHUNK_TOKENS, VocabularyHead
from edgeembed.engine.worker_options import WorkerOptions
from tests.convert.tiny_bert import SPECIAL, tiny_weights, tokenizer_json, write_json, write_safetensors
from tests.convert.zoo.sparse import head_weights, write_splade_modules

BASE = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
_NAMES = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")


def make(folder: Path) -> None:
    """Write a random checkpoint of BERT-base's size; its vocabulary are numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", BASE)
    content = tokenizer_json(cased=False)
    vocabulary = content["model"]["vocab"]
    vocabulary.update({f"w{number}": number for number in range(len(vocabulary), 30522)})
    write_json(folder / "tokenizer.json", content)
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer", **SPECIAL})
    weights = {f"bert.{name}": tensor for name, tensor in tiny_weights(BASE).items() if "pooler" not in name}
    write_safetensors(folder / "model.safetensors", weights | head_weights(*_NAMES, 30522, width=768), "F16")
    write_splade_modules(folder)


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Return the least processor time of a run."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def measure(file: Path, lengths: list[int], rounds: int) -> None:
    """Print the times for texts of these lengths in tokens."""
    send_log_to(lambda text: None, verbose=False)
    options = WorkerOptions(
        path=str(file), threads=1, context_tokens=512, batch_tokens=128, mode="cpu", extra_buffers=True, bulk_lanes=0
    )
    model = LlamaModel(options)
    head = model._token_heads["sparse"]
    assert isinstance(head, VocabularyHead)
    weights = head._weights
    embeddings = find_embeddings(model.new_context)
    heads = {packed: MaskedLm(weights, embeddings, threads=1, packed=packed) for packed in (True, False)}
    matrix = np.random.default_rng(0).standard_normal((len(weights.bias), len(weights.weight))).astype(np.float32)
    states_context, random = model.new_states_context(), np.random.default_rng(1)
    print(f"{file.name}: {model.info.file_type}, {model.kernels.words}, one thread; milliseconds of processor time")
    copied = tensor_bytes(heads[True]._embeddings) if heads[True].is_packed else 0
    print(f"memory of the copy: ggml {copied / 2**20:.0f} MiB, NumPy {matrix.nbytes / 2**20:.0f} MiB\n")
    names = (
        "dense",
        "states",
        "head",
        "ggml, copy" if copied else "ggml",
        "in place",
        "NumPy",
        "dense tok/s",
        "sparse tok/s",
    )
    print(f"{'tokens':>6}  " + "  ".join(f"{name:>12}" for name in names))
    for length in lengths:
        text = Reading(random.integers(1000, 20000, length).astype(np.int32))
        (states,) = states_context.compute_states([text])

        def by_numpy(states: np.ndarray = states) -> None:
            for first in range(0, len(states), CHUNK_TOKENS):
                (states[first : first + CHUNK_TOKENS] @ matrix.T).max(axis=0)

        def by_ggml(masked_lm: MaskedLm, states: np.ndarray = states) -> None:
            for logits in masked_lm.logits(states):
                logits.max(axis=0)

        dense = seconds(lambda text=text: model.wide.compute([text], isolated=True), rounds)  # type: ignore[misc]
        passed = seconds(lambda text=text: states_context.compute_states([text]), rounds)  # type: ignore[misc]
        head.apply(states, text.tokens, "")
        whole = seconds(lambda s=states, t=text: head.apply(s, t.tokens, ""), rounds)  # type: ignore[misc]
        products = [seconds(lambda each=each: by_ggml(each), rounds) for each in heads.values()]  # type: ignore[misc]
        figures = [dense, passed, whole, *products, seconds(by_numpy, rounds)]
        speeds = [length / dense, length / (passed + whole)]
        cells = [f"{1000 * figure:.1f}" for figure in figures] + [f"{speed:,.0f}" for speed in speeds]
        print(f"{length:>6}  " + "  ".join(f"{cell:>12}" for cell in cells))
    states_context.close()
    for each in heads.values():
        each.close()
    model.close()


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--make", type=Path, metavar="FOLDER")
    parser.add_argument("--tokens", default="10,50,128,512")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.make)
    else:
        measure(arguments.model, [int(number) for number in arguments.tokens.split(",")], arguments.rounds)


if __name__ == "__main__":
    main()
