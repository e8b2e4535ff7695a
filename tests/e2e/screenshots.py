"""Pictures of every page of the dashboard, in light and dark, wide and narrow: python -m tests.e2e.screenshots FOLDER."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.clients.__main__ import make_model
from tests.convert.tiny_encoders import make_tiny_cross_encoder
from tests.convert.without_proof import convert_checkpoint
from tests.e2e.daemon import Daemon, post, running
from tests.e2e.dashboard_page import SCHEMES, TABS, WIDTHS, Page, start_chromium
from tests.e2e.models import install
from tests.hub.fakes import FakeHub

MODEL = "all-minilm-l6-v2"
WAIT_FOR = {
    "library": ("#library-count", "models"),
    "playground": ("#tokens-kind", "states"),
    "connect": ("#snippets", MODEL),
    "settings": ("#settings", "truncate"),
    "log": ("#log", "listens on"),
}
"""What a tab shows as soon as it has its data."""
PAINTED = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
MOST_PIXELS = 12_000
"""Chromium takes no higher picture."""


class Camera:
    """Takes a page in all forms, each as high as the page is."""

    def __init__(self, page: Page, folder: Path, only: str) -> None:
        self.page = page
        self._folder = folder
        self._only = only

    def take(self, name: str) -> None:
        """Write NAME-SCHEME-WIDTH.png of what the page shows."""
        if self._only not in name:
            return
        for scheme in SCHEMES:
            for width in WIDTHS:
                with self.page.shown_as(scheme, width):
                    height = int(self.page.chrome.execute_script("return document.documentElement.scrollHeight"))
                with self.page.shown_as(scheme, width, max(640, min(height, MOST_PIXELS))):
                    self.page.chrome.execute_async_script(PAINTED)
                    self.page.chrome.save_screenshot(str(self._folder / f"{name}-{scheme}-{width}.png"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.screenshots", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write the pictures")
    parser.add_argument("--model", type=Path, help="all-MiniLM-L6-v2 at Q8_0 as a GGUF file; by default it is made")
    parser.add_argument("--only", default="", help="take the pictures whose name contains this")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    chrome = start_chromium()
    if chrome is None:
        print("chromium or chromedriver is missing (Debian: chromium, chromium-driver)", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            model = arguments.model or make_model(work)
            for scene in (_tabs, _locked, _starting):
                scene(work, model, lambda url: Camera(Page(chrome, url), arguments.folder, arguments.only))
    finally:
        chrome.quit()
    return 0


def _tabs(work: Path, model: Path, camera: Callable[[str], Camera]) -> None:
    home = work / "tabs" / "home"
    home.mkdir(parents=True)
    install(home, MODEL, "Q8_0", model)
    install(home, "tiny-ranker", "F32", _make_ranker(work))
    with running("--model", MODEL, "--preload", "tiny-ranker", home=home) as daemon:
        shots = camera(daemon.url)
        _work(daemon)
        page = shots.page
        page.open()
        page.wait_for("#models .card", "tiny-ranker")
        page.wait_for("#vectors .card", "normal")
        shots.take("overview")
        for tab in TABS[1:]:
            page.find(f"#tab-{tab}").click()
            page.wait_for(*WAIT_FOR[tab])
            if tab == "playground":
                for form in ("compare", "search", "tokens", "windows"):
                    page.find(f"#{form} [type=submit]").click()
                page.wait_for("#tokens-result", "mean of")
                page.wait_for("#windows-words", "windows")
            if tab == "connect":
                page.find("[aria-label='Test: Continue']").click()
                page.wait_for("[data-program=Continue] .result", "numbers")
            shots.take(tab)
        page.open("playground")
        page.wait_for("#embedder", MODEL)
        page.write("#text-a", "word " * 600)
        page.find("#compare [type=submit]").click()
        page.wait_for("#compare-error", "First text")
        shots.take("playground-error")
        page.open()
        page.wait_for("#pill", "ready")
        post(daemon, "/v1/admin/pause")
        page.wait_for("#pill", "paused")
        shots.take("overview-paused")
        daemon.stop()
        page.wait_for("#notice", "has stopped")
        shots.take("overview-stopped")


def _work(daemon: Daemon) -> None:
    """Have some texts computed, and found in the cache."""
    for number in range(20):
        daemon.embed([f"text {number}", f"text {number // 2}"])


def _locked(work: Path, model: Path, camera: Callable[[str], Camera]) -> None:
    home = work / "locked" / "home"
    home.mkdir(parents=True)
    with running("--model", str(model), home=home, EDGEEMBED_API_KEY="a-key-of-the-screenshots") as daemon:
        shots = camera(daemon.url)
        shots.page.open()
        shots.page.wait_for("#pill", "locked")
        shots.take("locked")


def _starting(work: Path, model: Path, camera: Callable[[str], Camera]) -> None:
    home = work / "starting" / "home"
    home.mkdir(parents=True)
    hub = FakeHub()
    hub.files["acme/tiny-GGUF"] = {"tiny-Q8_0.gguf": model.read_bytes()}
    hub.hold_at = 12_000_000
    try:
        flags = ("--model", "hf:acme/tiny-GGUF")
        with running(*flags, home=home, ready=False, HF_ENDPOINT=hub.url, NO_PROXY="127.0.0.1") as daemon:
            shots = camera(daemon.url)
            shots.page.open()
            shots.page.wait_for("#starting", "4")
            shots.take("starting")
    finally:
        hub.gate.set()
        hub.close()


def _make_ranker(work: Path) -> Path:
    make_tiny_cross_encoder(work / "ranker")
    file = work / "ranker.gguf"
    convert_checkpoint(work / "ranker", file, quantization="F32", license="Apache-2.0")
    return file


if __name__ == "__main__":
    raise SystemExit(main())
