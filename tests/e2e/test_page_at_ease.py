"""The dashboard's page where something is unusual: errors, long names, a daemon that starts or ends; and what axe finds."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium import webdriver

from tests.bulk.daemon import serving
from tests.clients.environments import environments, make_in_ci
from tests.e2e.daemon import Daemon, post, running
from tests.e2e.dashboard_page import SCHEMES, TABS, WIDTHS, Page
from tests.e2e.models import install
from tests.fakes import FakeEngine
from tests.hub.fakes import FakeHub

LONG = "a-name-of-200-characters-" + 175 * "x"
AXE = environments()["page"]
"""Its script finds what keeps people from using a page: contrast, landmarks, names of controls."""
RUN_AXE = """
const done = arguments[0];
axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => done(violations.map(
  ({id, nodes}) => `${id}: ${nodes.map(({target, any}) => `${target} ${any.map(({message}) => message)}`).join(" | ")}`)));
"""
CHANGED_STATUS = """
const real = window.fetch;
window.fetch = async (...given) => {
  const answer = await real(...given);
  if (given[0] !== "v1/status") return answer;
  const status = await answer.json();
  const old = (values) => values.map((_, step) => (step === values.length - 20 ? 987 : null));
  Object.assign(status.activity, {p50_ms: old(status.activity.p50_ms), p95_ms: old(status.activity.p95_ms)});
  return new Response(JSON.stringify(status));
};
"""


@pytest.fixture
def page(chromium: webdriver.Chrome) -> Iterator[Page]:
    with serving(FakeEngine()) as port:
        yield Page(chromium, f"http://127.0.0.1:{port}")


@pytest.fixture
def hub(minilm: Callable[[str], Path]) -> Iterator[FakeHub]:
    fake = FakeHub()
    fake.files["acme/tiny-GGUF"] = {"tiny-Q8_0.gguf": minilm("Q8_0").read_bytes()}
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def long_named(tmp_path_factory: pytest.TempPathFactory, minilm: Callable[[str], Path]) -> Iterator[Daemon]:
    """A daemon whose model has a long name."""
    home = tmp_path_factory.mktemp("long") / "home"
    home.mkdir()
    install(home, LONG, "Q8_0", minilm("Q8_0"))
    with running("--model", LONG, home=home) as daemon:
        daemon.embed(["a text", "another text"])
        yield daemon


def test_an_error_takes_the_place_of_the_result_and_names_the_field(page: Page) -> None:
    page.open("playground")
    page.wait_for("#tokens-kind", "states")
    page.find("#compare [type=submit]").click()
    page.wait_for("#compare-result", "cosine")
    page.write("#text-a", "word " * 50)
    page.find("#compare [type=submit]").click()
    assert page.wait_for("#compare-error", "tokens").startswith("First text has 52 tokens")
    assert not page.text("#compare-result") and not page.text("#compare-note")
    page.write("#text-a", "short")
    page.write("#text-b", "word " * 50)
    page.find("#compare [type=submit]").click()
    page.wait_for("#compare-error", "Second text has")
    page.write("#passages", "one\n" + "word " * 50)
    page.find("#search [type=submit]").click()
    page.wait_for("#search-error", "Passage 2 has")
    page.write("#query", "word " * 50)
    page.find("#search [type=submit]").click()
    page.wait_for("#search-error", "Query has")
    page.write("#windows-query", "word " * 50)
    page.find("#windows [type=submit]").click()
    page.wait_for("#windows-error", "Query has")
    page.complaints()  # the browser notes each status 400


def test_latency_shows_no_value_of_long_ago(page: Page) -> None:
    page.open()
    page.wait_for("#pill", "ready")
    page.chrome.execute_script(CHANGED_STATUS)
    page.chrome.execute_script("dispatchEvent(new Event('changed'))")
    page.wait_for("#tiles .tile:nth-child(2)", "–")
    page.chrome.execute_async_script(
        "const done = arguments[0], label = () => document.querySelectorAll('.chart')[1].getAttribute('aria-label');"
        "const look = () => label().includes('987') ? done() : setTimeout(look, 20); look();"
    )
    assert page.text("#tiles .tile:nth-child(2) .value").startswith("–"), "the chart has it, the value is of now"


@pytest.mark.slow
def test_names_may_have_any_length(chromium: webdriver.Chrome, long_named: Daemon) -> None:
    page = Page(chromium, long_named.url)
    for width in WIDTHS:
        with page.shown_as("light", width):
            for tab in ("library", "playground", "connect", "overview"):
                page.open(tab)
                page.wait_for(f"#{tab}", LONG)
                assert page.width <= width, tab
            card, pill = page.find("#models .card"), page.find("#models .card .pill")
            assert pill.text == "ready" and pill.rect["x"] + pill.rect["width"] <= card.rect["x"] + card.rect["width"]


def found_by_axe(page: Page, where: str) -> list[str]:
    """Return what axe finds in what the page shows; nothing where axe is not installed, which a test below tells."""
    if not AXE.is_made:
        return []
    if not page.chrome.execute_script("return 'axe' in window"):
        script = AXE.folder / "npm" / "node_modules" / "axe-core" / "axe.min.js"
        page.chrome.execute_script(script.read_text(encoding="utf-8"))
    return [f"{where}: {one}" for one in page.chrome.execute_async_script(RUN_AXE)]


@pytest.mark.slow
def test_axe_finds_nothing(chromium: webdriver.Chrome, long_named: Daemon) -> None:
    make_in_ci(AXE)
    page = Page(chromium, long_named.url)
    found = []
    # Colours do not depend on the width, nor the order of elements on the colours.
    for scheme, width in zip(SCHEMES, WIDTHS, strict=True):
        with page.shown_as(scheme, width):
            page.open()
            page.wait_for("#models .card", LONG)
            page.wait_for("#vectors .card", "normal")
            for tab in TABS:
                page.find(f"#tab-{tab}").click()
                fill(page, tab)
                found += found_by_axe(page, f"{tab}, {scheme}, {width}")
    assert not found, "\n".join(found)


def fill(page: Page, tab: str) -> None:
    """Bring about what a tab shows of itself only after a click."""
    if tab == "playground":
        for form in ("compare", "search", "tokens", "windows"):
            page.find(f"#{form} [type=submit]").click()
        page.wait_for("#tokens-result", "mean of")
        page.wait_for("#windows-words", "windows")
    elif tab == "connect":
        page.find("[aria-label='Test: Continue']").click()
        page.wait_for("[data-program=Continue] .result", "384 numbers")
        page.find("#connect-place option[value=container]").click()
        page.find("[aria-label='Test: Dify']").click()
        page.wait_for("[data-program=Dify] .result", "listens on this computer only")
    elif tab == "library":
        page.wait_for("#library-count", "models")
    elif tab == "settings":
        page.wait_for("#settings", "truncate")


@pytest.mark.slow
def test_the_first_model_is_shown_as_it_is_downloaded_and_loaded(
    chromium: webdriver.Chrome, hub: FakeHub, home: Path
) -> None:
    hub.hold_at = 6_000_000
    flags = ("--model", "hf:acme/tiny-GGUF")
    with running(*flags, home=home, ready=False, HF_ENDPOINT=hub.url, NO_PROXY="127.0.0.1") as daemon:
        page = Page(chromium, daemon.url)
        page.open()
        page.wait_for("#starting", "Fetching hf:acme/tiny-GGUF: tiny-Q8_0.gguf 2")
        assert page.text("#pill") == "starting"
        assert 0.2 < float(page.find("#starting-bar").get_property("value")) < 0.3  # type: ignore[arg-type]
        assert not found_by_axe(page, "starting")
        page.find("#tab-library").click()
        page.wait_for("#library-count", "models")
        hub.gate.set()
        page.find("#tab-overview").click()
        page.wait_for("#models .card", "tiny")
        page.wait_for("#pill", "ready")
        assert not page.find("#starting").is_displayed()
        page.find("#tab-playground").click()
        page.find("#compare [type=submit]").click()
        page.wait_for("#compare-result", "cosine")
        assert page.texts("#embedder option") == ["tiny"], "names are read again when there is a model"


@pytest.mark.slow
def test_the_page_says_why_no_first_model_came(chromium: webdriver.Chrome, hub: FakeHub, home: Path) -> None:
    hub.hold_at = 6_000_000
    content = hub.files["acme/tiny-GGUF"]["tiny-Q8_0.gguf"]
    hub.damaged["acme/tiny-GGUF/tiny-Q8_0.gguf"] = content[:-1] + bytes([content[-1] ^ 1])
    flags = ("--model", "hf:acme/tiny-GGUF")
    with running(*flags, home=home, ready=False, HF_ENDPOINT=hub.url, NO_PROXY="127.0.0.1") as daemon:
        page = Page(chromium, daemon.url)
        page.open()
        page.wait_for("#starting", "%")
        hub.gate.set()
        shown = page.wait_for("#notice", "The daemon has stopped")
        assert "tiny" in shown and daemon.process.wait(30) == 1


@pytest.mark.slow
def test_the_page_says_why_the_daemon_is_gone_and_goes_on_when_it_is_back(
    chromium: webdriver.Chrome, home: Path, minilm: Callable[[str], Path]
) -> None:
    flags = ("--model", str(minilm("Q8_0")))
    with running(*flags, home=home) as daemon:
        page = Page(chromium, daemon.url)
        page.open()
        page.wait_for("#pill", "ready")
        daemon.embed("a text")
        assert daemon.stop() == 0
        shown = page.wait_for("#notice", "The daemon has stopped")
        assert "it was told to stop" in shown and "To start it: edgeembed serve" in shown
        assert page.text("#pill") == "stopped" and set(page.texts("#tiles .value span")) == {"–"}
        assert "ready" not in page.text("#overview"), "nothing is shown as if it were so now"
        assert not found_by_axe(page, "stopped")
    with running(*flags, "--port", str(urlsplit(page.url).port), home=home) as daemon:
        page.wait_for("#pill", "ready")
        assert not page.find("#notice").is_displayed()
        assert post(daemon, "/v1/admin/restart")[0] == 200
        page.wait_for("#pill", "restarting")
        assert "edgeembed serve" not in page.text("#notice"), "there is nothing to do"
        page.wait_for("#pill", "ready")
        daemon.process.send_signal(signal.SIGKILL)
        shown = page.wait_for("#notice", "does not answer")
        assert page.url in shown and page.text("#pill") == "not responding"
