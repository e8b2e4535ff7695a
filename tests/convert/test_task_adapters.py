"""Adapters among the weights, as in jina-embeddings-v3: malformed ones, and what a user would miss. Rows: the zoo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeembed.errors import ConversionError
from tests.convert.gguf_fields import fields
from tests.convert.tiny_bert import edit_json, write_safetensors
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.files import read_safetensors
from tests.convert.zoo.jina_v3 import TASKS, make_own


@pytest.mark.parametrize(
    ("task", "prompt"),
    [
        ("retrieval.query", ("query", "Represent the query for retrieving evidence documents: {text}")),
        ("retrieval.passage", ("document", "Represent the document for retrieval: {text}")),
        ("text-matching", None),
    ],
)
def test_each_task_has_its_own_prompt_and_name(tmp_path: Path, task: str, prompt: tuple[str, str] | None) -> None:
    convert_checkpoint(make_own(tmp_path / "v3"), tmp_path / "v3.gguf", adapter=task)
    found = fields(tmp_path / "v3.gguf")
    assert found["general.name"] == f"v3-{task}"
    prompts = {key: value for key, value in found.items() if key.startswith("edgeembed.prompt.")}
    assert prompts == ({f"edgeembed.prompt.{prompt[0]}": prompt[1]} if prompt else {})
    assert (found["edgeembed.matryoshka.min"], found["edgeembed.matryoshka.max"]) == (32, 64)


def test_without_a_task_the_list_is_shown(tmp_path: Path) -> None:
    checkpoint = make_own(tmp_path / "v3")
    expected = rf"{', '.join(TASKS)}\. Choose one: edgeembed convert \S+v3 --merge-adapter retrieval\.query".replace(
        ".r", r"\.r"
    )
    with pytest.raises(ConversionError, match=expected):
        convert_checkpoint(checkpoint, tmp_path / "v3.gguf")


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "other rank": ({"lora_rank": 8}, r"have the rank 4, not lora_rank 8"),
    "no rank": ({"lora_rank": None}, r"lora_rank = None, lora_alpha = 1; expected numbers"),
    "more tasks": ({"lora_adaptations": [*TASKS, "x"]}, r"has the shape \[5, .*for 6 tasks"),
    "the same task twice": ({"lora_adaptations": ["a", "a"]}, r"lora_adaptations = \['a', 'a'\]"),
    "untrained": ({"load_trained_adapters": False}, r"would get new, untrained adapters"),
    "table of positions": ({"position_embedding_type": "absolute"}, r"position_embedding_type = 'absolute'"),
    "no kind of positions": ({"position_embedding_type": None}, r"position_embedding_type is missing; expected 'rotary'"),
    "shorter rows": ({"truncate_dim": 32}, r"truncate_dim = 32"),
    "instructions in a list": ({"task_instructions": [1]}, r"task_instructions = \[1\]"),
    "lengths": ({"matryoshka_dimensions": [128]}, r"matryoshka_dimensions = \[128\]"),
    "code of others": ({"auto_map": {"AutoModel": "x/y--modeling_lora.XLMRobertaLoRA"}}, r"runs its own code"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_checkpoint_that_contradicts_itself_is_refused(tmp_path: Path, case: str) -> None:
    own, reason = CONFIGS[case]
    checkpoint = make_own(tmp_path / "v3")
    edit_json(checkpoint / "config.json", **own)
    with pytest.raises(ConversionError, match=reason):
        convert_checkpoint(checkpoint, tmp_path / "v3.gguf", adapter=(own.get("lora_adaptations") or TASKS)[0])


def _without(wanted: str) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        file = checkpoint / "model.safetensors"
        write_safetensors(file, {name: tensor for name, tensor in read_safetensors(file).items() if wanted not in name})

    return change


WEIGHTS = {
    "half a pair": (_without("embeddings.word_embeddings.parametrizations.weight.0.lora_B"), r"has no lora_A and lora_B"),
    "no matrix": (_without("mixer.out_proj.parametrizations.weight.original"), r"belongs to no matrix"),
    "no adapters": (_without("parametrizations"), r"the weights have no adapters"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_without_a_part_of_an_adapter_are_refused(tmp_path: Path, case: str) -> None:
    change, reason = WEIGHTS[case]
    checkpoint = make_own(tmp_path / "v3")
    change(checkpoint)
    with pytest.raises(ConversionError, match=reason):
        convert_checkpoint(checkpoint, tmp_path / "v3.gguf", adapter=TASKS[0])
