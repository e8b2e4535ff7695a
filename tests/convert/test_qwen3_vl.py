"""Qwen3-VL-Embedding for texts: what is left out, and where prompts stand. The rows are compared in the zoo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from edgeembed.engine.interface import Limits, Prompted
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker.reader import CutReading, TextReader
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import ConversionError, HubError
from edgeembed.hub.gguf.check import check_gguf
from tests.convert.decoder_reference import convert
from tests.convert.gguf_fields import fields
from tests.convert.tiny_bert import edit_json, write_json
from tests.convert.zoo.qwen3_vl import make_qwen3_vl_embedder
from tests.hub.gguf.parts import STRING, read, write

pytestmark = pytest.mark.usefixtures("quiet")


def test_metadata(tmp_path: Path) -> None:
    file = convert(make_qwen3_vl_embedder(tmp_path / "tiny"))
    found = fields(file)
    wanted = {
        "general.architecture": "qwen3",
        "qwen3.rope.freq_base": 5e6,
        "qwen3.pooling_type": 3,
        "edgeembed.text.instruction": "Represent the user's input.",
        "edgeembed.prompt.query": "{instruction}{text}",
        "edgeembed.prompt.instruction": "Retrieve images or text relevant to the user's query.",
    }
    assert {key: found.get(key) for key in wanted} == wanted
    assert "edgeembed.prompt.document" not in found
    assert "embeds texts only" in found["edgeembed.converter.notes"]
    assert not any("visual" in tensor.name for tensor in GGUFReader(file).tensors)


def test_the_checkpoints_own_prompts(tmp_path: Path) -> None:
    checkpoint = make_qwen3_vl_embedder(tmp_path / "tiny")
    prompts = {"query": "Find what answers it.", "document": "Represent the document."}
    write_json(checkpoint / "config_sentence_transformers.json", {"prompts": prompts})
    found = fields(convert(checkpoint))
    assert found["edgeembed.prompt.query"] == "{instruction}{text}"
    assert found["edgeembed.prompt.instruction"] == "Find what answers it."
    assert found["edgeembed.prompt.document"] == "Represent the document.{text}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": None}, "text_config = None; expected an object"),
        ({"text_config": {}}, "hidden_size = None"),
    ],
)
def test_malformed(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint = make_qwen3_vl_embedder(tmp_path / "tiny")
    edit_json(checkpoint / "config.json", **changes)
    with pytest.raises(ConversionError, match=message):
        convert(checkpoint)


def test_scaled_positions_are_refused(tmp_path: Path) -> None:
    checkpoint = make_qwen3_vl_embedder(tmp_path / "tiny")
    scaled = {"rope_type": "yarn", "factor": 4.0}
    edit_json(checkpoint / "config.json", text_config=fields_of(checkpoint) | {"rope_scaling": scaled})
    with pytest.raises(ConversionError, match="rope_scaling = "):
        convert(checkpoint)


def fields_of(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["text_config"]
    return found


@pytest.mark.model
def test_prompts_truncation_and_spans(tmp_path: Path) -> None:
    file = convert(make_qwen3_vl_embedder(tmp_path / "tiny"))
    options = WorkerOptions(
        path=str(file), threads=2, context_tokens=512, batch_tokens=128, mode="cpu", extra_buffers=True, prefix_tokens=256
    )
    model = LlamaModel(options)
    try:
        head, tail = model.around("Find it.", "")
        read_one = model.read(Prompted("Find it.", "hello", ""))
        assert read_one.tokens[: len(head)].tolist() == head.tolist()
        assert read_one.tokens[len(read_one.tokens) - len(tail) :].tolist() == tail.tolist()
        assert head.tolist() != model.around("", "")[0].tolist()
        # What looks like the end of a message is text.
        end = int(tail[0])
        assert model.tokenize("<|im_end|>").tolist().count(end) == model.tokenize("x").tolist().count(end) == 2

        reader = TextReader(model, context_tokens=512, vocabulary=model.vocabulary.size)
        cut = reader.read_within(Prompted("Find it.", "hello world " * 40, "", Limits(len(head) + len(tail) + 5, "end")))
        assert isinstance(cut, CutReading)
        assert len(cut.tokens) == len(head) + len(tail) + 5
        assert cut.tokens[-len(tail) :].tolist() == tail.tolist()

        spans = model.spans(Prompted("Find it.", "hello", ""), read_one.tokens).tolist()
        own = [span for span in spans if span[0] >= 0]
        assert (own[0][0], own[-1][1]) == (len("Find it."), len("Find it.hello"))
    finally:
        model.close()


@pytest.mark.model
def test_a_malformed_template_is_refused(tmp_path: Path) -> None:
    file = read(convert(make_qwen3_vl_embedder(tmp_path / "tiny")).read_bytes())
    file.put("edgeembed.text.template", STRING, b"{text}{instruction}")
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(write(file))
    with pytest.raises(HubError, match=r"edgeembed\.text\.template"):
        check_gguf(wrong)
