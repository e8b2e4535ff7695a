"""A value of any type in any place of any JSON file of a checkpoint gives a ConversionError, or a file, but no traceback."""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeembed.errors import ConversionError
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.tiny_encoders import make_tiny_cross_encoder, make_tiny_xlm_roberta, make_tiny_xlm_roberta_reranker
from tests.convert.tiny_gemma_checkpoint import make_gemma_checkpoint
from tests.convert.tiny_qwen3_checkpoint import make_qwen3_checkpoint
from tests.convert.tiny_rotary_encoders import make_tiny_modern_bert, make_tiny_nomic_bert
from tests.convert.without_proof import convert_checkpoint

VALUES: list[Any] = [None, True, -1, 0.5, 10**30, "", "x", [], [[]], [None], {}, {"a": {}}, {"content": [], "type": []}]
AT_ONCE = 6
"""One value in so many is tried in each place, others in the next place of the same kind."""
FIRST = 3
"""How many entries of a long list or object are visited, such as a vocabulary."""

MAKERS: list[Callable[[Path], Path]] = [
    make_tiny_bert,
    make_tiny_cross_encoder,
    make_tiny_xlm_roberta,
    make_tiny_xlm_roberta_reranker,
    make_gemma_checkpoint,
    make_qwen3_checkpoint,
    make_tiny_modern_bert,
    make_tiny_nomic_bert,
]
ALSO = {"special_tokens_map.json", "tokenizer_config.json", "config_sentence_transformers.json", "sentence_bert_config.json"}
"""Files that are read if they exist; some of the tiny checkpoints lack them."""


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = [*value.items()][:40]
    elif isinstance(value, list):
        inner = [*enumerate(value)][:FIRST]
    for key, part in inner[:FIRST] if len(inner) == 40 else inner:
        yield from places(part, (*path, key))


def changed(content: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    copied = copy.deepcopy(content)
    at = copied
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return copied


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_any_value_in_any_place_is_converted_or_refused(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path / "checkpoint")
    for name in ALSO:
        if not (folder / name).exists():
            roles = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")}
            (folder / name).write_text(
                json.dumps(roles if "token" in name else {"prompts": {"query": "q: "}, "max_seq_length": 8})
            )
    faults: list[str] = []
    tried = 0
    for file in sorted(folder.rglob("*.json")):
        text = file.read_text()
        content = json.loads(text)
        for number, path in enumerate(places(content)):
            for value in VALUES[number % AT_ONCE :: AT_ONCE] if path else VALUES:
                tried += 1
                file.write_text(json.dumps(changed(content, path, value)))
                try:
                    convert_checkpoint(folder, tmp_path / "out.gguf")
                except ConversionError:
                    pass
                except Exception as error:
                    at = traceback.extract_tb(error.__traceback__)[-1]
                    where = f"{Path(at.filename).name}:{at.lineno}"
                    faults.append(f"{file.name} {path} = {value!r}: {type(error).__name__}: {error}, in {where}")
        file.write_text(text)
    assert not faults, "\n".join(faults)
    assert tried > 300
