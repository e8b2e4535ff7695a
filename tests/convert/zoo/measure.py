"""A form, converted and compared with its reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from gguf import GGUFReader

from edgeembed.engine.canary import cosine
from edgeembed.engine.interface import Float32Matrix, Output, Pair, Prompted, Role
from edgeembed.engine.late_interaction import max_sim
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.outputs import ordered, unpack
from edgeembed.engine.worker.reader import TextReader
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed_convert import Conversion
from tests.convert.encoder_texts import TEXTS
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.form import Form
from tests.convert.zoo.rows import Outputs, file_digests, read_digests, read_outputs, read_rows


@dataclass(frozen=True)
class Comparison:
    """A converted form against its reference."""

    conversion: Conversion
    other_ids: list[str]
    """The texts or pairs whose token ids are not those of the reference."""
    least_cosine: float
    """Over the texts of an embedder, or all their vectors; 1 for other models."""
    largest_difference: float
    """Over the scores of a reranker, the logits of a classifier, the sparse weights, or the mean scores by MaxSim; otherwise
    0."""


def convert_form(form: Form, checkpoint: Path, quantization: str = "F32") -> Conversion:
    """Convert a form's checkpoint, without canary rows, to a file next to it."""
    target = checkpoint.parent / f"{form.name}-{quantization}.gguf"
    return convert_checkpoint(checkpoint, target, quantization=quantization, **form.options)


def compare(form: Form, folder: Path, quantization: str = "F32") -> Comparison:
    """Make a form in `folder`, convert it, and compare its ids and rows with the reference."""
    checkpoint = form.make(folder / "checkpoint")
    if form.outputs != ("dense",):
        return _compare_outputs(form, checkpoint, quantization)
    references = read_rows(form.name, checkpoint)
    conversion = convert_form(form, checkpoint, quantization)
    inputs = form.inputs
    options = _options(form, conversion.path)
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


def _options(form: Form, file: Path) -> WorkerOptions:
    return WorkerOptions(
        path=str(file),
        threads=2,
        context_tokens=form.context,
        batch_tokens=128,
        mode="cpu",
        extra_buffers=True,
        task=form.task,
    )


def _compare_outputs(form: Form, checkpoint: Path, quantization: str) -> Comparison:
    """Convert a form of several outputs and compare them, computed alone and in one batch with other texts."""
    references = read_outputs(form.name, checkpoint, form.outputs)
    conversion = convert_form(form, checkpoint, quantization)
    model = LlamaModel(_options(form, conversion.path))
    reader = TextReader(model, context_tokens=form.context, vocabulary=model.vocabulary.size)
    wanted = ordered(cast(tuple[Output, ...], form.outputs))
    found, other_ids, worst = [], [], Worst()
    try:
        context = model.new_states_context()
        texts = [Prompted("", TEXTS[reference.kind], role=cast(Role, reference.role)) for reference in references]
        readings = [reader.read_within(text) for text in texts]
        for together in (context.compute_states(readings), [context.compute_states([one])[0] for one in readings]):
            rows = [
                unpack(model.packed_row(states, reading, wanted, text.role), wanted)
                for states, reading, text in zip(together, readings, texts, strict=True)
            ]
            found.append(rows)
        context.close()
    finally:
        model.close()
    for number, (reference, reading) in enumerate(zip(references, readings, strict=True)):
        if reading.tokens.tolist() != reference.ids:
            other_ids.append(f"{reference.kind} {reference.role}".strip())
            continue
        for rows in found:
            worst.add(rows[number], reference.values)
    if "multi" in form.outputs:
        for rows in found:
            worst.add_scores([row["multi"] for row in rows], references)
    return Comparison(conversion, other_ids, worst.cosine, worst.difference)


@dataclass
class Worst:
    """The least cosine of vectors, and the largest difference of sparse weights and of scores by MaxSim, their mean."""

    cosine: float = 1.0
    difference: float = 0.0

    def add(self, ours: Mapping[Any, Float32Matrix], theirs: Mapping[str, Float32Matrix]) -> None:
        """Compare the outputs of a text."""
        for output, expected in theirs.items():
            if output == "sparse":
                one, other = ({int(word): float(weight) for word, weight in rows} for rows in (ours[output], expected))
                words = one.keys() | other.keys()
                self.difference = max([self.difference, *(abs(one.get(id_, 0) - other.get(id_, 0)) for id_ in words)])
                continue
            assert ours[output].shape == expected.shape
            for row, wanted in zip(ours[output], expected, strict=True):
                self.cosine = min(self.cosine, cosine(row, wanted))

    def add_scores(self, ours: list[Float32Matrix], references: list[Outputs]) -> None:
        """Compare the scores of all documents for a few queries."""
        theirs = [reference.values["multi"] for reference in references]
        documents = [place for place, reference in enumerate(references) if reference.role != "query"]
        queries = [place for place, rows in enumerate(theirs) if references[place].role != "document" and len(rows) <= 48]
        for query in queries:
            scores = [max_sim(rows[query], [rows[place] for place in documents], "mean") for rows in (ours, theirs)]
            self.difference = max(self.difference, float(np.abs(np.subtract(*scores)).max()))


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
