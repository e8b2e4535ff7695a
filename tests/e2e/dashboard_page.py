"""The dashboard in a browser, as its tests and screenshots use it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.waiting import until

SECONDS = 60.0
TABS = ("overview", "library", "playground", "connect", "settings", "log")
SCHEMES = ("light", "dark")
WIDTHS = (1280, 360)


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


class Page:
    """The dashboard of a daemon, as a user sees it."""

    def __init__(self, chrome: webdriver.Chrome, url: str) -> None:
        self.chrome = chrome
        self.url = url
        chrome.get_log("browser")
        chrome.get_log("performance")

    def open(self, tab: str = "") -> None:
        self.chrome.get("about:blank")
        self.chrome.get(f"{self.url}/#{tab}")

    def find(self, selector: str) -> WebElement:
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Return the visible text, or an empty string."""
        try:
            return " | ".join(element.text for element in self.chrome.find_elements(By.CSS_SELECTOR, selector))
        except StaleElementReferenceException:  # it has just been redrawn
            return ""

    def wait_for(self, selector: str, words: str) -> str:
        until(
            lambda: words in self.text(selector),
            SECONDS,
            lambda: f"{selector} shows {self.text(selector)!r}, never {words!r}",
        )
        return self.text(selector)

    def write(self, selector: str, words: str) -> None:
        field = self.find(selector)
        field.clear()
        field.send_keys(words)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.chrome.find_elements(By.CSS_SELECTOR, selector)]

    def complaints(self) -> list[str]:
        """Return the warnings and errors of the browser's console, such as violations of the page's policy."""
        return [entry["message"] for entry in self.chrome.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    @contextmanager
    def shown_as(self, scheme: str, width: int, height: int = 800) -> Iterator[None]:
        """Show the page in light or dark, and in a window of so many pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        try:
            yield
        finally:
            self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
            self.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    @property
    def width(self) -> int:
        """The pixels that the page takes; more than the window has if it must be moved sideways."""
        return int(self.chrome.execute_script("return document.documentElement.scrollWidth"))
