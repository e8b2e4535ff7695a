"""The dashboard in a real browser: headless Chromium against a real daemon with real models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from edgeembed.engine.interface import OUTPUTS
from tests.bulk.daemon import serving
from tests.convert.tiny_encoders import make_tiny_cross_encoder
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.late_interaction import make_bert
from tests.e2e.daemon import Daemon, running
from tests.e2e.dashboard_page import Page
from tests.e2e.models import install
from tests.fakes import FakeEngine

SECRET = "a-key-that-nobody-guesses"
MARKUP = "<img src=x onerror=document.title='owned'><b>bold</b>"


@pytest.fixture
def installed(home: Path, minilm: Callable[[str], Path], tmp_path: Path) -> Path:
    make_tiny_cross_encoder(tmp_path / "ranker")
    ranker = tmp_path / "ranker.gguf"
    convert_checkpoint(tmp_path / "ranker", ranker, quantization="F32", license="Apache-2.0")
    install(home, "all-minilm-l6-v2", "Q8_0", minilm("Q8_0"))
    install(home, "tiny-ranker", "F32", ranker)
    late = tmp_path / "late.gguf"
    convert_checkpoint(make_bert(tmp_path / "late"), late, quantization="F32", license="Apache-2.0")
    install(home, "tiny-colbert", "F32", late)
    return home


def test_every_tab_works_for_a_user(chromium: webdriver.Chrome, installed: Path) -> None:
    with running("--model", "all-minilm-l6-v2", "--preload", "tiny-ranker", home=installed) as daemon:
        page = Page(chromium, daemon.url)
        _overview(page, daemon)
        _playground(page)
        _tokens(page)
        _windows(page)
        _late_interaction(page)
        _connect(page)
        _keyboard(page)
        _narrow(page)
        assert page.complaints() == []
        asked = [
            entry["message"] for entry in chromium.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
        ]
        assert asked and all(
            '"url":"' not in one or f'"url":"{daemon.url}/' in one or '"url":"data:' in one for one in asked
        )


def _overview(page: Page, daemon: Daemon) -> None:
    page.open()
    page.wait_for("#pill", "ready")
    daemon.embed(["some text", "another one"])
    daemon.embed(["some text", "another one"])
    assert "all-minilm-l6-v2" in page.wait_for("#models .card", "tiny-ranker")
    # The page polls, so the counts appear without a reload.
    page.wait_for("#models .card", "requests\n2")
    page.wait_for("#vectors .card", "rows\n2")
    page.wait_for("#cache", "hits in memory\n2")
    page.wait_for("#tiles .tile:nth-child(3) .value", "%")
    assert page.find("#vectors svg").get_attribute("role") == "img"


def _playground(page: Page) -> None:
    page.find("#tab-playground").click()
    page.write("#text-a", "The rain falls.")
    page.write("#text-b", "The rain falls.")
    page.find("#compare [type=submit]").click()
    page.wait_for("#compare-result", "1.000")
    page.write("#passages", f"A dry desert.\n{MARKUP}\nIt is raining hard.")
    page.write("#query", "is it raining")
    page.find("#rerank").click()
    page.find("#search [type=submit]").click()
    shown = page.wait_for("#search-result li", "A dry desert.")
    assert shown.startswith("It is raining hard.")
    assert MARKUP in shown, "texts are shown as they are"
    assert page.chrome.title == "edgeembed" and not page.chrome.find_elements(By.CSS_SELECTOR, "#search-result b")
    page.find("#rerank").click()
    page.find("#search [type=submit]").click()
    page.wait_for("#search-result", "reranker")
    scores = [
        float(word.text)
        for word in page.chrome.find_elements(By.CSS_SELECTOR, "#search-result .measure:nth-of-type(1) span:last-child")
    ]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    # An error is shown in the form that caused it.
    page.write("#text-a", "word " * 600)
    page.find("#compare [type=submit]").click()
    page.wait_for("#compare-error", "maximum context length is 256")
    page.complaints()  # drop the error response, which the console logs


def _tokens(page: Page) -> None:
    """Each token of one text is compared with each of the other, in a map that the keyboard reaches."""
    assert "has no sparse vectors" in page.text("#sparse-missing") and not page.find("#sparse-text").is_displayed()
    page.write("#tokens-a", "The rain falls.")
    page.write("#tokens-b", f"Rain on Monday {MARKUP}")
    page.find("#tokens [type=submit]").click()
    page.wait_for("#tokens-result", "mean of the best cosines")
    rows, columns = page.texts("#tokens-result [role=rowheader]"), page.texts("#tokens-result [role=columnheader]")
    assert rows == ["The", "rain", "falls", "."]
    assert columns[:4] == ["Rain", "on", "Monday", "<"]
    cells = page.chrome.find_elements(By.CSS_SELECTOR, "#tokens-result [role=gridcell]")
    assert len(cells) == len(rows) * len(columns)
    best = [cell.get_attribute("aria-label") or "" for cell in page.chrome.find_elements(By.CSS_SELECTOR, ".heat .best")]
    assert len(best) == len(rows) and best[1].startswith("rain, Rain: 0.")
    ActionChains(page.chrome).send_keys(Keys.TAB, Keys.ARROW_RIGHT, Keys.ARROW_DOWN).perform()
    focused = page.chrome.switch_to.active_element.get_attribute("aria-label")
    assert focused is not None and focused.startswith("rain, on: ")
    assert page.text("#tokens-result .readout") == f"{focused.removeprefix('rain, on: ')} rain – on"
    page.write("#tokens-b", "rain " * 100)
    page.find("#tokens [type=submit]").click()
    page.wait_for("#tokens-result", "only the first 64 tokens")
    assert page.texts("#tokens-result [role=columnheader]") == ["rain"] * 62, "special tokens are left out"


def _windows(page: Page) -> None:
    """A long text is shown window by window, the one that fits the query best is marked."""
    page.find("#windows [type=submit]").click()
    page.wait_for("#windows-words", "windows. The whole text")
    parts = page.texts("#windows-result li")
    assert len(parts) > 3
    assert [part for part in parts if "the best" in part] == [part for part in parts if "elsewhere every four weeks" in part]
    page.chrome.execute_script("document.getElementById('windows-text').value = '\U0001f600 ab '.repeat(40)")
    page.find("#windows [type=submit]").click()
    page.wait_for("#windows-result li:first-child", "\U0001f600 ab \U0001f600 ab")
    assert all("\ufffd" not in part for part in page.texts("#windows-result li")), "no character is cut in two"


def _late_interaction(page: Page) -> None:
    """A model with vectors for late interaction is compared by these: of a filled query, and without punctuation."""
    Select(page.find("#embedder")).select_by_visible_text("tiny-colbert")
    assert "late interaction" in page.text("#tokens-kind")
    page.write("#tokens-a", "is it raining")
    page.write("#tokens-b", "It rained, again.")
    page.find("#tokens [type=submit]").click()
    page.wait_for("#tokens-result", "MaxSim")
    rows, columns = page.texts("#tokens-result [role=rowheader]"), page.texts("#tokens-result [role=columnheader]")
    assert len(rows) == 32 and rows[:2] == ["[CLS]", "[Q]"] and rows[-1] == "[MASK]"
    assert columns[:2] == ["[CLS]", "[D]"] and columns[-1] == "[SEP]" and not {",", "."} & set(columns)
    page.write("#tokens-b", "rain " * 100)
    page.find("#tokens [type=submit]").click()
    page.wait_for("#tokens-result", "only the first 64 tokens")
    columns = page.texts("#tokens-result [role=columnheader]")
    assert len(columns) == 64 and columns[1] == "[D]" and columns[-1] == "[SEP]" and "64" not in columns
    assert "has no dense vectors" in page.text("#dense-missing")
    assert not page.find("#compare").is_displayed() and not page.find("#windows").is_displayed()
    page.find("#search [type=submit]").click()
    shown = page.wait_for("#search-result", "MaxSim")
    assert "cosine" not in shown and len(page.texts("#search-result li")) == 3
    Select(page.find("#embedder")).select_by_visible_text("all-minilm-l6-v2")
    assert page.find("#compare").is_displayed() and not page.text("#dense-missing")


def test_sparse_words_are_shown_by_weight(chromium: webdriver.Chrome) -> None:
    with serving(FakeEngine(), outputs=OUTPUTS[:3]) as port:
        page = Page(chromium, f"http://127.0.0.1:{port}")
        page.open("playground")
        page.wait_for("#tokens-kind", "late interaction")
        assert not page.text("#sparse-missing")
        page.write("#sparse-text", "rain rain rain on 13")
        page.find("#sparse [type=submit]").click()
        page.wait_for("#sparse-words", "2 tokens have a weight")
        # The fake engine's tokens are numbers: 14 for words of four letters, 12 for those of two.
        assert page.texts("#sparse-result li > span:last-child") == ["4.000", "2.000"]
        names = page.texts("#sparse-result li > span:first-child")
        assert names[0].startswith("14") and names[1].startswith("12")
        assert len(page.chrome.find_elements(By.CSS_SELECTOR, "#sparse-result .added")) == 2
        page.write("#sparse-text", "rain rain 14")
        page.find("#sparse [type=submit]").click()
        page.wait_for("#sparse-result li > span:last-child", "3.000 | 2.000")
        added = page.chrome.find_elements(By.CSS_SELECTOR, "#sparse-result .added")
        assert len(added) == 1, "a token that is in the text is not marked"
        page.find("#tokens [type=submit]").click()
        page.wait_for("#tokens-result", "MaxSim")
        assert page.complaints() == []


def _connect(page: Page) -> None:
    page.find("#tab-connect").click()
    shown = page.wait_for("#snippets", "OpenAI(")
    for words in ("curl -s", "OpenAIEmbeddings(", "OpenAILikeEmbedding(", "provider: openai", "new OpenAI("):
        assert words in shown
    curl = page.find("[data-program=curl]")
    curl.find_element(By.CSS_SELECTOR, "[aria-label^=Copy]").click()
    page.wait_for("[data-program=curl] button", "C")
    code = curl.find_element(By.TAG_NAME, "code").text
    assert f"{page.url}/v1/embeddings" in code
    assert '{"model":"all-minilm-l6-v2","input":"hello"}' in code
    page.find("[aria-label='Test: Smart Connections']").click()
    shown = page.wait_for("[data-program='Smart Connections'] .result", "384 numbers")
    assert "lists only names that contain embed or bge" in shown and "all-minilm-l6-v2" in shown


def _keyboard(page: Page) -> None:
    """Arrow keys switch tabs; Tab reaches everything else, in the order of the page."""
    page.open()
    page.wait_for("#pill", "ready")
    page.find("#tab-overview").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    focused = page.chrome.switch_to.active_element
    assert (focused.get_attribute("id"), focused.get_attribute("aria-selected")) == ("tab-playground", "true")
    order = []
    for _ in range(9):
        page.chrome.switch_to.active_element.send_keys(Keys.TAB)
        focused = page.chrome.switch_to.active_element
        order.append(focused.get_attribute("id") or focused.text)
    assert order == ["embedder", "text-a", "text-b", "Compare", "query", "passages", "rerank", "reranker", "Search"]
    order = []
    for _ in range(7):
        page.chrome.switch_to.active_element.send_keys(Keys.TAB)
        focused = page.chrome.switch_to.active_element
        order.append(focused.get_attribute("id") or focused.text)
    tokens, windows = ["tokens-a", "tokens-b", "Show tokens"], ["windows-query", "windows-text", "windows-size"]
    assert order == [*tokens, *windows, "Compare windows"]
    page.find("#tab-playground").send_keys(Keys.END)
    assert page.chrome.switch_to.active_element.get_attribute("id") == "tab-log"
    assert page.find("#log").is_displayed() and not page.find("#playground").is_displayed()


def _narrow(page: Page) -> None:
    """The page fits 360 pixels, in light and dark mode."""
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": False}
    page.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for tab in ("overview", "playground", "connect"):
        page.open(tab)
        page.wait_for("#pill", "ready")
        page.wait_for(f"#{tab}", "all-minilm-l6-v2")
        assert page.chrome.execute_script("return document.documentElement.scrollWidth") <= 360, tab
    colours = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        colours.append(page.chrome.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(set(colours)) == 2
    page.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    page.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_daemon_with_api_keys_shows_nothing_without_one(chromium: webdriver.Chrome, installed: Path) -> None:
    variables = {"EDGEEMBED_API_KEY": SECRET, "EDGEEMBED_ALLOW_DESKTOP_APPS": "false"}
    with running("--model", "all-minilm-l6-v2", home=installed, **variables) as daemon:
        page = Page(chromium, daemon.url)
        page.open()
        page.wait_for("#pill", "locked")
        assert not page.find("#overview").is_displayed() and "all-minilm" not in page.text("body")
        page.write("#key", "wrong")
        page.find("#key").send_keys(Keys.ENTER)
        page.wait_for("#unlock-error", "Unknown")
        page.write("#key", SECRET)
        page.find("#key").send_keys(Keys.ENTER)
        page.wait_for("#models .card", "all-minilm-l6-v2")
        page.find("#tab-playground").click()
        page.find("#compare [type=submit]").click()
        page.wait_for("#compare-result", "cosine")
        page.find("#tab-connect").click()
        assert SECRET not in page.wait_for("#snippets", "YOUR_KEY")
        page.find("[aria-label='Test: Copilot for Obsidian']").click()
        page.wait_for("[data-program='Copilot for Obsidian'] .result", "app://obsidian.md) is not let in")
        kept = page.chrome.execute_script(
            "return [Object.values(localStorage), document.cookie, Object.values(sessionStorage)]"
        )
        assert kept == [[], "", [SECRET]]
        page.find("#forget").click()
        page.wait_for("#pill", "locked")
        assert page.chrome.execute_script("return sessionStorage.length") == 0
        page.open()
        page.wait_for("#pill", "locked")
