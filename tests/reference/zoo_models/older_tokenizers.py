"""Models whose tokenizer transformers reads from the files that there were before tokenizer.json."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from tests.convert.zoo.form import Form
from tests.reference.make_zoo_rows import Rows, embed, score


def rows(folder: Path) -> Rows:
    """Return the ids and rows of TEXTS, or the scores of PAIRS."""
    from transformers import AutoTokenizer

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config["architectures"][0]
    ranks = name.endswith("ForSequenceClassification")
    pooling = "rank" if ranks else "last" if name.startswith("Qwen") else "mean"
    form = Form(folder.name, (), name, lambda folder: folder, pooling)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "copy"
        shutil.copytree(folder, copy)
        AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(copy / "tokenizer.json"))
        return score(form, copy, name) if ranks else embed(form, copy, name if name.startswith("T5") else "AutoModel")
