"""The models that the names in requests mean."""

from __future__ import annotations

import asyncio
import difflib
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from edgeembed.errors import ModelNotFoundError, RequestError, WrongTaskError
from edgeembed.hub.catalogue import Prompts
from edgeembed.models import registry as registry_module
from edgeembed.models.registry import ModelRegistry, Target
from edgeembed.models.served_model import ServedModel
from tests.fakes import fake_model

QUERY = Prompts(query="query: {text}", document="passage: {text}")


def model(name: str, type_: str = "Q8_0", **more: object) -> ServedModel:
    path = Path(f"/models/{name}/{name}-{type_}.gguf")
    return ServedModel(name, f"digest of {name} {type_}", type=type_, path=path, **more)  # type: ignore[arg-type]


SMALL = model("small", prompts=QUERY, other_names=("maker/Small-Model",))
SMALL_F16 = model("small", "F16", prompts=QUERY)
OTHER = model("other-model")
RANKER = model("ranker", task="rerank")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, SMALL_F16),
        ("small", SMALL_F16),  # the default's type is what its bare name means
        ("SMALL", SMALL_F16),
        ("small:Q8_0", SMALL),
        ("small:q8_0", SMALL),
        ("small-Q8_0.gguf", SMALL),
        ("/models/small/small-Q8_0.gguf", SMALL),
        ("maker/Small-Model", SMALL),
        ("text-embedding-3-small", OTHER),
        ("Text-Embedding-3-SMALL", OTHER),
    ],
)
async def test_names(name: str | None, expected: ServedModel) -> None:
    registry = ModelRegistry(SMALL_F16, [SMALL, OTHER], aliases={"text-embedding-3-small": "other-model"})
    assert (await registry.resolve(name, "embed")).model == expected


async def test_every_name_may_end_in_latest() -> None:
    """Ollama's clients add it to names without a tag, and /api/tags lists names so."""
    registry = ModelRegistry(SMALL, [OTHER], aliases={"ada": "other-model", "odd": "other-model:latest"})
    for name in ("small:latest", "SMALL:LATEST", "maker/small-model:latest"):
        assert await registry.resolve(name, "embed") == Target(SMALL), name
    for name in ("ada:latest", "odd", "odd:latest"):
        assert (await registry.resolve(name, "embed")).model == OTHER, name
    with pytest.raises(ModelNotFoundError, match="'gone:latest'"):
        await registry.resolve("gone:latest", "embed")


async def test_other_programs_names_mean_the_installed_model_of_the_catalogue() -> None:
    nomic = model("nomic-embed-text-v1.5", "F16", prompts=QUERY)
    in_place = model("my-file", other_names=("all-minilm-l6-v2", "all-minilm"))
    registry = ModelRegistry(in_place, [nomic])
    for name in ("nomic-embed-text", "nomic-embed-text:latest", "nomic-embed-text:v1.5", "nomic-ai/nomic-embed-text-v1.5"):
        assert await registry.resolve(name, "embed") == Target(nomic), name
    for name in ("text-embedding-nomic-embed-text-v1.5", "nomic-embed-text:137m-v1.5-fp16"):
        assert await registry.resolve(name, "embed") == Target(nomic), name
    assert await registry.resolve("nomic-embed-text:query", "embed") == Target(nomic, "query")
    for name in ("all-minilm-l6-v2", "all-minilm", "all-minilm:latest", "all-minilm:Q8_0"):
        assert (await registry.resolve(name, "embed")).model == in_place, name
    for name in ("all-minilm:33m", "all-minilm:F16", "nomic-embed-text-v2-moe"):
        with pytest.raises(ModelNotFoundError):
            await registry.resolve(name, "embed")


async def test_a_models_own_name_comes_before_another_models_other_name() -> None:
    mine = model("nomic-embed-text")
    theirs = model("nomic-embed-text-v1.5", other_names=("nomic-embed-text", "text-embedding-nomic-embed-text-v1.5"))
    registry = ModelRegistry(theirs, [mine])
    assert (await registry.resolve("nomic-embed-text", "embed")).model == mine
    assert (await registry.resolve("text-embedding-nomic-embed-text-v1.5", "embed")).model == theirs


