"""The menu for every state, and what clients are given to paste."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from edgeembed.common.status import CacheStats, ListedModel
from edgeembed.config.settings import Settings
from edgeembed.tray.menu import Do, Entry, Surroundings, make_menu
from edgeembed.tray.snippets import base_url, curl, python
from edgeembed.tray.state import Child, Seen, look
from tests.tray.menus import find, flat
from tests.tray.states import NOON, seen, slot, view

MODELS = (
    ListedModel(id="alpha", type="Q8_0"),
    ListedModel(id="alpha:F16", type="F16"),
    ListedModel(id="ranker", type="F16", task="rerank"),
)


def test_a_daemon_that_is_well_has_every_entry() -> None:
    shown = replace(view(slot(requests=1204)), models=MODELS, disk_bytes=3_000_000)
    menu = make_menu(shown, Surroundings(autostart=True, catalogue=("alpha", "beta"), pulling=frozenset()))
    assert menu[0] == Entry("alpha · cpu · ready", enabled=False)
    assert menu[1].label == "1,204 requests today"
    assert {entry.do for entry in flat(menu) if entry.do} == set(Do) - {Do.RESUME, Do.START}
    assert [entry.label for entry in flat(menu) if entry.default] == ["Open dashboard"]
    assert find(menu, "Start at login").checked is True
    assert "3.0 MB on disk" in find(menu, "Cache").inner[0].label
    radios = [(entry.label, entry.checked) for entry in flat(menu) if entry.radio]
    assert radios == [("alpha", True), ("alpha:F16", False)], "a reranker answers no request that names no model"
    assert [entry.argument for entry in flat(menu) if entry.do is Do.PULL_MODEL] == ["beta"]


def test_the_type_that_is_served_is_the_one_that_is_marked() -> None:
    menu = make_menu(replace(view(slot(type="F16")), models=MODELS), Surroundings())
    assert [entry.label for entry in flat(menu) if entry.radio and entry.checked] == ["alpha:F16"]


def test_a_stopped_daemon_can_be_started_and_nothing_else_asked() -> None:
    menu = make_menu(look(Seen(), None, NOON), Surroundings())
    assert find(menu, "Start").enabled and not find(menu, "Open dashboard").enabled
    assert find(menu, "Quit").enabled and find(menu, "Copy base URL").enabled
    starting = make_menu(look(Seen(child=Child(running=True)), None, NOON), Surroundings())
    assert not find(starting, "Start").enabled


def test_pause_and_resume_take_turns_and_are_off_where_the_daemon_knows_neither() -> None:
    assert find(make_menu(view(paused=False), Surroundings()), "Pause").enabled
    assert find(make_menu(view(paused=True), Surroundings()), "Resume").do is Do.RESUME
    assert not find(make_menu(view(paused=None), Surroundings()), "Pause").enabled


def test_quit_says_when_the_daemon_goes_on() -> None:
    joined = make_menu(view(), Surroundings())
    assert find(joined, "Quit (edgeembed goes on)").do is Do.QUIT
    owned = look(replace(seen(), child=Child(running=True)), None, NOON)
    assert find(make_menu(owned, Surroundings()), "Quit").do is Do.QUIT


def test_what_cannot_be_is_not_offered() -> None:
    shown = view()
    menu = make_menu(shown, Surroundings(browsable=False, autostart=None, catalogue=("beta",), pulling=frozenset({"beta"})))
    assert not find(menu, "Open dashboard").enabled
    assert "Start at login" not in [entry.label for entry in menu]
    assert not find(menu, "beta (is being fetched)").enabled
    assert find(make_menu(view(cache=None), Surroundings()), "switched off").do is None
    in_memory = replace(shown, cache=CacheStats(folder=None))
    assert find(make_menu(in_memory, Surroundings()), "Remove all vectors").enabled, "the daemon can clear its memory"


@pytest.mark.parametrize("name", ["alpha", 'it\'s a "model"', "back\\slash"])
def test_curl_sends_the_json_that_is_meant(name: str) -> None:
    words = shlex.split(curl(Settings(port=9000), name).replace("\\\n", ""))
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:9000/v1/embeddings"]
    assert json.loads(words[words.index("-d") + 1]) == {"model": name, "input": "hello"}


def test_a_snippet_never_holds_the_key() -> None:
    settings = Settings(api_key="sesame-secret")
    for text in (curl(settings, "alpha"), python(settings, "alpha")):
        assert "sesame" not in text and "EDGEEMBED_API_KEY" in text
    assert "EDGEEMBED_API_KEY" not in curl(Settings(), "alpha") + python(Settings(), "alpha")


def test_python_snippet_is_a_program() -> None:
    compile(python(Settings(), 'a "b"'), "snippet", "exec")
    assert f'base_url="{base_url(Settings())}"' in python(Settings(), "alpha")


def test_a_unix_socket_has_a_snippet_of_its_own() -> None:
    words = shlex.split(curl(Settings(uds="/run/e.sock"), None).replace("\\\n", ""))
    assert words[words.index("--unix-socket") + 1] == "/run/e.sock"
    assert words[2] == "http://localhost/v1/embeddings"
