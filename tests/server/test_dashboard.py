"""GET /: who gets the page, and what it may contain."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from importlib import resources

import pytest
from aiohttp.test_utils import TestClient

from edgeembed.server import dashboard
from edgeembed.server.api_keys import Keys
from edgeembed.server.app import make_app
from edgeembed.server.auth import Access
from tests.fakes import FakeEngine, fake_service

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FILES = ("/", *(f"/{name}" for name in (*dashboard.STYLES, *dashboard.SCRIPTS, "recipes.json")))


def source(name: str) -> str:
    return resources.files(dashboard).joinpath(name).read_text(encoding="utf-8")


async def test_browsers_get_a_page_and_programs_a_line_of_text(client: TestClient) -> None:
    page = await client.get("/", headers=BROWSER)
    assert page.content_type == "text/html" and "<title>edgeembed</title>" in await page.text()
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        response = await client.get("/", headers=headers)
        assert response.content_type == "text/plain"
        assert (await response.text()).startswith("Ollama is running"), "scripts for Ollama look for it"
        assert response.headers["Vary"] == "Accept"
    assert (await client.head("/")).status == 200


async def test_every_file_has_a_strict_content_security_policy(client: TestClient) -> None:
    for path in FILES:
        response = await client.get(path, headers=BROWSER)
        policy = dict(part.strip().partition(" ")[::2] for part in response.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert "unsafe" not in str(policy)
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_cached_file_is_not_sent_again(client: TestClient) -> None:
    first = await client.get("/dashboard.js")
    again = await client.get("/dashboard.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")
    assert (await client.get("/dashboard.js", headers={"If-None-Match": '"another"'})).status == 200


async def test_with_api_keys_only_page_and_probes_are_open(
    aiohttp_client: Callable[..., Awaitable[TestClient]],
) -> None:
    access = Access(keys=Keys.read("secret-key", None))
    client = await aiohttp_client(make_app(fake_service(FakeEngine()), access=access))
    for path in (*FILES, "/livez", "/readyz", "/health"):
        assert (await client.get(path, headers=BROWSER)).status != 401, path
    for path in ("/v1/status", "/v1/models", "/metrics"):
        assert (await client.get(path)).status == 401, path
    assert (await client.post("/", json={"inputs": "x"})).status == 401, "POST / embeds"


@pytest.mark.parametrize("name", ["index.html", *dashboard.STYLES, *dashboard.SCRIPTS])
def test_nothing_is_loaded_from_other_servers_and_no_text_becomes_html(name: str) -> None:
    text = source(name)
    for address in re.findall(r"https?://[^\s\"'`)]+", text):
        assert address.startswith("http://www.w3.org/"), "only XML namespaces"
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "localStorage"):
        assert way not in text
    assert "@import" not in text and " style=" not in text and not re.search(r"\son\w+=", text)


def test_every_script_that_is_imported_is_served() -> None:
    imported = {name for script in dashboard.SCRIPTS for name in re.findall(r'(?:from|import) "\./([^"]+)"', source(script))}
    assert imported | {"dashboard.js"} == set(dashboard.SCRIPTS)


def test_every_form_field_has_a_label() -> None:
    page = source("index.html")
    labelled = set(re.findall(r'<label for="([^"]+)"', page))
    fields = re.findall(r"<(?:input|textarea|select) [^>]*>", page)
    assert len(fields) >= 8
    for field in fields:
        (id_,) = re.findall(r'\bid="([^"]+)"', field)
        assert id_ in labelled or "aria-label=" in field, field
