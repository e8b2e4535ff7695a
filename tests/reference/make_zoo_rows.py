"""Make the reference rows of the zoo (tests/convert/zoo) with transformers and sentence-transformers.

    PYTHON -m tests.reference.make_zoo_rows [NAME ...] [--llama-cpp SOURCE]

PYTHON is that of an environment with torch (CPU), transformers, sentence-transformers and gguf. Writes
tests/reference/zoo/NAME.npz: the SHA-256 of the weights, and for each text or pair its ids and its row or score.
What looks like a special token inside a text stays text, as in the daemon. SOURCE is llama.cpp's source (`vendor/llama.cpp`
inside the sdist of llama-cpp-python): with it, the digest of each tensor is stored that its convert_hf_to_gguf.py writes at
F16, if that knows the form. Without it, digests that are stored stay.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.encoder_texts import TEXTS
from tests.convert.zoo import FORMS, Form
from tests.convert.zoo.rows import FOLDER, checkpoint_sha256, file_digests, pack_outputs, read_digests

# Theirs knows a pre-tokenizer by a hash of ids, which only the real vocabulary gives. A tiny one gets its name here.
THEIRS = """
import runpy
import sys
script, pre = sys.argv[1], sys.argv[2]
del sys.argv[1:3]
sys.path.insert(0, script.rpartition("/")[0])
from conversion.base import TextModel
if pre:
    TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
runpy.run_path(script, run_name="__main__")
"""

Rows = tuple[list[list[int]], np.ndarray[Any, Any]]
# llama.cpp takes these for control tokens, though not all checkpoints mark them so.
_CONTROL = re.compile(r"<\|.*\|>|<unused.*|<pad>|<mask>")


def tokenizer_of(folder: Path) -> Any:
    """Load tokenizer.json so that no special token is ever found in a text."""
    from tokenizers import Tokenizer

    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = content["added_tokens"]
    special = {entry["content"] for entry in added if entry["special"] or _CONTROL.fullmatch(entry["content"])}
    # Without its entry a special token is an ordinary piece; as an ordinary piece it gets a name that no text has.
    content["added_tokens"] = [entry for entry in added if entry["content"] not in special]
    model = content["model"]

    def hide(piece: str) -> str:
        return f"\ue000 {piece}" if piece in special and piece != model.get("unk_token") else piece

    if isinstance(model["vocab"], dict):
        model["vocab"] = {hide(piece): number for piece, number in model["vocab"].items()}
    else:
        model["vocab"] = [[hide(piece), score] for piece, score in model["vocab"]]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def pool(hidden: Any, pooling: str) -> Any:
    """Return the row, shape (dimensions,), of states of shape (tokens, dimensions)."""
    return {"cls": hidden[0], "mean": hidden.mean(0), "last": hidden[-1]}[pooling]


def embed(form: Form, folder: Path, name: str) -> Rows:
    """Return ids and pooled rows of TEXTS, by a class of transformers."""
    import torch
    import transformers

    tokenizer = tokenizer_of(folder)
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    found = []
    for numbers in ids:
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([numbers])).last_hidden_state[0].double()
        found.append(pool(hidden, form.pooling).numpy())
    return ids, np.stack(found)


def score(form: Form, folder: Path, name: str) -> Rows:
    """Return ids and bare outputs of a form's texts and pairs, token types as the tokenizer says them."""
    import torch
    import transformers

    tokenizer = tokenizer_of(folder)
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    encodings = [
        tokenizer.encode(*given) if isinstance(given, tuple) else tokenizer.encode(given) for given in form.inputs.values()
    ]
    found = []
    for encoding in encodings:
        inputs = {"input_ids": torch.tensor([encoding.ids])}
        if getattr(model.config, "type_vocab_size", 0):
            inputs["token_type_ids"] = torch.tensor([encoding.type_ids])
        with torch.no_grad():
            logits = model(**inputs).logits[0].double().numpy()
            found.append(logits if form.labels else logits[0])
    return [encoding.ids for encoding in encodings], np.array(found)


