"""The browser of the end-to-end tests, and a model hub on this machine.

Chromium and its driver come from the system (on Debian: `apt-get install chromium chromium-driver`). Without them, the tests
that use them are skipped; in CI, they fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.e2e.dashboard_page import start_chromium
from tests.e2e.hub import stock
from tests.hub.fakes import FakeHub


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