async def test_an_empty_name_means_the_default() -> None:
    assert await ModelRegistry(SMALL, [RANKER]).resolve("", "embed") == Target(SMALL)
    assert await ModelRegistry(SMALL, [RANKER]).resolve("", "rerank") == Target(RANKER)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        *((name, "OpenAI") for name in ("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002")),
        *((name, "Cohere") for name in ("embed-english-v3.0", "embed-multilingual-light-v3.0", "embed-v4.0")),
        *((name, "Voyage") for name in ("voyage-3", "voyage-3.5-lite", "voyage-code-3")),
        *((name, "Jina") for name in ("jina-embeddings-v3", "jina-clip-v2")),
        *((name, "Google") for name in ("gemini-embedding-001", "text-embedding-004", "text-multilingual-embedding-002")),
        *((name, "Mistral") for name in ("mistral-embed", "codestral-embed-2505")),
        ("openai/text-embedding-3-small", "OpenAI"),
        ("Text-Embedding-3-Small", "OpenAI"),
    ],
)
async def test_a_hosted_models_name_gets_the_command_that_makes_the_alias(name: str, owner: str) -> None:
    said = rf"it is one of {owner}'s.* `edgeembed config add aliases {name.lower()}=small` and restart"
    with pytest.raises(ModelNotFoundError, match=said):
        await ModelRegistry(SMALL, [RANKER]).resolve(name, "embed")


async def test_the_alias_of_a_hosted_reranker_is_a_reranker() -> None:
    for name in ("rerank-v3.5", "rerank-multilingual-v3.0", "rerank-2.5-lite", "jina-reranker-v3"):
        with pytest.raises(ModelNotFoundError, match=f"aliases {name}=ranker`"):
            await ModelRegistry(SMALL, [RANKER]).resolve(name, "rerank")
    with pytest.raises(ModelNotFoundError, match=r"aliases rerank-v3.5=qwen3-reranker-0\.6b`"):
        await ModelRegistry(SMALL).resolve("rerank-v3.5", "rerank")


async def test_a_name_that_a_shell_would_read_otherwise_gets_no_command() -> None:
    for name in ("text-embedding-3-small; rm -rf ~", "voyage-$(id)", "jina-`id`", "jina-a b", "jina-a=b,c=d", "jina-a\nb"):
        with pytest.raises(ModelNotFoundError) as caught:
            await ModelRegistry(SMALL).resolve(name, "embed")
        assert "config add" not in caught.value.message


async def test_a_name_of_the_catalogue_that_is_not_installed_gets_the_command_that_installs_it() -> None:
    for name, spec in (
        ("nomic-embed-text", "nomic-embed-text-v1.5"),
        ("nomic-embed-text:latest", "nomic-embed-text-v1.5"),
        ("qwen3-embedding:query", "qwen3-embedding-8b"),
        ("bge-m3:F16", "bge-m3:F16"),
    ):
        with pytest.raises(ModelNotFoundError, match=f"is not installed; run `edgeembed pull {spec}`"):
            await ModelRegistry(SMALL).resolve(name, "embed")


async def test_a_suffix_chooses_the_prompt_for_every_name() -> None:
    registry = ModelRegistry(SMALL, aliases={"ada": "small", "find": "small:query", "odd:query": "small"})
    for name in ("small:query", "small:Q8_0:query", "small-Q8_0.gguf:query", "ada:query", "find", "SMALL:QUERY"):
        target = await registry.resolve(name, "embed")
        assert (target.model, target.input_type) == (SMALL, "query"), name
    assert (await registry.resolve("small:document", "embed")).input_type == "document"
    assert (await registry.resolve("odd:query", "embed")).input_type is None, "an alias takes precedence over a suffix"


async def test_an_alias_with_an_input_type_means_the_model_for_such_texts() -> None:
    queries, passages = model("tasks-retrieval.query"), model("tasks-retrieval.passage")
    registry = ModelRegistry(
        SMALL,
        [queries, passages],
        aliases={"Tasks": passages.name, "tasks:query": queries.name, "tasks:document": passages.name},
    )
    for name in ("tasks", "TASKS", "tasks:cosine", "tasks:latest"):
        assert (await registry.resolve(name, "embed", input_type="query")).model is queries, name
        assert (await registry.resolve(name, "embed", input_type="document")).model is passages, name
    assert (await registry.resolve("tasks:query", "embed")).model is queries
    assert (await registry.resolve("tasks", "embed")).model is passages
    assert (await registry.resolve("small", "embed", input_type="query")).model is SMALL


