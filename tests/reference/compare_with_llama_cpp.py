"""Compare our converter with llama.cpp's own, on one checkpoint: every tensor, every metadata key, peak memory and time.

    uv run python tests/reference/compare_with_llama_cpp.py CHECKPOINT --llama-cpp SOURCE --python PYTHON [--work FOLDER]

SOURCE is llama.cpp's source (`vendor/llama.cpp` inside the sdist of llama-cpp-python), PYTHON that of an environment with
torch (CPU), transformers and sentencepiece, which its convert_hf_to_gguf.py needs. CHECKPOINT is for example what
make_qwen3_checkpoint.py writes; with --ids, the ids of some fifty texts are compared as well with those of the tokenizers
library (tests/reference/qwen_token_ids.json, made by make_decoder_rows.py).

Prints: for each converter and type, seconds, peak resident memory and file size; then the tensors of the two F16 files that
differ, then the keys of theirs that ours has not or has otherwise, each with the reason. The exit status is 1 when
something differs without a reason in REASONS.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeembed.engine.llama.library import send_log_to
from tests.convert.llama_vectors import open_llama
from tests.reference.make_zoo_rows import THEIRS

IDS = Path(__file__).parent / "qwen_token_ids.json"
OFFICIAL_BYTES = 639_150_592
"""Qwen/Qwen3-Embedding-0.6B-GGUF, Qwen3-Embedding-0.6B-Q8_0.gguf."""

OURS = """
import sys
from pathlib import Path
from edgeembed_convert import ConversionOptions, convert_checkpoint
options = ConversionOptions(quantization=sys.argv[3], proof=sys.argv[4] == "proof", task=sys.argv[5] or None)
convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), options)
"""

# Key of theirs -> why ours differs or is not there.
REASONS = {
    "general.name": "theirs guesses words from the folder's name; ours is the folder's name",
    "general.basename": "guessed from the folder's name",
    "general.finetune": "guessed from the folder's name",
    "general.version": "guessed from the folder's name",
    "general.size_label": "theirs counts only the letters of a name or rounds otherwise; for people's eyes alone",
    "general.tags": "the hub's search words; nothing that computes needs them",
    "general.languages": "the hub's search words; nothing that computes needs them",
    "general.sampling.temp": "an embedding model samples nothing",
    "general.sampling.top_k": "an embedding model samples nothing",
    "general.sampling.top_p": "an embedding model samples nothing",
    "tokenizer.ggml.scores": "theirs are tokenizer.model's, ours count tokenizer.json's merges; only their order matters",
    "tokenizer.chat_template": "an embedding model holds no chats",
}
TENSOR_REASONS = {"cls.output.weight": "ours stays F32: it is two rows, and the score hangs on their difference"}


def main() -> int:
    """Run the comparison and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--llama-cpp", type=Path, required=True, help="llama.cpp's source")
    parser.add_argument("--python", default=sys.executable, help="Python with torch and transformers")
    parser.add_argument("--work", type=Path, help="where to put the files; they are kept there")
    parser.add_argument("--types", default="F16,Q8_0", help="types to time; F16 is always compared")
    parser.add_argument("--task", default="", help="embed or rerank, for our converter")
    parser.add_argument("--pre", default="", help="what theirs calls the pre-tokenizer, for a tiny vocabulary: roberta-bpe")
    parser.add_argument("--ids", action="store_true", help="compare token ids as well: a checkpoint with Qwen's vocabulary")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        types = options.types.split(",")
        print(f"{'converter':<22}{'type':<7}{'seconds':>9}{'peak MiB':>10}{'bytes':>16}")
        for kind in dict.fromkeys(["F16", *types]):
            for label, proof in (("ours", "plain"), ("ours with canary rows", "proof")):
                file = work / f"{'ours' if proof == 'plain' else 'proof'}-{kind}.gguf"
                command = [sys.executable, "-c", OURS, str(options.checkpoint), str(file), kind, proof, options.task]
                report(label, kind, file, command)
            file = work / f"theirs-{kind}.gguf"
            script = options.llama_cpp / "convert_hf_to_gguf.py"
            flags = ["--outfile", str(file), "--outtype", kind.lower()]
            if "Dense" in "".join(entry["type"] for entry in read_modules(options.checkpoint)):
                flags.append("--sentence-transformers-dense-modules")
            command = [options.python, "-c", THEIRS, str(script), options.pre, str(options.checkpoint), *flags]
            report("llama.cpp's", kind, file, command)
        if options.ids and "Q8_0" in types:
            size = (work / "ours-Q8_0.gguf").stat().st_size
            print(f"ours Q8_0 against the official file: {size:,} of {OFFICIAL_BYTES:,} bytes, {size / OFFICIAL_BYTES:.5f}")
        failures = compare_tensors(GGUFReader(work / "ours-F16.gguf"), GGUFReader(work / "theirs-F16.gguf"))
        failures += compare_keys(fields(work / "ours-F16.gguf"), fields(work / "theirs-F16.gguf"))
        if options.ids:
            failures += compare_ids(work / "ours-F16.gguf")
    print(f"{failures} differences without a reason")
    return int(failures > 0)


