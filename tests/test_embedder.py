"""The public Python API: the same through a daemon and through an engine of its own, from threads and event loops."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pytest

import edgeembed
from edgeembed import AsyncEmbedder, EdgeEmbedError, Embedder, Ranked
from edgeembed.config.paths import Paths
from edgeembed.config.resolution import Resolved
from edgeembed.engine.interface import Output
from edgeembed.engine.outputs import unpack
from edgeembed.errors import (
    ConfigError,
    DaemonGoneError,
    EmptyInputError,
    EngineUnavailableError,
    InputTooLongError,
    RequestError,
    UnauthorizedError,
    WrongTaskError,
)
from edgeembed.inference.number_formats import quantised
from edgeembed.inference.postprocess import sparse_vector, unit_rows
from edgeembed.inference.service import EmbeddingService
from edgeembed.models.served_model import ServedModel
from edgeembed.runtime import backends, threaded_backend
from edgeembed.server.api_keys import Keys
from edgeembed.server.app_keys import SERVICE
from edgeembed.server.auth import Access
from tests.bulk.daemon import CountingEngine, serving
from tests.cli.imports import imported
from tests.fakes import DIMENSIONS, FakeEngine, fake_model, fake_packed_row
from tests.ports import free_port
from tests.server.dialect_requests import Server, unit
from tests.waiting import until

Make: TypeAlias = Callable[..., Embedder]
TEXTS = ["first text", "second text", "third text"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_RETRY_SECONDS", 0.0)


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture
def port(engine: CountingEngine) -> Iterator[int]:
    """The port of a daemon whose default model is "embedder", and that has "ranker", too."""
    with serving(engine, outputs=("dense", "multi", "sparse")) as port:
        yield port


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, engine: CountingEngine) -> list[str]:
    """Let engines of a program's own be those of a server without HTTP; return the models that are loaded so."""
    loaded: list[str] = []

    def installed(spec: str, **_more: Any) -> SimpleNamespace:
        return SimpleNamespace(path=Path(f"/elsewhere/{spec}.gguf"))

    @asynccontextmanager
    async def service_of(
        resolved: Resolved, _report: object, *, cache: bool
    ) -> AsyncIterator[tuple[EmbeddingService, ServedModel]]:
        server = Server(engine, outputs=("dense", "multi", "sparse"))
        name = resolved.settings.model
        assert name is not None
        loaded.append(name)
        service = server.app[SERVICE]
        service.truncate, service.long_text = resolved.settings.truncate, resolved.settings.long_text
        model = next(model for model in server.registry.models if model.name == name)
        server.registry.default = model
        try:
            yield service, model
        finally:
            await server.pool.close()
            loaded.append(f"{name} closed")

    monkeypatch.setattr(threaded_backend, "ensure_installed", installed)
    monkeypatch.setattr(backends, "in_process_service", service_of)
    return loaded