async def test_an_alias_of_a_model_that_is_not_found_yet_is_no_suffix_of_another() -> None:
    queries = model("tasks-retrieval.query")
    registry = ModelRegistry(SMALL, aliases={"tasks": "small", "tasks:query": queries.name}, scan=lambda: [queries])
    assert registry.find("tasks:query") is None
    assert (await registry.resolve("tasks", "embed", input_type="query")).model is queries


async def test_no_similar_name_is_sought_for_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ModelRegistry(SMALL)
    compared: list[str] = []
    real = difflib.get_close_matches

    def watched(word: str, names: list[str], n: int) -> list[str]:
        compared.append(word)
        return real(word, names, n)

    monkeypatch.setattr(difflib, "get_close_matches", watched)
    for name in ("a" * 20_000_000, "small" + ":query" * 2000, "bge-m3:" + "a" * 5000):
        with pytest.raises(ModelNotFoundError) as caught:
            await registry.resolve(name, "embed")
        assert len(caught.value.message) < 500
    assert compared == []
    with pytest.raises(ModelNotFoundError, match="Did you mean 'small'"):
        await registry.resolve("smal", "embed")
    assert compared == ["smal"]


async def test_a_newly_installed_model_is_found_without_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    store: list[ServedModel] = []
    registry = ModelRegistry(SMALL, scan=lambda: store)
    with pytest.raises(ModelNotFoundError):
        await registry.resolve("other-model", "embed")
    store.append(OTHER)
    monkeypatch.setattr(registry_module, "RESCAN_SECONDS", 0.0)
    assert (await registry.resolve("other-model", "embed")).model == OTHER
    store.clear()
    await registry.refresh()
    with pytest.raises(ModelNotFoundError):
        await registry.resolve("other-model", "embed")


async def test_unknown_names_do_not_scan_the_disk_for_each_request() -> None:
    scans = []
    registry = ModelRegistry(SMALL, scan=lambda: scans.append(1) or ())  # type: ignore[func-returns-value]
    for _ in range(50):
        with pytest.raises(ModelNotFoundError):
            await registry.resolve("nothing", "embed")
    assert len(scans) == 1


async def test_errors_say_what_to_do() -> None:
    registry = ModelRegistry(SMALL, [RANKER], aliases={"ada": "qwen3-embedding-0.6b"})
    with pytest.raises(
        ModelNotFoundError, match=r"there is no model 'smal'\. Did you mean 'small'\?.*Installed: small, ranker"
    ):
        await registry.resolve("smal", "embed")
    with pytest.raises(ModelNotFoundError, match=r"'ada' \(an alias of 'qwen3-embedding-0.6b'\).*edgeembed pull qwen3"):
        await registry.resolve("ada", "embed")
    with pytest.raises(WrongTaskError, match=r"'ranker' scores documents.*/v1/rerank") as caught:
        await registry.resolve("ranker", "embed")
    assert (caught.value.status, caught.value.param) == (400, "model")
    with pytest.raises(WrongTaskError, match=r"'small' makes vectors.*/v1/embeddings"):
        await registry.resolve("small", "rerank")


async def test_without_a_name_the_only_model_for_the_task_is_used() -> None:
    assert (await ModelRegistry(SMALL, [RANKER]).resolve(None, "rerank")).model == RANKER
    colbert = replace(model("colbert"), outputs=("multi",))
    assert (await ModelRegistry(SMALL, [colbert]).resolve(None, "rerank")).model == colbert
    assert (await ModelRegistry(SMALL, [colbert, RANKER]).resolve(None, "rerank")).model == RANKER, "it is for nothing else"
    with pytest.raises(RequestError, match=r"several models can do this: .*ranker, second"):
        await ModelRegistry(SMALL, [RANKER, model("second", task="rerank")]).resolve(None, "rerank")
    with pytest.raises(ModelNotFoundError, match="no reranker is installed"):
        await ModelRegistry(SMALL).resolve(None, "rerank")


def test_every_listed_name_means_its_target() -> None:
    registry = ModelRegistry(SMALL_F16, [SMALL, OTHER, RANKER], aliases={"ada": "other-model", "gone": "not-installed"})
    names = [listing.name for listing in registry.listings()]
    assert names == [
        "small", "small:query", "small:document", "small:F16", "small:Q8_0", "other-model", "other-model:Q8_0", "ranker",
        "ranker:Q8_0", "ada",
    ]  # fmt: skip
    for listing in registry.listings():
        assert registry.find(listing.name) == listing.target


