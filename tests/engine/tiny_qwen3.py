"""A Qwen3 embedder as a GGUF file, tiny or of any shape: real architecture and kind of tokenizer, random weights, a
vocabulary of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

CONTEXT = 512
DIMENSIONS = 64
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Qwen3Sizes:
    """Sizes of a model. By default tiny."""

    layers: int = 2
    width: int = DIMENSIONS
    heads: int = 4
    kv_heads: int = 2
    head: int = 16
    feed_forward: int = 128
    context: int = CONTEXT


def byte_pieces() -> list[str]:
    """Return the 256 printable characters that stand for bytes in byte-level BPE (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_in = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [stand_in[byte] for byte in range(256)]


def make_tiny_qwen3(
    path: Path,
    *,
    pooling: gguf.PoolingType | None = gguf.PoolingType.LAST,
    splitter: str = "qwen2",
    seed: int = 0,
    sizes: Qwen3Sizes | None = None,
    matrices: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """Write the file and return its path.

    pooling: None leaves the key out, as in a generation model. splitter: llama.cpp's name of the pre-tokenizer.
    matrices: the type of all tensors but those of norms.
    """
    sizes = sizes or Qwen3Sizes()
    heads, kv_heads, head, feed_forward = sizes.heads, sizes.kv_heads, sizes.head, sizes.feed_forward
    vocabulary = [*byte_pieces(), "he", "ll", END_OF_TEXT]
    end = len(vocabulary) - 1
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name("tiny qwen3")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(sizes.layers)
    writer.add_context_length(sizes.context)
    writer.add_embedding_length(sizes.width)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1_000_000.0)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.NORMAL] * end + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["h e", "l l"])
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_eos_token(True)
    writer.add_add_bos_token(False)

    rng = np.random.default_rng(seed)

    def add_matrix(name: str, rows: int, columns: int) -> None:
        numbers = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(numbers, matrices), raw_dtype=matrices)

    def ones(length: int) -> np.ndarray:
        return (1 + 0.1 * rng.standard_normal(length)).astype(np.float32)

    add_matrix("token_embd.weight", len(vocabulary), sizes.width)
    writer.add_tensor("output_norm.weight", ones(sizes.width))
    for layer in range(sizes.layers):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones(sizes.width))
        add_matrix(f"blk.{layer}.attn_q.weight", heads * head, sizes.width)
        add_matrix(f"blk.{layer}.attn_k.weight", kv_heads * head, sizes.width)
        add_matrix(f"blk.{layer}.attn_v.weight", kv_heads * head, sizes.width)
        add_matrix(f"blk.{layer}.attn_output.weight", sizes.width, heads * head)
        writer.add_tensor(f"blk.{layer}.attn_q_norm.weight", ones(head))
        writer.add_tensor(f"blk.{layer}.attn_k_norm.weight", ones(head))
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones(sizes.width))
        add_matrix(f"blk.{layer}.ffn_gate.weight", feed_forward, sizes.width)
        add_matrix(f"blk.{layer}.ffn_up.weight", feed_forward, sizes.width)
        add_matrix(f"blk.{layer}.ffn_down.weight", sizes.width, feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
