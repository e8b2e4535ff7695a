"""Counting tokens with the real tokenizer, on the real daemon with the real MiniLM."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, running

TEXTS = ["The rain falls.", "déjà vu, 🙂 [CLS] <|endoftext|>", "word " * 100]


def post(daemon: Daemon, path: str, **body: Any) -> Any:
    request = urllib.request.Request(daemon.url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def test_counts_equal_those_of_embedding(minilm: Callable[[str], Path], home: Path) -> None:
    with running("--model", str(minilm("Q8_0")), home=home) as daemon:
        counted = post(daemon, "/v1/tokenize", input=TEXTS, ids=True)
        assert counted["total_tokens"] == post(daemon, "/v1/embeddings", input=TEXTS)["usage"]["total_tokens"]
        assert counted["data"][0]["ids"] == [101, 1996, 4542, 4212, 1012, 102]
        assert counted["context_tokens"] == 256
        # Texts that are too long to embed can be counted.
        assert post(daemon, "/v1/tokenize", input="word " * 50_000)["total_tokens"] == 50_002
        # Each token's own part of the text, in bytes; the text was cleaned before it was read.
        given = "Rain\x00drops 🙂, cafe\u0301"
        (tokens,) = post(daemon, "/tokenize", inputs=given)
        assert [(token["text"], token["special"]) for token in tokens] == [
            ("[CLS]", True),
            ("Rain", False),
            ("drop", False),
            ("s", False),
            ("🙂", False),
            (",", False),
            ("cafe\u0301", False),
            ("[SEP]", True),
        ]
        for token in tokens[1:-1]:
            assert given.encode()[token["start"] : token["stop"]].decode() == token["text"]
        (bare,) = post(daemon, "/tokenize", inputs="rain 🙂", add_special_tokens=False)
        assert [token["id"] for token in bare] == [4542, 100]
        ids = [token["id"] for token in tokens]
        assert post(daemon, "/decode", ids=[ids, ids[1:4]]) == ["raindrops, cafe", "raindrops"]
        assert post(daemon, "/decode", ids=ids, skip_special_tokens=False) == ["[CLS] raindrops [UNK], cafe [SEP]"]
        rows = [post(daemon, "/embed", inputs=inputs)[0] for inputs in (given, ids, [ids[1:-1]])]
        assert rows[1] == pytest.approx(rows[0], abs=1e-6) and rows[2] == pytest.approx(rows[0], abs=1e-6)
