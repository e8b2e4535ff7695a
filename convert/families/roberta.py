"""RoBERTa embedding models: all-distilroberta-v1, granite-embedding R1, sentence-camembert and similar ones.

Architecture: Liu et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach", 2019: BERT's encoder with a byte-level
BPE vocabulary, and with positions counted from pad_token_id + 1. CamemBERT (Martin et al., 2020) is the same with a Unigram
vocabulary, as XLM-RoBERTa is.
"""

from __future__ import annotations

from gguf import Keys

from edgeembed.errors import ConversionError
from edgeembed_convert.bpe import BytePairs, read_byte_bpe
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan
from edgeembed_convert.families.bert_encoder import (
    ARCHITECTURE,
    encoder_metadata,
    encoder_tensors,
    read_shape_after_padding,
)
from edgeembed_convert.families.stored import StoredTensors
from edgeembed_convert.families.xlm_roberta import place_xlm_roberta
from edgeembed_convert.metadata import Metadata
from edgeembed_convert.tokenizer_json import model_type
from edgeembed_convert.unigram import Unigram, read_unigram


class Roberta:
    """The RoBERTa family."""

    architectures = ("RobertaModel", "RobertaForMaskedLM", "CamembertModel", "CamembertForMaskedLM")
    model_types = ("roberta", "camembert")
    followed_code = ()

    def plan(self, checkpoint: Checkpoint) -> ModelPlan:
        """Validate a RoBERTa checkpoint and return the plan of its GGUF file. Raises ConversionError."""
        shape = read_shape_after_padding(checkpoint)
        pooling = checkpoint.pooling(shape.hidden)
        tokenizer = read_roberta_tokenizer(checkpoint, shape.vocabulary)
        metadata = encoder_metadata(shape, pooling, tokenizer) | frame_metadata(tokenizer)
        stored = StoredTensors(checkpoint, place_xlm_roberta, "RoBERTa encoder")
        tensors = list(encoder_tensors(stored, shape))
        stored.check_all_placed()
        return ModelPlan(ARCHITECTURE, shape.hidden, pooling, metadata, tensors)


def read_roberta_tokenizer(checkpoint: Checkpoint, vocabulary: int) -> BytePairs | Unigram:
    """Return the tokenizer: RoBERTa's byte-level BPE, or CamemBERT's Unigram. Raises ConversionError."""
    if model_type(checkpoint.model_folder) == "Unigram":
        return read_unigram(checkpoint.model_folder, vocabulary)
    tokenizer = read_byte_bpe(checkpoint.model_folder, checkpoint.config, vocabulary)
    if not tokenizer.adds_bos or not tokenizer.adds_eos:
        raise ConversionError(f"{tokenizer.file}: the post-processor must add a special token before and after a text")
    return tokenizer


def frame_metadata(tokenizer: BytePairs | Unigram) -> Metadata:
    """Return the keys by which llama.cpp's own converter marks RoBERTa's vocabulary; none for Unigram."""
    if isinstance(tokenizer, Unigram):
        return {}
    keys: Metadata = {
        # llama.cpp uses bos and eos; the checkpoint calls them cls and sep.
        "tokenizer.ggml.cls_token_id": tokenizer.special["bos"],
        Keys.Tokenizer.SEP_ID: tokenizer.special["eos"],
        Keys.Tokenizer.ADD_SEP: True,
    }
    if tokenizer.pre_tokenizer == "gpt-2":  # the same pattern under the name of this family
        keys[Keys.Tokenizer.PRE] = "roberta-bpe"
    return keys
