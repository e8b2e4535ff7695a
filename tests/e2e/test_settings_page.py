"""The dashboard's tabs Settings and Log, and its button Pause, in a real browser against a real daemon."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from edgeembed.config.file import write_setting
from tests.e2e.daemon import Daemon, running
from tests.e2e.dashboard_page import Page
from tests.e2e.models import install
from tests.ports import free_port
from tests.waiting import until

NAME = "all-minilm-l6-v2"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, minilm: Callable[[str], Path]) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("settings-page") / "home"
    install(home, NAME, "Q8_0", minilm("Q8_0"))
    write_setting(home / "config.toml", "port", free_port())
    with running("--model", NAME, home=home) as started:
        yield started


def press(page: Page, name: str) -> None:
    page.find(f"[aria-label='{name}']").send_keys(Keys.ENTER)


def edit(page: Page, name: str, value: str) -> None:
    """Write a value of a setting, and send the form."""
    page.write(f"#edit-{name}", value)
    page.find(f"#edit-{name}").send_keys(Keys.ENTER)


def test_a_paused_daemon_is_shown_as_paused(chromium: webdriver.Chrome, daemon: Daemon) -> None:
    page = Page(chromium, daemon.url)
    page.open()
    page.wait_for("#pill", "ready")
    page.find("#pause").send_keys(Keys.ENTER)
    page.wait_for("#pill", "paused")
    page.wait_for("#pause", "Resume")
    assert daemon.get("/v1/status")[1]["paused"] is True
    with pytest.raises(urllib.error.HTTPError, match="503"):
        daemon.embed("never computed before")
    page.open("settings")
    page.wait_for("#pill", "paused")
    page.find("#pause").send_keys(Keys.ENTER)
    page.wait_for("#pill", "ready")
    assert daemon.embed("never computed before").shape == (1, 384)


def test_the_cache_shows_what_it_holds_and_is_cleared(chromium: webdriver.Chrome, daemon: Daemon) -> None:
    daemon.embed(["one text", "another one"])
    page = Page(chromium, daemon.url)
    page.open("settings")
    page.wait_for("#disk", "All models")
    press(page, "Clear all of the cache")
    page.find("#confirm-yes").click()
    page.wait_for("#disk", "The cache is empty")


def test_the_log_is_filtered_followed_and_keeps_the_readers_place(chromium: webdriver.Chrome, daemon: Daemon) -> None:
    page = Page(chromium, daemon.url)
    page.open("log")
    page.wait_for("#log-lines", "ready")
    page.wait_for("#log-state", "Following")
    box = page.find("#log-lines")
    chromium.execute_script("arguments[0].style.height = '4rem'; arguments[0].style.minHeight = '0'", box)
    chromium.execute_script("arguments[0].scrollTop = 0; arguments[0].dispatchEvent(new Event('scroll'))", box)
    page.wait_for("#log-state", "New lines are added below")
    page.find("#pause").click()
    page.wait_for("#log-newest", "new")
    assert chromium.execute_script("return arguments[0].scrollTop", box) == 0
    page.find("#log-newest").send_keys(Keys.ENTER)
    page.wait_for("#log-state", "Following")
    page.wait_for("#log-lines", "paused over HTTP")
    page.find("#log-pause").click()
    page.wait_for("#log-state", "Paused")
    before = page.text("#log-lines").count("resumed over HTTP")
    page.find("#pause").click()
    page.wait_for("#pill", "ready")
    assert page.text("#log-lines").count("resumed over HTTP") == before
    page.find("#log-pause").click()
    until(lambda: page.text("#log-lines").count("resumed over HTTP") == before + 1)
    page.find("#log-level option[value=error]").click()
    page.wait_for("#log-lines", "No lines of this level yet")
    assert page.complaints() == []


def test_keys_aliases_and_apps_are_added_and_removed(chromium: webdriver.Chrome, daemon: Daemon) -> None:
    page = Page(chromium, daemon.url)
    page.open("settings")
    page.wait_for("#keys-words", "No keys")
    page.find("#alias-name").send_keys("text-embedding-3-small", Keys.TAB, NAME, Keys.ENTER)
    page.wait_for("#aliases", "text-embedding-3-small")
    assert daemon.embed("a text", model="text-embedding-3-small").shape == (1, 384)
    press(page, "Remove the alias text-embedding-3-small")
    page.find("#confirm-yes").click()
    until(lambda: not page.text("#aliases"))
    page.find("#origin-name").send_keys("app://notes", Keys.ENTER)
    page.wait_for("#origins", "app://notes")
    page.find("#key-name").send_keys("laptop", Keys.ENTER)
    page.wait_for("#key-new", "shown only now")
    key = page.text("#key-new-key")
    assert len(key) > 20 and daemon.get("/v1/models")[0] == 401, "the first key locks the daemon"
    request = urllib.request.Request(f"{daemon.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 200
    page.wait_for("#keys", "laptop")
    page.find("#key-hide").click()
    assert key not in page.chrome.page_source
    page.find("#forget").click()
    page.wait_for("#pill", "locked")
    page.write("#key", key)
    page.find("#key").send_keys(Keys.ENTER)
    page.wait_for("#keys", "laptop")
    press(page, "Remove the key laptop")
    page.find("#confirm-yes").click()
    page.wait_for("#keys-words", "No keys")
    assert daemon.get("/v1/models")[0] == 200
    assert page.complaints() == []


def test_a_setting_is_edited_takes_effect_after_a_restart_and_is_unset(chromium: webdriver.Chrome, daemon: Daemon) -> None:
    page = Page(chromium, daemon.url)
    page.open("settings")
    row = "[data-row='setting keep_alive']"
    page.wait_for(row, "30m")
    assert "from a flag" in page.text("[data-row='setting model']")
    page.write("#settings-search", "keep alive")
    press(page, "Edit keep_alive")
    edit(page, "keep_alive", "soon")
    page.wait_for(f"{row} .error", "keep_alive")
    assert page.chrome.switch_to.active_element.get_attribute("id") == "edit-keep_alive", "to be corrected"
    assert len(page.complaints()) == 1, "the refusal"
    edit(page, "keep_alive", "45m")
    page.wait_for(row, "45m")
    assert page.chrome.switch_to.active_element.get_attribute("aria-label") == "Edit keep_alive"
    page.wait_for("#restart-words", "started again")
    pid = daemon.process.pid
    page.find("#restart-now").send_keys(Keys.ENTER)
    until(lambda: not page.text("#restart"), 60)
    assert "45m" in page.text(f"{row} .value") and "from config.toml" in page.text(row)
    assert daemon.process.pid == pid and daemon.process.poll() is None
    press(page, "Unset keep_alive, so that it has its default")
    page.wait_for("#restart-words", "started again")
    page.wait_for(row, "after a restart: 30m")


def test_a_page_whose_daemon_moves_to_another_port_says_where(chromium: webdriver.Chrome, daemon: Daemon) -> None:
    """The last test: the daemon is elsewhere afterwards."""
    page = Page(chromium, daemon.url)
    page.open("settings")
    page.wait_for("[data-row='setting port']", "from config.toml")
    port = free_port()
    press(page, "Edit port")
    edit(page, "port", str(port))
    page.wait_for("[data-row='setting port']", f"after a restart: {port}")
    page.find("#restart-now").send_keys(Keys.ENTER)
    page.wait_for("#restart-words", f":{port}/")
    daemon.wait_for(f"http://127.0.0.1:{port}")
    page.find("#restart-words a").send_keys(Keys.ENTER)
    page.wait_for("#pill", "ready")