@pytest.fixture(params=["daemon", "engine"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Return a function that makes an Embedder, which both kinds of backends answer in turn."""
    made: list[Embedder] = []
    port = request.getfixturevalue("port") if request.param == "daemon" else free_port()
    if request.param == "engine":
        request.getfixturevalue("engines")

    def make(model: str = "embedder", **settings: Any) -> Embedder:
        made.append(Embedder(model, port=port, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


# --- what is returned -------------------------------------------------------------------------------------------------


def test_a_string_gives_a_vector_and_a_list_a_matrix(make: Make) -> None:
    embedder = make()
    one, many = embedder.embed(TEXTS[0]), embedder.embed(TEXTS)
    assert (one.shape, many.shape, many.dtype) == ((DIMENSIONS,), (3, DIMENSIONS), np.float32)
    assert np.allclose(one, unit(TEXTS[0]), atol=1e-6)
    assert np.allclose(many, [unit(text) for text in TEXTS], atol=1e-6)
    assert np.array_equal(embedder.embed(tuple(TEXTS)), many)
    assert np.array_equal(embedder.embed(dict.fromkeys(TEXTS)), many)


def test_no_texts_give_no_rows_of_the_right_length(make: Make) -> None:
    embedder = make()
    assert embedder.embed([]).shape == (0, DIMENSIONS)
    packed = embedder.embed([], dtype="ubinary")
    assert (packed.shape, packed.dtype) == ((0, DIMENSIONS // 8), np.uint8)


def test_options(make: Make) -> None:
    embedder = make()
    assert np.allclose(embedder.embed("a", input_type="query"), unit("Q: a"), atol=1e-6)
    assert np.allclose(embedder.embed(["a"], input_type="document")[0], unit("D: a"), atol=1e-6)
    assert np.allclose(embedder.embed("a", prompt="my prompt: "), unit("my prompt: a"), atol=1e-6)
    assert np.allclose(embedder.embed("a", dimensions=4), unit("a", 4), atol=1e-6)
    rows = embedder.embed(TEXTS)
    for dtype in ("float16", "int8", "uint8", "binary", "ubinary"):
        assert np.array_equal(embedder.embed(TEXTS, dtype=dtype), quantised(rows, dtype))  # type: ignore[arg-type]


def test_many_texts_are_computed_in_batches_and_come_in_order(make: Make, engine: CountingEngine) -> None:
    texts = [f"text {number}" for number in range(700)]
    rows = make().embed(texts, batch_size=64)
    assert np.allclose(rows, [unit(text) for text in texts], atol=1e-6)


def test_documents_are_ranked_best_first(make: Make) -> None:
    documents = ["bad", "best", "so-so", "good"]
    found = make("ranker").rerank("query", documents)
    assert [(ranked.index, ranked.document) for ranked in found] == [(1, "best"), (3, "good"), (2, "so-so"), (0, "bad")]
    assert all(0 <= ranked.score <= 1 for ranked in found)
    assert make("ranker").rerank("query", iter(documents), top_n=1) == found[:1] == [Ranked(1, found[0].score, "best")]
    assert make("ranker").rerank("query", []) == []


def test_a_late_interaction_model_ranks_by_its_vectors_of_tokens(make: Make) -> None:
    embedder = make()
    query, document = embedder.multi("a query", input_type="query"), embedder.multi("a text", input_type="document")
    [ranked] = embedder.rerank("a query", ["a text"])
    assert ranked.score == pytest.approx((query @ document.T).max(axis=1).mean(), abs=1e-5)


@pytest.mark.parametrize("outputs", [("dense",), ("dense", "sparse")])
def test_another_embedder_ranks_by_the_cosine_with_its_prompts(engine: CountingEngine, outputs: tuple[Output, ...]) -> None:
    cosine = unit("Q: a") @ unit("D: b")
    with serving(engine, outputs=outputs) as port, Embedder("embedder", port=port) as embedder:
        [ranked] = embedder.rerank("a", ["b"])
        assert ranked.score == pytest.approx(cosine, abs=1e-5)


# --- outputs ----------------------------------------------------------------------------------------------------------


def of_fake(text: str, output: Output) -> np.ndarray:
    """Return the rows that the engine computes of a text; dense and multi of length 1, as callers get them."""
    rows = unpack(fake_packed_row(text, (output,)), (output,))[output]
    return unit_rows([*rows]) if output == "multi" else rows


def test_sparse_vectors(make: Make) -> None:
    embedder = make()
    one, [first, _] = embedder.sparse(TEXTS[0]), embedder.sparse(TEXTS[:2])
    ids, weights = sparse_vector(of_fake(TEXTS[0], "sparse"))
    for found in (one, first):
        assert np.array_equal(found.indices, ids) and found.indices.dtype == np.int64
        assert np.allclose(found.values, weights)
    assert one @ first == pytest.approx(float(weights @ weights))
    heaviest = embedder.sparse(TEXTS[0], top_k=1)
    assert (len(heaviest), heaviest.values[0]) == (1, pytest.approx(weights.max()))
    assert len(embedder.sparse(TEXTS[0], threshold=float(weights.max()) + 1)) == 0
    assert [len(found) for found in embedder.sparse(iter(TEXTS), batch_size=2)] == [
        len(sparse_vector(of_fake(text, "sparse"))[0]) for text in TEXTS
    ]
    assert embedder.sparse([]) == []


def test_vectors_of_tokens(make: Make) -> None:
    embedder = make()
    assert np.allclose(embedder.multi(TEXTS[0]), of_fake(TEXTS[0], "multi"), atol=1e-6)
    for found, text in zip(embedder.multi(TEXTS, input_type="query"), TEXTS, strict=True):
        assert np.allclose(found, of_fake(f"Q: {text}", "multi"), atol=1e-6)
    assert np.allclose(embedder.tokens(TEXTS[0]), of_fake(TEXTS[0], "tokens"), atol=1e-6)
    for found, text in zip(embedder.tokens(iter(TEXTS), input_type="document"), TEXTS, strict=True):
        assert np.allclose(found, of_fake(f"D: {text}", "tokens"), atol=1e-6)
    assert np.allclose(embedder.tokens("a", prompt="my prompt: "), of_fake("my prompt: a", "tokens"), atol=1e-6)
    with pytest.raises(EmptyInputError, match=r"texts\[1\] is empty"):
        embedder.tokens(["a", ""])
    with pytest.raises(InputTooLongError, match=r"texts\[1\] has 32 tokens"):
        embedder.tokens(["a", "word " * 30])
    assert len(make(truncate="end").tokens("word " * 30)) == 20
    with pytest.raises(WrongTaskError):
        make("ranker").multi("a")


def test_several_outputs_at_once(make: Make) -> None:
    found = make().outputs(TEXTS, ("dense", "sparse", "multi", "tokens"))
    for each, text in zip(found, TEXTS, strict=True):
        assert each.dense is not None and each.multi is not None and each.sparse is not None and each.tokens is not None
        assert (each.dense.shape, np.linalg.norm(each.dense)) == ((DIMENSIONS,), pytest.approx(1, abs=1e-6))
        assert np.allclose(each.multi, of_fake(text, "multi"), atol=1e-6)
        assert np.array_equal(each.sparse.indices, sparse_vector(of_fake(text, "sparse"))[0])
        assert np.allclose(each.tokens, of_fake(text, "tokens"), atol=1e-6)
    only = make().outputs("a text", ["sparse"])
    assert only.sparse is not None and only.dense is only.multi is only.tokens is None
    embedder: Any = make()
    with pytest.raises(ValueError, match="unknown output 'colour'; expected some of dense, multi, sparse, tokens"):
        embedder.outputs("a", ["dense", "colour"])
    with pytest.raises(ValueError, match="no outputs"):
        embedder.outputs("a", [])


# --- iterators --------------------------------------------------------------------------------------------------------


def test_a_generator_gives_vectors_as_they_come(make: Make) -> None:
    texts = [f"text {number}" for number in range(100)]
    rows = make().embed((text for text in texts), batch_size=8)
    assert isinstance(rows, Iterator)
    assert np.allclose(list(rows), [unit(text) for text in texts], atol=1e-6)


def test_a_generator_is_not_read_to_its_end_first(make: Make) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"text {read}"

    rows = make().embed(endless(), batch_size=4)
    assert read == 0
    first = [next(rows) for _ in range(10)]
    assert np.allclose(first, [unit(f"text {number}") for number in range(1, 11)], atol=1e-6)
    assert read <= 10 + 4 * 4
    rows.close()  # type: ignore[attr-defined]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_errors_name_the_text_in_the_callers_list(make: Make) -> None:
    embedder = make()
    with pytest.raises(EmptyInputError, match=r"^texts\[70\] is empty") as error:
        embedder.embed(["a"] * 70 + [""], batch_size=16)
    assert error.value.param == "texts[70]"
    with pytest.raises(EmptyInputError, match=r"^texts is empty"):
        embedder.embed("")
    with pytest.raises(InputTooLongError, match=r"^texts\[1\] has 32 tokens"):
        embedder.embed(["a", "word " * 30])
    with pytest.raises(InputTooLongError, match=r"texts\[9\]"):
        list(embedder.embed(iter(["a"] * 9 + ["word " * 30]), batch_size=2))
    with pytest.raises(EmptyInputError, match=r"documents\[1\] is empty"):
        make("ranker").rerank("query", ["a", ""])


def test_errors_have_their_types(make: Make) -> None:
    embedder = make()
    with pytest.raises(RequestError, match="dimensions must be between 1 and 16"):
        embedder.embed("a", dimensions=17)
    with pytest.raises(WrongTaskError, match="scores documents"):
        make("ranker").embed("a")
    assert issubclass(WrongTaskError, EdgeEmbedError)


def test_what_is_no_text_is_a_type_error(make: Make) -> None:
    embedder: Any = make()
    with pytest.raises(TypeError, match=r"texts\[1\] is of the type int; expected a string"):
        embedder.embed(["a", 3])
    with pytest.raises(TypeError, match=r"texts\[0\] is of the type int"):
        embedder.embed(b"bytes")
    with pytest.raises(TypeError, match="documents is a string; expected a list"):
        embedder.rerank("query", "document")
    with pytest.raises(ValueError, match="dtype is 'float64'; expected one of float32"):
        embedder.embed("a", dtype="float64")
    for texts in ("a", ["a"], iter(["a"])):
        with pytest.raises(ValueError, match="batch_size is 0"):
            embedder.embed(texts, batch_size=0)
    for method in (embedder.embed, embedder.sparse, embedder.multi, embedder.tokens):
        with pytest.raises(ValueError, match="input_type is 'passage'; expected one of query, document"):
            method("a", input_type="passage")
    with pytest.raises(ValueError, match="top_k is -1; expected at least 0"):
        embedder.sparse("a", top_k=-1)
    with pytest.raises(ValueError, match="top_n is -1; expected at least 0"):
        embedder.rerank("query", ["a", "b"], top_n=-1)
    for texts in (None, 3):
        with pytest.raises(TypeError, match="is not iterable"):
            embedder.embed(texts)
    with pytest.raises(TypeError, match="no_such_option"):
        embedder.embed("a", no_such_option=1)


def test_texts_that_are_too_long_are_cut_if_the_settings_say_so(make: Make) -> None:
    row = make(truncate="end").embed("word " * 30)
    assert np.allclose(row, unit(" ".join(["word"] * 18)), atol=1e-6)


def test_texts_that_are_too_long_are_divided_if_the_settings_say_so(make: Make) -> None:
    text = ". ".join(f"This is sentence number {number}" for number in range(20))
    divided = make(long_text="mean")
    row = divided.embed(text)
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-6)
    assert not np.allclose(row, make(truncate="end").embed(text))
    assert len(make("ranker", long_text="mean").rerank("query", [text, "best"])) == 2
    with pytest.raises(InputTooLongError):
        make(truncate="none").embed(text)
    with pytest.raises(InputTooLongError):
        divided.multi(text)


def test_settings_are_checked_at_once() -> None:
    with pytest.raises(ConfigError, match="no_such is not a setting"):
        Embedder("embedder", no_such=1)
    with pytest.raises(ConfigError, match="port"):
        Embedder("embedder", port="no number")


# --- which backend ----------------------------------------------------------------------------------------------------


def test_the_daemon_is_taken_if_it_has_the_model(port: int, engines: list[str]) -> None:
    with Embedder(port=port) as default, Embedder("ranker", port=port) as ranker:
        assert np.allclose(default.embed("a"), unit("a"), atol=1e-6)
        assert ranker.rerank("query", ["best"])[0].index == 0
        assert default.rerank("query", ["best"]), "the daemon's reranker"
    assert engines == []


def test_without_a_daemon_the_model_is_loaded_here(engines: list[str]) -> None:
    with Embedder("embedder", port=free_port()) as embedder:
        assert np.allclose(embedder.embed("a"), unit("a"), atol=1e-6)
        assert engines == ["embedder"]
    assert engines == ["embedder", "embedder closed"]


def test_a_daemon_that_runs_can_be_left_aside_or_required(
    port: int, engines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Embedder("embedder", port=port, daemon=False) as embedder:
        embedder.embed("a")
    assert engines[0] == "embedder"
    with pytest.raises(ConfigError, match="no daemon with the model 'other' runs here"):
        Embedder("other", port=port, daemon=True).embed("a")
    with pytest.raises(ConfigError, match="no daemon runs here; start one with `edgeembed serve`"):
        Embedder(port=free_port(), daemon=True).embed("a")


def test_a_model_that_nobody_names_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r'name one, as in Embedder\("all-minilm-l6-v2"\)'):
        Embedder(port=free_port()).embed("a")


def test_nothing_is_loaded_before_it_is_used(engines: list[str]) -> None:
    embedder = Embedder("embedder", port=free_port())
    assert engines == []
    embedder.embed("a")
    assert engines == ["embedder"]
    embedder.close()


def test_a_daemon_that_goes_away_is_an_error_and_one_that_comes_back_answers(engine: CountingEngine) -> None:
    port = free_port()
    with serving(engine, port):
        embedder = Embedder("embedder", port=port, daemon=True)
        before = embedder.embed("a")
    with pytest.raises(DaemonGoneError, match="the daemon no longer answers"):
        embedder.embed("a")
    assert issubclass(DaemonGoneError, EngineUnavailableError)
    with serving(CountingEngine(), port):
        assert np.array_equal(embedder.embed("a"), before)
        embedder.close()


def test_a_daemon_that_restarts_is_waited_for(engine: CountingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_RETRY_SECONDS", 60.0)
    port = free_port()
    with serving(engine, port):
        embedder = Embedder("embedder", port=port)
        before = embedder.embed("a")
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(embedder.embed, "a")
        with serving(CountingEngine(), port):
            assert np.array_equal(waiting.result(60), before)
            embedder.close()


def test_a_daemon_that_requires_a_key(engine: CountingEngine, engines: list[str]) -> None:
    with serving(engine, access=Access(keys=Keys.read("sesame", None))) as port:
        with Embedder("embedder", port=port, api_key="sesame") as embedder:
            assert np.allclose(embedder.embed("a"), unit("a"), atol=1e-6)
        with pytest.raises(UnauthorizedError, match="API key"):
            Embedder("embedder", port=port).embed("a")
        with pytest.raises(UnauthorizedError, match="API key"):
            Embedder(port=port).embed("a")
    assert engines == [], "who may not use the daemon does not load a second copy of the model"


def test_a_model_that_was_downloaded_for_it_is_taken_by_the_daemon(
    port: int, engines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def downloaded(spec: str, *, paths: Paths, **_more: Any) -> SimpleNamespace:
        digest = fake_model("embedder").digest
        return SimpleNamespace(path=paths.models / "embedder" / "F32.gguf", spec="embedder", digest=digest)

    monkeypatch.setattr(threaded_backend, "ensure_installed", downloaded)
    with Embedder("hf:somebody/embedder", port=port) as embedder:
        assert np.allclose(embedder.embed("a"), unit("a"), atol=1e-6)
    assert engines == []


def test_vectors_of_another_file_are_refused(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder("embedder", port=port)
    embedder.embed("a")
    post = backends.Connection.post

    async def other(self: backends.Connection, path: str, body: dict[str, Any]) -> backends.Reply:
        return msgspec.structs.replace(await post(self, path, body), digest="another")

    monkeypatch.setattr(backends.Connection, "post", other)
    with pytest.raises(ConfigError, match="come from another file, of the model embedder"):
        embedder.embed("a")
    embedder.close()


# --- threads, event loops, ends ---------------------------------------------------------------------------------------


def test_threads_share_one(make: Make) -> None:
    embedder = make()
    found: dict[str, np.ndarray] = {}

    def work(thread: int) -> None:
        for number in range(20):
            text = f"text {thread} {number}"
            found[text] = embedder.embed(text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160
    assert all(np.allclose(row, unit(text), atol=1e-6) for text, row in found.items())


async def test_it_works_where_an_event_loop_runs(make: Make) -> None:
    assert make().embed(TEXTS).shape == (3, DIMENSIONS)


def test_one_that_is_closed_says_so(make: Make) -> None:
    embedder = make()
    embedder.embed("a")
    embedder.close()
    embedder.close()
    with pytest.raises(RuntimeError, match="this Embedder is closed; make a new one"):
        embedder.embed("a")


def test_a_caller_that_waits_when_it_is_closed_gets_an_error(engines: list[str], engine: CountingEngine) -> None:
    embedder = Embedder("embedder", port=free_port())
    embedder.embed("a")
    engine.paused = True
    raised: list[BaseException] = []

    def work() -> None:
        try:
            embedder.embed("a text that is never computed")
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: engine.waiting)
    embedder.close()
    thread.join(30)
    assert [str(error) for error in raised] == ["this Embedder is closed; make a new one"]


def test_one_that_is_forgotten_is_closed(engines: list[str]) -> None:
    embedder = Embedder("embedder", port=free_port())
    embedder.embed("a")
    del embedder
    until(lambda: "embedder closed" in engines)


def test_a_copy_in_another_process_finds_its_own_backend(make: Make) -> None:
    embedder = make()
    row = embedder.embed("a")
    copy = pickle.loads(pickle.dumps(embedder))  # noqa: S301
    assert np.array_equal(copy.embed("a"), row)
    copy.close()
    assert repr(copy) == "Embedder('embedder')"


# --- asyncio ----------------------------------------------------------------------------------------------------------


async def test_asyncio(port: int) -> None:
    async with AsyncEmbedder("embedder", port=port) as embedder:
        one, many = await asyncio.gather(embedder.embed(TEXTS[0]), embedder.embed(TEXTS))
        assert np.array_equal(many[0], one)
        assert (await embedder.embed(TEXTS, dimensions=4, dtype="int8")).dtype == np.int8

        async def lines() -> AsyncIterator[str]:
            for text in TEXTS:
                yield text

        assert np.array_equal([row async for row in embedder.embed(lines(), batch_size=2)], many)
        assert np.array_equal([row async for row in embedder.embed(iter(TEXTS), batch_size=2)], many)
        with pytest.raises(TypeError, match="no_such_option"):
            embedder.embed("a", no_such_option=1)  # type: ignore[call-overload]
        with pytest.raises(EmptyInputError, match=r"texts\[1\]"):
            await embedder.embed(["a", ""])
    async with AsyncEmbedder("ranker", port=port) as ranker:
        assert [ranked.document for ranked in await ranker.rerank("query", ["bad", "best"])] == ["best", "bad"]
    with pytest.raises(RuntimeError, match="is closed"):
        await embedder.embed("a")


def test_event_loops_share_one(port: int) -> None:
    embedder = AsyncEmbedder("embedder", port=port)

    async def use() -> np.ndarray:
        return await embedder.embed("a")

    assert np.array_equal(asyncio.run(use()), asyncio.run(use()))
    asyncio.run(embedder.aclose())


async def test_a_cancelled_request_leaves_the_queue(port: int, engine: FakeEngine) -> None:
    async with AsyncEmbedder("embedder", port=port) as embedder:
        await embedder.embed("warm up")
        engine.paused = True
        task = asyncio.ensure_future(embedder.embed("a text"))
        await asyncio.to_thread(until, lambda: engine.waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(until, lambda: engine.cancelled == ["a text"])
        engine.paused = False


# --- imports ----------------------------------------------------------------------------------------------------------


def test_the_package_imports_nothing_until_it_is_used() -> None:
    heavy = {"numpy", "aiohttp", "asyncio", "msgspec", "importlib_metadata", "typing_extensions"}
    assert not imported("import edgeembed") & heavy
    assert "numpy" in imported("from edgeembed import Embedder")
    assert {"Embedder", "AsyncEmbedder", "__version__"} <= set(dir(edgeembed))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        edgeembed.Nothing  # noqa: B018
