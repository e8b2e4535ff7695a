"""Tokens for clients of text-embeddings-inference, vLLM and llama-server, on fake engines whose tokens are words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from edgeembed.engine.interface import Text, Tokenized, TokenWant
from edgeembed.inference.aside import LARGE, Aside
from tests.fakes import CONTEXT_TOKENS
from tests.server.dialect_requests import Server, post


def places(tokens: list[dict[str, Any]]) -> list[tuple[str, int | None, int | None]]:
    return [(token["text"], token["start"], token["stop"]) for token in tokens]


async def test_tokens_have_their_own_text_and_its_bytes(client: TestClient) -> None:
    status, answer = await post(client, "/tokenize", inputs=["Größe, 中文 x", ""])
    assert status == 200
    assert [(token["id"], token["special"]) for token in answer[0]] == [
        (0, True),
        *[(n, False) for n in (16, 12, 11)],
        (1, True),
    ]
    assert places(answer[0]) == [
        ("[CLS]", None, None),
        ("Größe,", 0, 8),
        ("中文", 9, 15),
        ("x", 16, 17),
        ("[SEP]", None, None),
    ]
    assert places(answer[1]) == [("[CLS]", None, None), ("[SEP]", None, None)]


async def test_places_are_those_in_the_text_with_its_prompt_as_it_was_sent(client: TestClient) -> None:
    given = "a\x00b e\u0301\x07 fin"  # cleaned to "ab é fin" before it is read
    _, answer = await post(client, "/tokenize", inputs=given, add_special_tokens=False)
    assert places(answer[0]) == [("a\x00b", 0, 3), ("e\u0301", 4, 7), ("fin", 9, 12)]
    _, answer = await post(client, "/tokenize", inputs=given, add_special_tokens=False, prompt_name="query")
    assert places(answer[0]) == [("Q:", 0, 2), ("a\x00b", 3, 6), ("e\u0301", 7, 10), ("fin", 12, 15)]


async def test_a_reranker_has_tokens_too(client: TestClient, server: Server) -> None:
    _, answer = await post(client, "/tokenize", inputs="two", model="ranker")
    assert places(answer[0]) == [("[CLS]", None, None), ("two", 0, 3), ("[SEP]", None, None)]
    assert server.ranker.read == ["two", "two"] and server.embedder.read == []
    assert await post(client, "/decode", ids=[13], model="ranker") == (200, ["13"])


async def test_ids_are_decoded(client: TestClient) -> None:
    assert await post(client, "/decode", ids=[0, 14, 15, 1]) == (200, ["14 15"])
    assert await post(client, "/decode", ids=[[0, 14], [15, 1]], skip_special_tokens=False) == (200, ["0 14", "15 1"])


async def test_clients_of_vllm_and_llama_server_are_distinguished_by_their_fields(client: TestClient) -> None:
    status, answer = await post(client, "/tokenize", prompt="two words")
    assert (status, answer) == (
        200,
        {"count": 4, "max_model_len": CONTEXT_TOKENS, "tokens": [0, 13, 15, 1], "token_strs": None},
    )
    _, answer = await post(client, "/tokenize", prompt="two", add_special_tokens=False, return_token_strs=True)
    assert (answer["tokens"], answer["token_strs"]) == ([13], ["two"])
    assert await post(client, "/tokenize", content="two words") == (200, {"tokens": [13, 15]})
    _, answer = await post(client, "/tokenize", content="two", add_special=True, with_pieces=True)
    assert answer["tokens"] == [{"id": 0, "piece": "[CLS]"}, {"id": 13, "piece": "two"}, {"id": 1, "piece": "[SEP]"}]
    status, answer = await post(client, "/detokenize", tokens=[0, 13])
    assert status == 200
    assert (answer["prompt"], answer["content"]) == ("0 13", "0 13"), "vLLM's name and llama-server's"


async def test_ids_to_text_in_sglangs_shape(client: TestClient) -> None:
    _, answer = await post(client, "/detokenize", tokens=[0, 13], skip_special_tokens=False)
    assert answer["text"] == "0 13"
    _, answer = await post(client, "/detokenize", tokens=[0, 13])
    assert answer["text"] == "13"
    status, answer = await post(client, "/detokenize", tokens=[])
    assert (status, answer["text"], answer["prompt"]) == (200, "", "")


async def test_a_part_of_a_character_has_its_bytes_for_llama_servers_clients(
    client: TestClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = server.embedder.tokenize

    def halves(texts: Sequence[Text], want: TokenWant = "ids") -> list[asyncio.Future[Tokenized]]:
        (future,) = whole(texts, want)
        if (read := future.result()).pieces:
            future = asyncio.get_running_loop().create_future()
            future.set_result(read._replace(pieces=[*read.pieces[:1], b"\xf0\x9f", *read.pieces[2:]]))
        return [future]

    monkeypatch.setattr(server.embedder, "tokenize", halves)
    _, answer = await post(client, "/tokenize", content="x", with_pieces=True)
    assert answer["tokens"] == [{"id": 11, "piece": [0xF0, 0x9F]}]
    _, answer = await post(client, "/tokenize", prompt="x", return_token_strs=True)
    assert answer["token_strs"][1] == "\ufffd"


@pytest.mark.parametrize(
    "field", [{"inputs": ""}, {"content": "", "with_pieces": True}, {"prompt": "", "return_token_strs": True}]
)
async def test_long_lists_of_tokens_are_written_in_parts_beside_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, field: dict[str, Any]
) -> None:
    text = " ".join(map(str, range(10, 9010)))
    sizes = []
    run = Aside.run

    async def noted(self: Aside, size: int, function: Any, *arguments: object) -> Any:
        sizes.append(size)
        return await run(self, size, function, *arguments)

    monkeypatch.setattr(Aside, "run", noted)
    status, answer = await post(client, "/tokenize", **{name: value or text for name, value in field.items()})
    tokens = answer[0] if isinstance(answer, list) else answer.get("token_strs") or answer["tokens"]
    assert (status, len(tokens)) == (200, 9000 + (2 if "content" not in field else 0))
    assert sizes[-1] > LARGE


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/tokenize", {"prompt": 3}, 400, "prompt"),
        ("/tokenize", {"messages": []}, 400, "prompt"),
        ("/tokenize", {"content": "a", "model": "other"}, 404, "no model 'other'"),
        ("/detokenize", {"tokens": [1, "a"]}, 400, "tokens[1]: Expected `int`, got `str`"),
        ("/detokenize", {"tokens": [1, -3]}, 400, "tokens: -3 is not a token id"),
    ],
)
async def test_errors_of_the_others_have_openais_format(
    client: TestClient, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    got, answer = await post(client, path, **body)
    assert got == status
    assert words in answer["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "words"),
    [
        ("/tokenize", {"inputs": 3}, 422, "Validation", "inputs"),
        ("/tokenize", {}, 422, "Validation", "inputs"),
        ("/tokenize", {"inputs": []}, 400, "Empty", "inputs"),
        ("/tokenize", {"inputs": [3]}, 422, "Validation", "inputs"),
        ("/tokenize", {"inputs": ["a"] * 51}, 422, "Validation", "batch size 51 > maximum allowed batch size 50"),
        ("/decode", {"ids": []}, 400, "Empty", "ids"),
        ("/decode", {"ids": [[]]}, 400, "Empty", "ids[0]"),
        ("/decode", {"ids": [[1], "a"]}, 422, "Validation", "ids[1] is a string"),
        ("/decode", {"ids": [[1], [True]]}, 422, "Validation", "ids[1]"),
        ("/decode", {"ids": [-3]}, 422, "Validation", "-3 is not a token id"),
        ("/decode", {"ids": "a"}, 422, "Validation", "ids"),
    ],
)
async def test_errors_have_teis_format_and_statuses(
    client: TestClient, path: str, body: dict[str, Any], status: int, kind: str, words: str
) -> None:
    got, answer = await post(client, path, **body)
    assert (got, answer["error_type"]) == (status, kind)
    assert words in answer["error"]