async def test_a_replaced_file_is_used_from_the_next_request_on() -> None:
    newer = model("small", prompts=QUERY, size_bytes=7)
    registry = ModelRegistry(SMALL, [OTHER], renew=lambda each: newer if each == SMALL else each)
    assert (await registry.resolve(None, "embed")).model == SMALL
    registry.mark_stale()
    assert (await registry.resolve(None, "embed")).model == newer
    assert (await registry.resolve("small", "embed")).model == newer
    assert (await registry.resolve("other-model", "embed")).model == OTHER


async def test_a_file_that_changes_during_a_scan_is_scanned_again() -> None:
    newer = model("small", prompts=QUERY, size_bytes=7)
    scans: list[ServedModel] = []

    def renew(each: ServedModel) -> ServedModel:
        scans.append(each)
        if len(scans) == 1:
            registry.mark_stale()  # just after this scan has read the file
            return each
        return newer

    registry = ModelRegistry(SMALL, renew=renew)
    registry.mark_stale()
    assert (await registry.resolve(None, "embed")).model == newer


async def test_an_embedder_ranks_if_its_name_ends_in_cosine() -> None:
    registry = ModelRegistry(SMALL, [RANKER], aliases={"some-reranker": "small:cosine"})
    for name in ("small:cosine", "SMALL:Q8_0:cosine", "some-reranker", "some-reranker:latest"):
        found = await registry.resolve(name, "rerank")
        assert (found.model, found.input_type, found.cosine) == (SMALL, None, True)
        assert (await registry.resolve(name, "embed")).model == SMALL
    assert (await registry.resolve("small", "rerank", also="embed")).model == SMALL
    with pytest.raises(WrongTaskError, match=r"'small:cosine' ranks them by the cosine"):
        await registry.resolve("small", "rerank")
    with pytest.raises(WrongTaskError) as no_dense:
        await ModelRegistry(replace(SMALL, outputs=("sparse",)), [RANKER]).resolve("small", "rerank")
    assert "cosine" not in str(no_dense.value), "there are no dense vectors to compare"
    with pytest.raises(ModelNotFoundError):
        await registry.resolve(f"{RANKER.name}:cosine", "rerank")
    assert (await ModelRegistry(SMALL).resolve(None, "rerank", also="embed")).model == SMALL
    assert (await registry.resolve(None, "rerank", also="embed")).model == RANKER


async def test_aliases_are_added_and_removed_while_it_is_used() -> None:
    one, other = fake_model("one"), fake_model("other")
    registry = ModelRegistry(one, [other], aliases={"old": "one"})
    version = registry.version
    registry.set_alias("New", "other:query")
    assert registry.version > version, "stored responses may mean another model now"
    assert await registry.resolve("NEW", "embed") == Target(other, "query")
    assert (registry.aliases_of(one), registry.aliases_of(other)) == (["old"], ["new"])
    assert registry.is_alias("nEW") and not registry.is_alias("one")
    registry.set_alias("new", None)
    registry.set_alias("nobody", None)
    assert registry.find("new") is None


async def test_another_default_is_in_effect_at_once_and_the_one_before_is_still_named() -> None:
    installed = model("installed")
    by_path = model("by-path")
    registry = ModelRegistry(by_path, scan=lambda: [installed])
    await registry.refresh()
    version = registry.version
    registry.change_default(installed)
    assert registry.version > version, "stored responses to requests without a name are not used any more"
    for _ in range(2):
        assert (await registry.resolve(None, "embed")).model == installed
        assert (await registry.resolve("by-path", "embed")).model == by_path, "a file that is served in place"
        assert registry.is_configured(installed) and registry.models[0] == installed
        await registry.refresh()
    registry.change_default(by_path)
    assert not registry.is_configured(installed), "it may be removed now"
    assert [model.name for model in registry.models] == ["by-path", "installed"]


async def test_a_scan_that_began_before_another_default_was_chosen_does_not_undo_it() -> None:
    first, second = model("first"), model("second")
    go_on = threading.Event()

    def scan() -> list[ServedModel]:
        go_on.wait(20)
        return [first, second]

    registry = ModelRegistry(first, [second], scan=scan)
    scanning = asyncio.create_task(registry.refresh())
    await asyncio.sleep(0)
    registry.change_default(second)
    go_on.set()
    await scanning
    assert registry.default == second and registry.models[0] == second
