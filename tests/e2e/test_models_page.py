"""The dashboard's tab Models in a real browser: a real daemon, a hub on this machine, real downloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from tests.e2e.daemon import Daemon, running
from tests.e2e.dashboard_page import Page
from tests.e2e.models import install
from tests.hub.fakes import FakeHub
from tests.waiting import until

NAME = "all-minilm-l6-v2"
Q8, F16 = f"[data-row='{NAME}:q8_0']", f"[data-row='{NAME}:f16']"
REPOSITORY = "acme/tiny-GGUF"


@pytest.fixture(scope="module")
def hub(minilm: Callable[[str], Path]) -> Iterator[FakeHub]:
    fake = FakeHub()
    fake.files[REPOSITORY] = {"tiny-Q8_0.gguf": minilm("Q8_0").read_bytes()}
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, minilm: Callable[[str], Path], hub: FakeHub) -> Iterator[Daemon]:
    """Return a daemon with two types of one model, the default of which config.toml names."""
    home = tmp_path_factory.mktemp("models-page") / "home"
    for kind in ("Q8_0", "F16"):
        install(home, NAME, kind, minilm(kind))
    (home / "config.toml").write_text(f'model = "{NAME}:Q8_0"\n')
    with running(home=home, HF_ENDPOINT=hub.url, NO_PROXY="127.0.0.1") as started:
        yield started


def press(page: Page, name: str) -> None:
    """Press the button of a name, as a screen reader says it, by the keyboard."""
    page.find(f"[aria-label='{name}']").send_keys(Keys.ENTER)


def focused(page: Page) -> str:
    """Return the name of the focused element."""
    return page.chrome.switch_to.active_element.get_attribute("aria-label") or ""


def default(daemon: Daemon) -> str:
    """Return the type of the model that requests without a name get."""
    models = daemon.get("/v1/status")[1]["models"]
    return next((str(model["type"]) for model in models if model["default"]), "")


def test_models_are_found_by_words_language_and_what_is_installed(chromium: webdriver.Chrome, daemon: Daemon) -> None:
    page = Page(chromium, daemon.url)
    page.open("library")
    page.wait_for("#library-count", "models")
    page.write("#library-search", "rerank qwen")
    page.wait_for("#library-count", "of 6")
    assert {f"qwen3-reranker-{size}" for size in ("0.6b", "4b", "8b")} <= set(page.texts("#library-list h3"))
    page.find("#library-language option[value=en]").click()
    page.wait_for("#library-list .empty", "No model matches")
    page.find("#library-language option[value='']").click()
    page.write("#library-search", "")
    page.find("#library-search").send_keys("no such model")
    page.wait_for("#library-list .empty", "No model matches")
    page.find("#library-search").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    page.find("#library-which option[value=installed]").click()
    until(lambda: page.text("#library-list h3") == NAME)


def test_a_visitor_who_does_not_own_the_daemon_sees_why_nothing_is_shown(chromium: webdriver.Chrome, daemon: Daemon) -> None:
    page = Page(chromium, daemon.url)
    chromium.execute_cdp_cmd("Network.enable", {})
    # As through a proxy, which makes all visitors look like programs of this machine.
    chromium.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"X-Forwarded-For": "192.0.2.1"}})
    try:
        for tab in ("library", "settings", "log"):
            page.open(tab)
            page.wait_for(f"#{tab}-problem", "Open this page on the machine that the daemon runs on")
            assert not page.find(f"#{tab}-open").is_displayed()
        page.find("#pause").click()
        page.wait_for("#pause-error", "on this machine")
        assert page.text("#pause") == "Pause"
    finally:
        chromium.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {}})
    page.open("library")
    page.wait_for("#library-count", "models")


def test_a_download_is_watched_paused_resumed_and_a_failed_one_says_why(
    chromium: webdriver.Chrome, daemon: Daemon, hub: FakeHub
) -> None:
    hub.hold_at = 400_000
    page = Page(chromium, daemon.url)
    page.open("library")
    page.wait_for("#library-count", "models")
    page.find("#pull-name").send_keys(f"https://huggingface.co/{REPOSITORY}", Keys.ENTER)
    page.wait_for("#pulls", "of 25 MB")
    assert f"hf:{REPOSITORY}" in page.text("#pulls")
    # Not above 0: steps are reported ten times a second, and what came within the first tenth is held.
    until(lambda: 0 <= float(page.find("#pulls progress").get_attribute("value") or -1) < 1)
    press(page, f"Pause the download of hf:{REPOSITORY}")
    page.wait_for("#pulls", "Paused at")
    assert focused(page) == f"Resume the download of hf:{REPOSITORY}"
    page.open("overview")
    page.open("library")
    page.wait_for("#pulls", "of 25 MB")
    hub.hold_at = None
    hub.gate.set()
    press(page, f"Resume the download of hf:{REPOSITORY}")
    page.wait_for("[data-row='tiny:q8_0']", "installed")
    assert hub.downloads[-1].range is not None, "only the rest was fetched"
    assert page.texts("#library-list h3")[0] == "tiny", "it is where the user sees it"
    until(lambda: not page.text("#pulls"))
    page.wait_for("#said", "is installed")
    page.find("#pull-name").send_keys("acme/nothing", Keys.ENTER)
    page.wait_for("#pulls .error", "acme/nothing")
    press(page, "Dismiss the download of hf:acme/nothing")
    until(lambda: not page.text("#pulls"))
    page.find("#tab-playground").click()
    page.wait_for("#embedder", "tiny")
    assert page.complaints() == []


def test_a_type_is_loaded_made_the_default_unloaded_and_deleted(chromium: webdriver.Chrome, daemon: Daemon) -> None:
    page = Page(chromium, daemon.url)
    page.open("library")
    page.wait_for(Q8, "default")
    assert page.texts("#library-list h3")[0] == NAME, "the default model comes first"
    assert "installed" in page.text(F16), "F16 is listed beside Q8_0"
    press(page, f"Load {NAME} F16")
    page.wait_for(F16, "loaded")
    assert focused(page).endswith(f"{NAME} F16"), "focus stays in the row whose button is gone"
    press(page, f"Set as default: {NAME} F16")
    page.wait_for(f"{F16} .tag", "default")
    assert "default" not in page.text(f"{Q8} .tag") and default(daemon) == "F16"
    press(page, f"Delete {NAME} F16")
    page.wait_for("#confirm", f"Delete {NAME} F16?")
    page.find("#confirm-yes").click()
    page.wait_for(f"{F16} .error", "default")
    assert "Set as default" not in page.text(F16) and page.complaints(), "it was refused, and the console has the 409"
    press(page, f"Unload {NAME} Q8_0")
    page.wait_for(Q8, "installed")
    press(page, f"Delete {NAME} Q8_0")
    page.wait_for("#confirm", "Cancel")
    assert page.chrome.switch_to.active_element.text == "Cancel"
    page.chrome.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert focused(page) == f"Delete {NAME} Q8_0" and "installed" in page.text(Q8)
    press(page, f"Delete {NAME} Q8_0")
    page.find("#confirm-yes").send_keys(Keys.ENTER)
    until(lambda: not page.chrome.find_elements("css selector", f"[aria-label='Delete {NAME} Q8_0']"))
    press(page, f"14 more types of {NAME}")
    page.wait_for(Q8, "Download")
    assert len(page.texts(".model:first-child .type")) >= 15, "every type can be reached"
    assert page.complaints() == []
