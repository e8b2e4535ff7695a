"""A form, converted and compared with its reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFReader

from edgeembed.engine.canary import cosine
from edgeembed.engine.interface import Pair
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed_convert import Conversion
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.form import Form
from tests.convert.zoo.rows import file_digests, read_digests, read_rows


@dataclass(frozen=True)
class Comparison:
    """A converted form against its reference."""

    conversion: Conversion
    other_ids: list[str]
    """The texts or pairs whose token ids are not those of the reference."""
    least_cosine: float
    """Over the texts of an embedder; 1 for other models."""
    largest_difference: float
    """Over the scores of a reranker, or the logits of a classifier; 0 for an embedder."""


def convert_form(form: Form, checkpoint: Path, quantization: str = "F32") -> Conversion:
    """Convert a form's checkpoint, without canary rows, to a file next to it."""
    target = checkpoint.parent / f"{form.name}-{quantization}.gguf"
    return convert_checkpoint(checkpoint, target, quantization=quantization, **form.options)


def compare(form: Form, folder: Path, quantization: str = "F32") -> Comparison:
    """Make a form in `folder`, convert it, and compare its ids and rows with the reference."""
    checkpoint = form.make(folder / "checkpoint")
    references = read_rows(form.name, checkpoint)
    conversion = convert_form(form, checkpoint, quantization)
    inputs = form.inputs
    options = WorkerOptions(
        path=str(conversion.path),
        threads=2,
        context_tokens=form.context,
        batch_tokens=128,
        mode="cpu",
        extra_buffers=True,
        task=form.task,
    )
    # A pair's ids from the second text on are those of the copy of the vocabulary that has the other token type.
    second = GGUFReader(conversion.path).fields.get("edgeembed.rerank.second_segment")
    other_ids, cosines, differences = [], [1.0], [0.0]
    model = LlamaModel(options)
    try:
        for reference in references:
            given = inputs[reference.kind]
            if isinstance(given, tuple):
                ids = model.tokenize_pair(Pair(*given))
                plain = ids % second.contents() if second else ids
            else:
                plain = ids = model.tokenize(given)
            if plain.tolist() != reference.ids:
                other_ids.append(reference.kind)
                continue
            row = model.embed([ids])[0]
            if form.task == "rerank":
                differences.append(abs(float(row[0]) - float(reference.value)))
            elif form.task == "classify":
                differences.append(float(np.abs(row - reference.value).max()))
            else:
                assert np.isfinite(row).all()
                cosines.append(cosine(row, reference.value))
    finally:
        model.close()
    return Comparison(conversion, other_ids, min(cosines), max(differences))


def tensors_unlike_llama_cpp(form: Form, folder: Path) -> dict[str, str] | None:
    """Return how the tensors at F16 differ from those of llama.cpp's converter; None if it does not know the form."""
    theirs = read_digests(form.name)
    if not theirs:
        return None
    ours = file_digests(convert_form(form, form.make(folder / "checkpoint"), "F16").path)
    return {
        name: "missing" if name not in ours else "extra" if name not in theirs else "other bytes"
        for name in sorted(ours | theirs)
        if ours.get(name) != theirs.get(name)
    }
