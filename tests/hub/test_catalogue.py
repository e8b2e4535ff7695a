"""The catalogue: every shipped file holds to the schema, and the schema refuses what is wrong."""

from __future__ import annotations

from importlib.resources import files

import pytest

from edgeembed.errors import HubError, UnknownModelError
from edgeembed.hub.catalogue import (
    DEFAULT_MODEL,
    STARTER_MODEL,
    HubGguf,
    Matryoshka,
    PypiWheel,
    catalogue,
    lookup,
    match_general_name,
    parse_entry,
)

NAMES = sorted(
    path.name.removesuffix(".toml") for path in files("edgeembed_models").iterdir() if path.name.endswith(".toml")
)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_holds_to_the_schema(name: str) -> None:
    entry = parse_entry(name, (files("edgeembed_models") / f"{name}.toml").read_text(encoding="utf-8"))
    assert entry.name == name
    assert entry == catalogue()[name]


def test_the_default_and_the_starter_are_there() -> None:
    default, starter = catalogue()[DEFAULT_MODEL], catalogue()[STARTER_MODEL]
    assert isinstance(default.sources[0], HubGguf)
    assert default.matryoshka == Matryoshka(32, 1024)
    filled = default.prompts.query.format(instruction=default.prompts.instruction, text="{a} text")
    assert filled == ("Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:{a} text")
    assert default.prompts.document.format(text="x") == "x"
    assert any(isinstance(source, PypiWheel) for source in starter.sources)
    assert starter.prompts.query == starter.prompts.document == "{text}"


GOOD = (files("edgeembed_models") / f"{DEFAULT_MODEL}.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "', 'titel = "x"\ntitle = "', "titel"),
        ('title = "', 'name = "x"\ntitle = "', "name"),
        ("min = 32", "min = 4096", "matryoshka"),
        ("Query:{text}", "Query:", "{text} once"),
        ("{instruction}", "{task}", "{text} once"),
        ('instruction = "', 'document_ = "', "prompts"),
        ('sha256 = "0', 'sha256 = "X', "sha256"),
        ('file = "', 'file = "../', "file"),
        ('default_type = "Q8_0"', 'default_type = "F16"', "default_type"),
        ('kind = "hub-gguf"', 'kind = "ftp"', "ftp"),
        ('license = "Apache-2.0"', "", "license"),
    ],
)
def test_the_schema_names_what_is_wrong(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(HubError) as caught:
        parse_entry(DEFAULT_MODEL, GOOD.replace(old, new, 1))
    assert f"{DEFAULT_MODEL}.toml" in str(caught.value)
    assert said in str(caught.value)


def test_lookup() -> None:
    assert lookup("ALL-MiniLM-L6-v2") is catalogue()["all-minilm-l6-v2"]
    assert lookup("mine", {"mine"}) is None
    with pytest.raises(UnknownModelError, match=r"Did you mean 'qwen3-embedding-0.6b'.*Known: all-minilm-l6-v2, qwen3"):
        lookup("qwen3-embeding-0.6b")


def test_general_names_are_matched_whatever_their_spelling() -> None:
    assert match_general_name("Qwen3 Embedding 0.6b") is catalogue()["qwen3-embedding-0.6b"]
    assert match_general_name("Qwen3 Embedding 4B") is None
    assert match_general_name("") is None
