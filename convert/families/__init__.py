"""The model families that can be converted.

How to add a family whose architecture llama.cpp computes:

1.  Write `families/NAME.py` with one class that implements `base.Family`:

    *   `architectures`: the names in config.json's `architectures`, usually those of the plain model and of the model with
        a head; `model_types` for checkpoints that have no `architectures`.
    *   `plan(checkpoint)` reads config.json and the tokenizer, and returns a `base.ModelPlan`. Of the weights it reads
        only the headers, so that every mistake in a checkpoint is found before the work begins.

    `bert.py` is the shortest example of an encoder, `distil_bert.py` of one with names of its own, `qwen3.py` of a decoder.
    The building blocks:

    *   `checkpoint.positive_int`, `checkpoint.pooling`, `checkpoint.prompts`: sizes, pooling and prompts.
    *   `settings`: `check_fixed` rejects what llama.cpp's graph does not support; heads, epsilons, rotary positions.
    *   `stored.StoredTensors`: takes each tensor by name and shape, and rejects checkpoints with tensors left over.
    *   `edgeembed_convert.views`: tensors computed from stored ones (a range of rows, a constant added).
    *   `edgeembed_convert.tokenizer` (WordPiece), `unigram`, `bpe` (byte-level), `sentencepiece`: `metadata()` returns the
        tokenizer's keys.

    Names of tensors and keys are those of llama.cpp's architecture: see its `src/llama-arch.cpp` and the graph in
    `src/models/`. Anything missing, contradictory or not supported there raises ConversionError with the file and the
    reason. Nothing is guessed: a wrong guess changes vectors silently.
2.  Add it to FAMILIES below.
3.  Add a module to the zoo, `tests/convert/zoo/NAME.py`, with a `Form` for each form in which models of the family are
    published: a tiny random checkpoint with the true keys, whose token ids and rows are compared with those of transformers
    or of an implementation in `tests/reference/zoo_models`. `tests/convert/test_NAME.py` has what is particular: malformed
    checkpoints, which must be rejected before anything is written, and keys that a user would miss.
4.  If users should be able to pull the model by name, add it to the catalogue (`models/`).
"""

from __future__ import annotations

from edgeembed.errors import ConversionError
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import Family
from edgeembed_convert.families.bert import Bert
from edgeembed_convert.families.cross_encoder import (
    BertCrossEncoder,
    DistilBertCrossEncoder,
    ElectraCrossEncoder,
    JinaReranker,
    ModernBertCrossEncoder,
    MPNetCrossEncoder,
    RobertaCrossEncoder,
    XlmRobertaCrossEncoder,
)
from edgeembed_convert.families.distil_bert import DistilBert
from edgeembed_convert.families.electra import Electra
from edgeembed_convert.families.eurobert import EuroBert
from edgeembed_convert.families.gemma import Gemma
from edgeembed_convert.families.gte import Gte
from edgeembed_convert.families.jina_bert import JinaBert
from edgeembed_convert.families.jina_v3 import JinaV3
from edgeembed_convert.families.jina_v5 import JinaV5
from edgeembed_convert.families.lfm2 import Lfm2
from edgeembed_convert.families.llama import Llama, Qwen2
from edgeembed_convert.families.modern_bert import ModernBert
from edgeembed_convert.families.mpnet import MPNet
from edgeembed_convert.families.neo_bert import NeoBert
from edgeembed_convert.families.nomic_bert import NomicBert
from edgeembed_convert.families.prompted_reranker import GemmaReranker, Qwen2Reranker
from edgeembed_convert.families.qwen3 import Qwen3
from edgeembed_convert.families.qwen3_vl import Qwen3Vl
from edgeembed_convert.families.roberta import Roberta
from edgeembed_convert.families.t5 import T5Encoder
from edgeembed_convert.families.xlm_roberta import XlmRoberta
from edgeembed_convert.ignored import own_code, refuse_code, refuse_modules

__all__ = ["FAMILIES", "find_family"]

FAMILIES: tuple[Family, ...] = (
    Bert(),
    DistilBert(),
    Electra(),
    Roberta(),
    XlmRoberta(),
    BertCrossEncoder(),
    RobertaCrossEncoder(),
    XlmRobertaCrossEncoder(),
    JinaReranker(),
    ElectraCrossEncoder(),
    DistilBertCrossEncoder(),
    ModernBertCrossEncoder(),
    MPNetCrossEncoder(),
    ModernBert(),
    MPNet(),
    Gte(),
    NomicBert(),
    NeoBert(),
    T5Encoder(),
    JinaBert(),
    JinaV3(),
    JinaV5(),
    Qwen3(),
    Qwen3Vl(),
    Lfm2(),
    EuroBert(),
    Gemma(),
    Llama(),
    Qwen2(),  # for Qwen2ForCausalLM, it asks Qwen2Reranker
    Qwen2Reranker(),
    GemmaReranker(),
)


def find_family(checkpoint: Checkpoint) -> Family:
    """Return the family for config.json's `architectures`, or for `model_type` if that is missing.

    If the model runs its makers' own code (`auto_map`), it is the family that follows this code.
    Raises ConversionError for code that no family follows, or with a list of the supported architectures.
    """
    config, file = checkpoint.config, checkpoint.config_file
    names, model_type = config.get("architectures"), config.get("model_type")
    code = own_code(config, file)
    for family in FAMILIES:
        if names:
            matches = isinstance(names, list) and all(name in family.architectures for name in names)
        else:
            matches = model_type in family.model_types
        if matches and set(code) <= set(family.followed_code):
            refuse_code(config, file, family.followed_code)
            refuse_modules([kind for kind, _ in checkpoint.modules or []], checkpoint.modules_file, family.followed_code)
            return family
    if isinstance(names, list) and any(str(name).startswith("Deberta") for name in names):
        raise ConversionError(
            f"{file}: {names!r}: DeBERTa's attention compares each token with vectors that stand for distances, which no "
            "graph of llama.cpp computes; see docs/converting.md"
        )
    refuse_code(config, file)
    supported = ", ".join(dict.fromkeys(name for family in FAMILIES for name in family.architectures))
    raise ConversionError(
        f"{file}: architectures = {names!r}, model_type = {model_type!r} are not supported;"
        f" supported architectures: {supported}"
    )
