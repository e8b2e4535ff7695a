"""nomic-bert encoders: nomic-embed-text-v1 and v1.5; for v2 see `nomic_moe`.

Architecture: Nussbaum et al., "Nomic Embed: Training a Reproducible Long Context Text Embedder", 2024: BERT with rotary
positions instead of a table, SwiGLU, and biases only in the layer norms. Tensor names and the keys of config.json are those
of the checkpoint's own code (contrastors' NomicBertModel), which transformers 5 also reads; llama.cpp's for `nomic-bert` in
the GGUF file.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan, PlannedTensor
from edgeembed_convert.families.nomic_encoder import FIXED, encoder_metadata, place
from edgeembed_convert.families.nomic_moe import plan_moe
from edgeembed_convert.families.settings import check_fixed
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.tokenizer import read_wordpiece
from edgeembed_convert.tokenizer_json import count_pieces
from edgeembed_convert.views import row_range

_ARCHITECTURE = "nomic-bert"
# The only values that the graph supports, besides those of all.
_FIXED = {
    **FIXED,
    "activation_function": "swiglu",
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "moe_every_n_layers": 0,
    "qkv_proj_bias": False,
    "use_rms_norm": False,
}


class NomicBert:
    """The nomic-bert family."""

    architectures = ("NomicBertModel",)
    model_types = ("nomic_bert",)
    followed_code = (
        "modeling_hf_nomic_bert.NomicBertModel",
        "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel",
    )

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a nomic-bert checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        if checkpoint.config.get("moe_every_n_layers"):
            return plan_moe(checkpoint)
        check_fixed(checkpoint, _FIXED, "nomic-bert")
        hidden = checkpoint.positive_int("n_embd")
        rows = checkpoint.positive_int("vocab_size")
        vocabulary = count_pieces(checkpoint.model_folder, rows)
        pooling = checkpoint.pooling(hidden)
        tokenizer = read_wordpiece(checkpoint.model_folder, vocabulary, lowercases_input=checkpoint.lowercases_input)
        stored = StoredTensors(checkpoint, place, "nomic-bert encoder")
        tensors = list(_tensors(stored, checkpoint, rows, vocabulary))
        stored.check_all_placed()
        metadata = encoder_metadata(checkpoint, _ARCHITECTURE, pooling, tokenizer)
        return ModelPlan(_ARCHITECTURE, hidden, pooling, metadata, tensors)


def _tensors(stored: StoredTensors, checkpoint: Checkpoint, rows: int, vocabulary: int) -> Iterator[PlannedTensor]:
    """Yield the tensors in the order of the computation."""
    hidden = checkpoint.positive_int("n_embd")
    feed_forward = checkpoint.positive_int("n_inner")
    types = checkpoint.positive_int("type_vocab_size")
    words = stored.take("embeddings.word_embeddings.weight", rows, hidden)
    # The padding rows have no piece.
    yield PlannedTensor("token_embd.weight", row_range(words, 0, vocabulary))
    yield stored.place("embeddings.token_type_embeddings.weight", "token_types.weight", types, hidden, keep_f32=True)
    for end in ("weight", "bias"):
        yield stored.place(f"emb_ln.{end}", f"token_embd_norm.{end}", hidden)
    for layer in range(checkpoint.positive_int("n_layer")):
        source, target = f"encoder.layers.{layer}", f"blk.{layer}"
        yield stored.place(f"{source}.attn.Wqkv.weight", f"{target}.attn_qkv.weight", 3 * hidden, hidden)
        yield stored.place(f"{source}.attn.out_proj.weight", f"{target}.attn_output.weight", hidden, hidden)
        for end in ("weight", "bias"):
            yield stored.place(f"{source}.norm1.{end}", f"{target}.attn_output_norm.{end}", hidden)
        yield stored.place(f"{source}.mlp.fc11.weight", f"{target}.ffn_up.weight", feed_forward, hidden)
        yield stored.place(f"{source}.mlp.fc12.weight", f"{target}.ffn_gate.weight", feed_forward, hidden)
        yield stored.place(f"{source}.mlp.fc2.weight", f"{target}.ffn_down.weight", hidden, feed_forward)
        for end in ("weight", "bias"):
            yield stored.place(f"{source}.norm2.{end}", f"{target}.layer_output_norm.{end}", hidden)
