"""What a converted file does in another way than its checkpoint in sentence-transformers, in sentences for people.

Nothing here makes a vector wrong: such things are refused (`ignored`). Conversion prints the sentences and stores them in
the file, and `edgeembed show` prints them.
"""

from __future__ import annotations

from collections.abc import Iterator

from gguf import Keys

from edgeembed.engine.dense import COUNT_KEY
from edgeembed.engine.stand_ins import computed_as
from edgeembed_convert.checkpoint import Checkpoint
from edgeembed_convert.families.base import ModelPlan
from edgeembed_convert.jsonfile import read_json
from edgeembed_convert.prompts import CONFIG_FILE, notes_on_prompts

NOTES_KEY = "edgeembed.converter.notes"
"""One sentence a line."""


# Families of which files with 4 bits were measured to be bad.
_LOSES_AT_4_BITS = {
    "eurobert": "4 bits are too few for this family: with jina-embeddings-v5-text-nano, texts were seen whose vectors have "
    "a cosine of 0.30 to the original's. Q8_0 and Q6_K keep more"
}


def notes_on(checkpoint: Checkpoint, plan: ModelPlan, quantization: str) -> list[str]:
    """Return the sentences for a checkpoint and a type. Raises ConversionError for malformed settings."""
    losses = [_LOSES_AT_4_BITS[plan.architecture]] if _has_4_bits(quantization, plan.architecture) else []
    if plan.pooling == "rank":
        return [*losses, *_length(checkpoint, plan)]
    return [
        *losses,
        *_length(checkpoint, plan),
        *_window(checkpoint, plan),
        *(_similarity(checkpoint) if plan.pooling != "none" else ()),
        *_late(checkpoint),
        *_sparse(checkpoint),
        *_dense(plan),
        *_images(checkpoint),
        *notes_on_prompts(checkpoint.folder),
    ]


def _images(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.config.get("vision_config"):
        yield "the part of the model for images and videos is left out: the file embeds texts only"


def _has_4_bits(quantization: str, architecture: str) -> bool:
    return architecture in _LOSES_AT_4_BITS and quantization.startswith(("Q4", "IQ4"))


def shorter_length(checkpoint: Checkpoint, plan: ModelPlan) -> int | None:
    """Return the length in tokens at which sentence-transformers cuts texts; None if the model takes no longer ones."""
    used, most = checkpoint.max_seq_length, _context(plan)
    return used if used is not None and used < most else None


def _context(plan: ModelPlan) -> int:
    """Return the longest text in tokens."""
    most = plan.metadata[Keys.LLM.CONTEXT_LENGTH.format(arch=computed_as(plan.architecture))]
    assert isinstance(most, int)
    return most


def _length(checkpoint: Checkpoint, plan: ModelPlan) -> Iterator[str]:
    if used := shorter_length(checkpoint, plan):
        most = _context(plan)
        yield (
            f"its makers use the model for texts of up to {used} tokens (max_seq_length), which is the limit here, too; the "
            f"setting context_tokens allows up to {most}, whose vectors may be worse"
        )


def _window(checkpoint: Checkpoint, plan: ModelPlan) -> Iterator[str]:
    window, most = checkpoint.config.get("sliding_window"), _context(plan)
    trained = checkpoint.config.get("max_position_embeddings")
    if isinstance(trained, int) and isinstance(window, int) and window == most and trained > window:
        yield (
            f"it takes texts of up to {window} tokens, not {trained}: in longer ones a token of this model attends only to "
            f"the nearest {window} (sliding_window), which llama.cpp's graph does not compute"
        )


def _similarity(checkpoint: Checkpoint) -> Iterator[str]:
    normalizes = any(kind == "Normalize" for kind, _ in checkpoint.modules or [])
    if checkpoint.similarity != "cosine" and not normalizes:
        yield (
            f"its vectors are compared by similarity_fn_name = {checkpoint.similarity!r}, for which their length counts; "
            "edgeembed returns vectors of length 1, so results may come in another order"
        )


def _late(checkpoint: Checkpoint) -> Iterator[str]:
    if (late := checkpoint.late) is None:
        return
    if late.cuts:
        yield f"its makers' library cuts queries at {late.query_length} tokens; here they are read to their end"
    yield "the vectors of tokens are computed by edgeembed; llama.cpp's own programs return the encoder's states"


def _sparse(checkpoint: Checkpoint) -> Iterator[str]:
    file = checkpoint.folder / CONFIG_FILE
    most = read_json(file).get("max_active_dims") if checkpoint.is_splade and file.is_file() else None
    if most is not None:
        yield (
            f"sentence-transformers keeps the {most} largest weights of a text (max_active_dims); edgeembed returns all, "
            "unless a request has sparse_top_k"
        )


def _dense(plan: ModelPlan) -> Iterator[str]:
    if COUNT_KEY in plan.metadata:
        yield (
            "edgeembed itself computes the Dense layers behind the pooling, from metadata in the file; llama.cpp's own "
            "programs do not, and return other vectors"
        )
