"""Tokens that expand a query: no token attends to them, in every mode and in batches of any texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeembed.engine.interface import Float32Matrix, Limits, Prompted, Role, Side
from edgeembed.engine.llama.expansion_mask import ExpansionMask
from edgeembed.engine.llama.library import ComputeError, ModelLoadError
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.reading import Reading
from edgeembed.engine.worker.reader import TextReader
from edgeembed.engine.worker_options import WorkerOptions
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.late_interaction import make_bert, make_modern_bert

pytestmark = pytest.mark.model

TEXTS = ("a", "What is the capital of China?", "The river rises in the hills. " * 12, "river")
MAKERS = {"bert": make_bert, "modern_bert": make_modern_bert}


@pytest.fixture(scope="module", params=MAKERS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colbert")
    return convert_checkpoint(MAKERS[request.param](folder / "tiny"), folder / "tiny.gguf", quantization="F32").path


@contextmanager
def loaded(file: Path, **changes: Any) -> Iterator[LlamaModel]:
    options = {"threads": 2, "context_tokens": 512, "batch_tokens": 512, "mode": "cpu", "extra_buffers": True}
    model = LlamaModel(WorkerOptions(path=str(file), **(options | changes)))
    try:
        yield model
    finally:
        model.close()


def read(model: LlamaModel, text: str, role: Role) -> Reading:
    reader = TextReader(model, context_tokens=512, vocabulary=model.vocabulary.size)
    return reader.read_within(Prompted("", text, role=role))


def alike(one: Float32Matrix, other: Float32Matrix) -> bool:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return bool((np.einsum("ij,ij->i", one, other) / lengths > 0.9999).all())


@pytest.mark.parametrize("kernels", [True, False])
def test_a_querys_own_tokens_are_computed_as_without_those_that_expand_it(file: Path, kernels: bool) -> None:
    with loaded(file, extra_buffers=kernels) as model:
        context = model.new_states_context()
        try:
            filled = [read(model, text, "query") for text in TEXTS]
            assert [bool(text.unattended) for text in filled] == [True, True, False, True]
            documents = [read(model, text, "document") for text in TEXTS]
            mixed = [text for pair in zip(filled, documents, strict=True) for text in pair]
            alone = [context.compute_states([text])[0] for text in mixed]
            for _ in range(2):  # the second pass may use the graph of the first one
                assert all(map(alike, alone, context.compute_states(mixed)))
            for text, states in zip(filled, alone[::2], strict=True):
                own = len(text.tokens) - text.unattended
                assert alike(states[:own], context.compute_states([Reading(text.tokens[:own])])[0])
            # As ordinary tokens they would change the others.
            plain = context.compute_states([Reading(filled[1].tokens)])[0]
            assert not alike(alone[2], plain)
        finally:
            context.close()


@pytest.mark.parametrize("side", ["end", "start"])
def test_a_cut_text_keeps_its_marker_and_tokens_that_fill_a_query_count_for_no_limit(file: Path, side: Side) -> None:
    with loaded(file) as model:
        reader = TextReader(model, context_tokens=512, vocabulary=model.vocabulary.size)
        whole, cut = (
            reader.read_within(Prompted("", TEXTS[2], role="document", limits=limits)) for limits in (None, Limits(20, side))
        )
        assert len(cut.tokens) == 20
        assert cut.tokens[:2].tolist() == whole.tokens[:2].tolist()
        assert cut.tokens[-1] == whole.tokens[-1]
        query = reader.read_within(Prompted("", "a", role="query", limits=Limits(5)))
        assert query.unattended == len(query.tokens) - 4 > 0
        ids = np.array([7, 8], dtype=np.int32)
        given = reader.read_within(Prompted("", "", role="document", ids=ids.tobytes()))
        assert given.tokens.tolist() == [*whole.tokens[:2], 7, 8, whole.tokens[-1]]


def test_a_pass_whose_layers_did_not_all_take_the_mask_fails(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(file) as model:
        context = model.new_states_context()
        try:
            assert isinstance(context._change, ExpansionMask)
            monkeypatch.setattr(context._change, "_layers", 9)
            with pytest.raises(ComputeError, match="of 9 layers"):
                context.compute_states([read(model, "a", "query")])
            context.compute_states([read(model, "a", "document")])  # nothing to hide
        finally:
            context.close()


def test_a_model_whose_tokenizer_puts_nothing_before_a_text_has_no_place_for_a_marker(tmp_path: Path) -> None:
    file = convert_checkpoint(make_modern_bert(tmp_path / "tiny"), tmp_path / "tiny.gguf", quantization="F32").path
    keys = dict.fromkeys([f"tokenizer.ggml.add_{token}_token" for token in ("bos", "sep", "eos")], False)
    with pytest.raises(ModelLoadError, match="no token before a text"), loaded(file, metadata=keys):
        pass
