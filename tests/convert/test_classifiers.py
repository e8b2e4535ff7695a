"""Classifiers: what the files say of their classes, for each way in which a checkpoint says it."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from edgeembed.engine.classes import FUNCTION_KEY, LABELS_KEY, Classes
from edgeembed.engine.execution_modes import CPU_PLAIN
from edgeembed.engine.interface import BULK, Pair, Text
from edgeembed.engine.supervisor.fallback_policy import FallbackPolicy
from edgeembed.engine.supervisor.worker_engine import WorkerEngine
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import ConversionError, EngineUnavailableError, HubError
from edgeembed.hub.facts import facts_of
from edgeembed.hub.gguf.check import check_gguf
from edgeembed_convert import ConversionOptions
from edgeembed_convert import convert_checkpoint as convert_with_proof
from tests.convert.tiny_bert import edit_json
from tests.convert.tiny_encoders import make_tiny_cross_encoder
from tests.convert.tiny_qwen3_checkpoint import make_qwen3_checkpoint
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.classifiers import make_classifier
from tests.hub.gguf.parts import STRING, read, write

pytestmark = pytest.mark.model

LABELS = ("no", "maybe", "yes")
SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"


def checkpoint(folder: Path, labels: tuple[str, ...] | None = LABELS, **config: Any) -> Path:
    return make_classifier(folder / "tiny", make_tiny_cross_encoder, "classifier", labels, **config)


def classes_of(file: Path) -> Classes | None:
    return facts_of(check_gguf(file), file).own_classes


@pytest.mark.parametrize(
    ("labels", "config", "task", "expected"),
    [
        (LABELS, {}, None, Classes(LABELS, "softmax", pairs=True)),
        (LABELS, {"problem_type": "single_label_classification"}, "classify", Classes(LABELS, "softmax", pairs=True)),
        (LABELS, {"problem_type": "multi_label_classification"}, None, Classes(LABELS, "sigmoid", pairs=True)),
        (LABELS, {"problem_type": "regression"}, None, Classes(LABELS, "identity", pairs=True)),
        (None, {}, None, Classes(("LABEL_0", "LABEL_1"), "softmax", pairs=True)),
        (("good",), {}, "classify", Classes(("good",), "sigmoid", pairs=True)),
        (("good",), {"problem_type": "regression"}, "classify", Classes(("good",), "identity", pairs=True)),
        (("good",), {"sbert_ce_default_activation_function": IDENTITY}, "classify",
         Classes(("good",), "identity", pairs=True)),
        (("good",), {"problem_type": "regression", "sbert_ce_default_activation_function": SIGMOID}, "classify",
         Classes(("good",), "sigmoid", pairs=True)),
        (("good",), {}, None, None),
        (("good",), {}, "rerank", None),
    ],
)  # fmt: skip
def test_classes(
    tmp_path: Path, labels: tuple[str, ...] | None, config: dict[str, Any], task: Any, expected: Classes | None
) -> None:
    result = convert_checkpoint(checkpoint(tmp_path, labels, **config), tmp_path / "tiny.gguf", task=task)
    assert classes_of(result.path) == expected
    names = GGUFReader(result.path).fields["bert.classifier.output_labels"].contents()
    assert tuple(names) == (labels or ("LABEL_0", "LABEL_1"))


def test_labels_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    edit_json(folder / "config.json", id2label={"2": "c", "0": "a", "1": "b"})
    found = classes_of(convert_checkpoint(folder, tmp_path / "tiny.gguf").path)
    assert found is not None and found.labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("config", "task", "words"),
    [
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, None, "a name for each of the numbers"),
        ({"id2label": {"0": "a", "1": "b"}}, None, r"requires \[2, 64\]"),
        ({"problem_type": "ranking"}, None, "problem_type = 'ranking'"),
        ({}, "rerank", "a reranker must have one"),
        ({}, "embed", "for the task classify"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, config: dict[str, Any], task: Any, words: str) -> None:
    folder = checkpoint(tmp_path)
    edit_json(folder / "config.json", **config)
    with pytest.raises(ConversionError, match=words):
        convert_checkpoint(folder, tmp_path / "tiny.gguf", task=task)
    assert not (tmp_path / "tiny.gguf").exists()


def test_a_tokenizer_without_pairs_classifies_single_texts(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    edit_json(
        folder / "tokenizer.json",
        post_processor={
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2]}, "[SEP]": {"id": "[SEP]", "ids": [3]}},
        },
    )
    assert classes_of(convert_checkpoint(folder, tmp_path / "tiny.gguf").path) == Classes(LABELS, "softmax")


@pytest.mark.parametrize(("pads", "added"), [(True, False), (False, True)])
def test_an_end_token_that_is_also_for_padding_is_not_what_is_classified(tmp_path: Path, pads: bool, added: bool) -> None:
    """transformers takes the last token that is not for padding."""
    folder = make_qwen3_checkpoint(tmp_path / "tiny", kind="classify")
    embedder = make_qwen3_checkpoint(tmp_path / "embedder")
    (folder / "tokenizer.json").write_bytes((embedder / "tokenizer.json").read_bytes())  # it adds an end token
    end = json.loads((folder / "config.json").read_text(encoding="utf-8"))["pad_token_id"]
    edit_json(folder / "config.json", pad_token_id=end if pads else None)
    fields = GGUFReader(convert_checkpoint(folder, tmp_path / "tiny.gguf", task="classify").path).fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == end
    assert fields["tokenizer.ggml.add_eos_token"].contents() is added


async def test_a_worker_checks_the_logits_of_the_canary_texts(tmp_path: Path) -> None:
    """And computes texts and pairs alone as in a batch; for another task it refuses the file."""
    options = ConversionOptions(quantization="F32")
    result = await asyncio.to_thread(convert_with_proof, checkpoint(tmp_path), tmp_path / "tiny.gguf", options)

    def engine(task: Any) -> WorkerEngine:
        made = partial(
            WorkerOptions, path=str(result.path), threads=2, context_tokens=512, batch_tokens=512, extra_buffers=False
        )
        return WorkerEngine(lambda mode: made(mode=mode.name, task=task), FallbackPolicy((CPU_PLAIN,)))

    worker = engine("classify")
    try:
        await worker.start()
        assert worker.info is not None
        assert (worker.info.dimensions, worker.info.task) == (3, "classify")
        assert len(worker.info.canary_cosines) == 5 and worker.info.reference is not None
        texts: list[Text] = ["I like it", Pair("It rains.", "It is wet."), "a longer text about something else"]
        together = [row.vector for row in await asyncio.gather(*worker.submit(texts, BULK))]
        alone = [(await worker.submit([text], BULK)[0]).vector for text in texts]
        assert np.allclose(together, alone, atol=1e-3)
    finally:
        await worker.close()
    for task in ("embed", "rerank"):
        other = engine(task)
        try:
            with pytest.raises(EngineUnavailableError, match="is a classifier"):
                await other.start()
        finally:
            await other.close()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (LABELS_KEY, b"[1, 2, 3]", "not a list of names"),
        (LABELS_KEY, b'["a", "b"]', "has 2 names; the file computes 3"),
        (LABELS_KEY, b"[]", "has 0 names"),
        (LABELS_KEY, b"{", "not a list of names"),
        (LABELS_KEY, b'["' + b"a" * 300_000 + b'", "b", "c"]', "300014 characters"),
        (FUNCTION_KEY, b"argmax", "is 'argmax'; expected one of softmax"),
    ],
)
def test_damaged_metadata_is_refused(tmp_path: Path, key: str, value: bytes, words: str) -> None:
    file = read(convert_checkpoint(checkpoint(tmp_path), tmp_path / "tiny.gguf").path.read_bytes())
    file.put(key, STRING, value)
    (tmp_path / "x.gguf").write_bytes(write(file))
    with pytest.raises(HubError, match=words):
        check_gguf(tmp_path / "x.gguf")
