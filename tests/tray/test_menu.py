"""The menu in every state, and the snippets for clients."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from edgeembed.common.status import CacheStats, ListedModel
from edgeembed.config.settings import Settings
from edgeembed.tray.menu import Action, MenuContext, MenuEntry, make_menu
from edgeembed.tray.snippets import base_url, curl, python
from edgeembed.tray.state import ChildStatus, PollResult, make_view
from tests.tray.menus import find, flat
from tests.tray.states import NOON, loaded, polled, view

MODELS = (
    ListedModel(id="alpha:Q8_0", type="Q8_0"),
    ListedModel(id="alpha:F16", type="F16"),
    ListedModel(id="ranker", type="F16", task="rerank"),
)


def test_every_entry_is_in_the_menu_of_a_ready_daemon() -> None:
    shown = replace(view(loaded(requests=1204)), models=MODELS, disk_bytes=3_000_000)
    menu = make_menu(shown, MenuContext(autostart=True, catalogue=("alpha", "beta"), pulling=frozenset()))
    assert menu[0] == MenuEntry("alpha · cpu · ready", enabled=False)
    assert menu[1].label == "1,204 requests today"
    assert {entry.action for entry in flat(menu) if entry.action} == set(Action) - {Action.RESUME, Action.START}
    assert [entry.label for entry in flat(menu) if entry.default] == ["Open dashboard"]
    assert find(menu, "Start at login").checked is True
    assert "3.0 MB on disk" in find(menu, "Cache").submenu[0].label
    radios = [(entry.label, entry.checked) for entry in flat(menu) if entry.radio]
    assert radios == [("alpha:Q8_0", True), ("alpha:F16", False)], "a reranker cannot be the default model"
    assert [entry.argument for entry in flat(menu) if entry.action is Action.PULL_MODEL] == ["beta"]


def test_what_can_be_downloaded_has_its_size() -> None:
    context = MenuContext(catalogue=("alpha", "beta", "gamma"), sizes={"beta": 130_000_000}, pulling=frozenset())
    more = find(make_menu(replace(view(), models=MODELS), context), "Get more…").submenu
    assert [(entry.label, entry.argument) for entry in more] == [("beta (130.0 MB)", "beta"), ("gamma", "gamma")]


def test_the_served_type_is_checked() -> None:
    menu = make_menu(replace(view(loaded(type="F16")), models=MODELS), MenuContext())
    assert [entry.label for entry in flat(menu) if entry.radio and entry.checked] == ["alpha:F16"]


def test_a_stopped_daemon_can_only_be_started() -> None:
    menu = make_menu(make_view(PollResult(), None, NOON), MenuContext())
    assert find(menu, "Start").enabled and not find(menu, "Open dashboard").enabled
    assert find(menu, "Quit").enabled and find(menu, "Copy base URL").enabled
    starting = make_menu(make_view(PollResult(child=ChildStatus(running=True)), None, NOON), MenuContext())
    assert not find(starting, "Start").enabled


def test_pause_or_resume_is_offered_unless_the_daemon_supports_neither() -> None:
    assert find(make_menu(view(paused=False), MenuContext()), "Pause").enabled
    assert find(make_menu(view(paused=True), MenuContext()), "Resume").action is Action.RESUME
    assert not find(make_menu(view(paused=None), MenuContext()), "Pause").enabled


def test_quit_says_whether_the_daemon_keeps_running() -> None:
    joined = make_menu(view(), MenuContext())
    assert find(joined, "Quit (the daemon keeps running)").action is Action.QUIT
    owned = make_view(replace(polled(), child=ChildStatus(running=True)), None, NOON)
    assert find(make_menu(owned, MenuContext()), "Quit").action is Action.QUIT


def test_impossible_actions_are_not_offered() -> None:
    shown = view()
    menu = make_menu(shown, MenuContext(browsable=False, autostart=None, catalogue=("beta",), pulling=frozenset({"beta"})))
    assert not find(menu, "Open dashboard").enabled
    assert "Start at login" not in [entry.label for entry in menu]
    assert not find(menu, "beta (downloading)").enabled
    assert find(make_menu(view(cache=None), MenuContext()), "off").action is None
    in_memory = replace(shown, cache=CacheStats(folder=None))
    assert find(make_menu(in_memory, MenuContext()), "Remove all vectors").enabled, "the daemon can clear its memory"


@pytest.mark.parametrize("name", ["alpha", 'it\'s a "model"', "back\\slash"])
def test_the_curl_snippet_quotes_names_for_json_and_shell(name: str) -> None:
    words = shlex.split(curl(Settings(port=9000), name).replace("\\\n", ""))
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:9000/v1/embeddings"]
    assert json.loads(words[words.index("-d") + 1]) == {"model": name, "input": "hello"}


def test_snippets_do_not_contain_the_key() -> None:
    settings = Settings(api_key="sesame-secret")
    for text in (curl(settings, "alpha"), python(settings, "alpha")):
        assert "sesame" not in text and "EDGEEMBED_API_KEY" in text
    assert "EDGEEMBED_API_KEY" not in curl(Settings(), "alpha") + python(Settings(), "alpha")


def test_the_python_snippet_compiles() -> None:
    compile(python(Settings(), 'a "b"'), "snippet", "exec")
    assert f'base_url="{base_url(Settings())}"' in python(Settings(), "alpha")


def test_the_curl_snippet_for_a_unix_socket() -> None:
    words = shlex.split(curl(Settings(uds="/run/e.sock"), None).replace("\\\n", ""))
    assert words[words.index("--unix-socket") + 1] == "/run/e.sock"
    assert words[2] == "http://localhost/v1/embeddings"