def embed_with_modules(folder: Path) -> Rows:
    """Return ids and rows of TEXTS, by all modules of sentence-transformers but Normalize."""
    import torch
    from sentence_transformers import SentenceTransformer

    tokenizer = tokenizer_of(folder)
    modules = [module for module in SentenceTransformer(str(folder), device="cpu") if type(module).__name__ != "Normalize"]
    ids = [tokenizer.encode(text).ids for text in TEXTS.values()]
    found = []
    for numbers in ids:
        features: Any = {
            "input_ids": torch.tensor([numbers]),
            "attention_mask": torch.ones(1, len(numbers), dtype=torch.int64),
        }
        with torch.no_grad():
            for module in modules:
                features = module(features)
        found.append(features["sentence_embedding"][0].numpy())
    return ids, np.stack(found)


def rows(form: Form, folder: Path) -> Rows:
    """Return the ids and the rows, or scores, of a form."""
    kind, _, name = form.reference.partition(":")
    if kind == "sentence_transformers":
        return embed_with_modules(folder)
    if kind != "transformers":
        own: Rows = importlib.import_module(f"tests.reference.zoo_models.{kind}").rows(folder)
        return own
    if form.pooling == "rank":
        return score(form, folder, name or "AutoModelForSequenceClassification")
    return embed(form, folder, name or "AutoModel")


def arrays_of(form: Form, folder: Path) -> tuple[dict[str, np.ndarray[Any, Any]], str]:
    """Return what is stored of a form besides digests, and a few words about it."""
    if form.outputs != ("dense",):
        found = importlib.import_module(f"tests.reference.zoo_models.{form.reference}").outputs(folder)
        return pack_outputs(found), f"{len(found)} texts, {', '.join(form.outputs)}"
    ids, values = rows(form, folder)
    arrays = {
        "kinds": np.array(list(form.inputs)),
        "lengths": np.array([len(numbers) for numbers in ids], dtype=np.int32),
        "ids": np.concatenate([np.array(numbers, dtype=np.int32) for numbers in ids]),
        "values": values.astype(np.float32),
    }
    return arrays, f"{values.shape}, {min(map(len, ids))} to {max(map(len, ids))} tokens"


def digests_of_llama_cpp(form: Form, folder: Path, source: Path) -> dict[str, str]:
    """Return the digest of each tensor in the F16 file of llama.cpp's converter; empty if it does not convert the form."""
    modules = folder / "modules.json"
    flags = ["--sentence-transformers-dense-modules"] if modules.is_file() and "Dense" in modules.read_text() else []
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "theirs.gguf"
        command = [sys.executable, "-c", THEIRS, str(source / "convert_hf_to_gguf.py"), form.pre, str(folder)]
        done = subprocess.run(
            [*command, "--outfile", str(file), "--outtype", "f16", *flags], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return file_digests(file)
    print(f"{form.name}: llama.cpp's converter: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return {}


def make(form: Form, source: Path | None) -> None:
    """Write the file of one form."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = form.make(Path(temporary) / form.name)
        arrays, words = arrays_of(form, folder)
        file = FOLDER / f"{form.name}.npz"
        stored = read_digests(form.name) if file.is_file() else {}
        digests = digests_of_llama_cpp(form, folder, source) if source else stored
        np.savez_compressed(
            file,
            sha256=np.array(checkpoint_sha256(folder)),
            **arrays,
            **({"tensors": np.array(list(digests)), "digests": np.array(list(digests.values()))} if digests else {}),
        )
    print(f"{file.name}: {words}, {len(digests)} digests, {file.stat().st_size / 1000:.0f} kB", flush=True)


def main() -> None:
    """Write the files that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="forms of the zoo; default: all that are converted")
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp's source")
    options = parser.parse_args()
    forms = {form.name: form for form in FORMS if form.refused is None}
    for name in options.names or forms:
        make(forms[name], options.llama_cpp)


if __name__ == "__main__":
    main()
