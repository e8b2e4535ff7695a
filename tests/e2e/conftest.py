"""The browser of the end-to-end tests, and a model hub on this machine.

Chromium and its driver come from the system (on Debian: `apt-get install chromium chromium-driver`). Without them, the tests
that use them are skipped; in CI, they fail.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.e2e.hub import stock
from tests.hub.fakes import FakeHub


def start_chromium() -> webdriver.Chrome | None:
    """Return a headless Chromium, or None where it or its driver is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # Root, as in containers, cannot have Chromium's sandbox; /dev/shm is tiny there.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    chrome = start_chromium()
    if chrome is None:
        missing = "NOT tested in a browser: chromium or chromedriver is missing (Debian: chromium, chromium-driver)"
        pytest.skip(missing)
    yield chrome
    chrome.quit()


@pytest.fixture
def stocked_hub(minilm: Callable[[str], Path], minilm_checkpoint: Path) -> Iterator[FakeHub]:
    """Return a hub with all-minilm-l6-v2 and another repository; see tests/e2e/hub.py."""
    hub = FakeHub()
    stock(hub, minilm_checkpoint, minilm("Q8_0"))
    yield hub
    hub.close()