def read_modules(checkpoint: Path) -> list[dict[str, Any]]:
    """Return the modules of a sentence-transformers checkpoint, none for another one."""
    file = checkpoint / "modules.json"
    modules: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return modules


def report(label: str, kind: str, file: Path, command: list[str]) -> None:
    """Run a converter and print what it took; the peak is that of its largest process."""
    began = time.perf_counter()
    log = file.with_suffix(".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{label} failed:\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
    seconds = time.perf_counter() - began
    print(f"{label:<22}{kind:<7}{seconds:>9.1f}{usage.ru_maxrss / 1024:>10.0f}{file.stat().st_size:>16,}", flush=True)


def fields(file: Path) -> dict[str, tuple[Any, str]]:
    """Return the value and the type of each key."""
    found = {}
    for key, field in GGUFReader(file).fields.items():
        if not key.startswith("GGUF."):
            found[key] = (field.contents(), "/".join(GGUFValueType(kind).name for kind in field.types))
    return found


def compare_tensors(ours: GGUFReader, theirs: GGUFReader) -> int:
    """Compare the tensors of two files byte by byte; prints the differences and gives their number."""
    mine, other = ({tensor.name: tensor for tensor in reader.tensors} for reader in (ours, theirs))
    equal = failures = 0
    for name in sorted(mine | other):
        if name not in mine or name not in other:
            difference = f"is only in {'ours' if name in mine else 'theirs'}"
        elif mine[name].tensor_type != other[name].tensor_type:
            difference = f"is {mine[name].tensor_type.name} in ours, {other[name].tensor_type.name} in theirs"
        elif list(mine[name].shape) != list(other[name].shape):
            difference = f"has the shape {list(mine[name].shape)} in ours, {list(other[name].shape)} in theirs"
        elif not np.array_equal(mine[name].data.view(np.uint8), other[name].data.view(np.uint8)):
            difference = "has other bytes"
        else:
            equal += 1
            continue
        reason = TENSOR_REASONS.get(name)
        failures += reason is None
        print(f"  tensor {name} {difference}: {reason or 'NO REASON'}")
    print(f"tensors of the F16 files: {len(mine)} in ours, {len(other)} in theirs, {equal} equal byte by byte")
    return failures


def compare_keys(ours: dict[str, tuple[Any, str]], theirs: dict[str, tuple[Any, str]]) -> int:
    """Compare metadata; prints the differences and gives the number of those without a reason."""
    equal = failures = 0
    for key, (value, kind) in theirs.items():
        if ours.get(key) == (value, kind):
            equal += 1
            continue
        found = "not in ours" if key not in ours else f"{short(ours[key])} in ours"
        reason = REASONS.get(key)
        failures += reason is None
        print(f"  key {key}: {short((value, kind))} in theirs, {found}: {reason or 'NO REASON'}")
    more = sorted(set(ours) - set(theirs))
    print(f"keys: {len(theirs)} in theirs, {equal} equal in ours; only in ours: {', '.join(more)}")
    return failures


def short(value: tuple[Any, str]) -> str:
    """Return a value's beginning."""
    text = repr(value[0])
    return f"{text if len(text) < 60 else text[:57] + '...'} ({value[1]})"


def compare_ids(file: Path) -> int:
    """Compare the ids that the file gives with those of the tokenizers library; gives the number of texts that differ."""
    send_log_to(lambda line: None, verbose=False)
    expected = json.loads(IDS.read_text(encoding="utf-8"))
    failures = 0
    with open_llama(file) as llama:
        for text, ids in expected.items():
            if llama.tokenize(text) != ids:
                failures += 1
                print(f"  ids of {text!r}: {llama.tokenize(text)}, not {ids}")
    print(f"texts with the ids of the tokenizers library: {len(expected) - failures} of {len(expected)}")
    return failures


if __name__ == "__main__":
    sys.exit(main())
