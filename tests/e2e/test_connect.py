"""Connect: the dashboard's recipes, with values filled in, are valid, run as they stand, and say what is wrong."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from edgeembed.server.api_keys import Keys
from edgeembed.server.auth import Access
from tests.bulk.daemon import serving
from tests.clients.environments import environments, make_in_ci
from tests.e2e.dashboard_page import Page
from tests.fakes import FakeEngine

NAME = """it's "a" {base} $HOME \\ <b>name</b>: #1"""
"""A model may be called so: whatever a file may be."""
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SECRET = "a-key-that-nobody-guesses"
ENVIRONMENTS = environments()
PROGRAMS = {
    "OpenAI, Python": ("dev", "print(len(vectors[0]))"),
    "Ollama, Python": ("dev", "print(len(vectors[0]))"),
    "LangChain": ("langchain", "print(len(vectors[0]))"),
    "LlamaIndex": ("llama-index", "print(len(vectors[0]))"),
    "OpenAI, JavaScript": ("npm", "console.log(vectors[0].length);"),
}


@pytest.fixture
def page(chromium: webdriver.Chrome) -> Iterator[Page]:
    with serving(FakeEngine()) as port:
        page = Page(chromium, f"http://127.0.0.1:{port}")
        page.open("connect")
        page.wait_for("#snippets", "Continue")
        yield page


def snippets(page: Page) -> dict[str, tuple[str, str]]:
    """Return language and code of the recipes that have code, by program."""
    found = page.chrome.execute_script(
        "return [...document.querySelectorAll('#snippets code[data-language]')].map("
        "(code) => [code.closest('[data-program]').dataset.program, [code.dataset.language, code.textContent]])"
    )
    return {program: (language, code) for program, (language, code) in found}


def call_model(page: Page, name: str) -> None:
    page.chrome.execute_script(
        "const option = document.querySelector('#connect-model option'); option.value = option.textContent = arguments[0];"
        "document.getElementById('connect-model').dispatchEvent(new Event('change'));",
        name,
    )


def leaves(part: Any) -> list[Any]:
    """Return what is in JSON's lists and objects."""
    if isinstance(part, dict):
        return [leaf for each in part.values() for leaf in leaves(each)]
    return [leaf for each in part for leaf in leaves(each)] if isinstance(part, list) else [part]


def strings(language: str, code: str) -> list[Any]:
    """Return the values in a snippet. Raises the language's own error if it is not valid."""
    match language:
        case "yaml":
            return leaves(yaml.safe_load(code))
        case "json":
            return leaves(json.loads(code))
        case "toml":
            return leaves(tomllib.loads(code))
        case "python":
            return [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
        case "js":
            return [json.loads(found) for found in STRING.findall(code)]
        case "env":
            values = [line.partition("=")[2] for line in code.splitlines()]
            return [json.loads(value) if value.startswith('"') else value for value in values]
        case "sh":
            subprocess.run(["bash", "-n", "-c", code], check=True, timeout=30)
            words = shlex.split(code.replace("\\\n", " "))
            return [*words, *(leaf for word in words if word.startswith("{") for leaf in leaves(json.loads(word)))]
    raise AssertionError(language)


def test_every_snippet_is_valid_whatever_the_model_is_called(page: Page) -> None:
    call_model(page, NAME)
    found = snippets(page)
    assert {language for language, _ in found.values()} == {"yaml", "json", "toml", "python", "js", "env", "sh"}
    for program, (language, code) in found.items():
        values = strings(language, code)
        assert any(str(value).startswith(page.url) or value == page.url.rpartition(":")[2] for value in values), program
        assert NAME in values, (program, values)
    assert [*page.texts("[data-program='Roo Code'] dd code")][2:4] == ["unused", NAME], "no program takes an empty key"


@pytest.mark.slow
def test_snippets_run_as_they_stand(page: Page, tmp_path: Path) -> None:
    """Those of environments that are not made here are left out; CI makes all."""
    found = snippets(page)
    done = subprocess.run(["bash", "-c", found["curl"][1]], capture_output=True, text=True, timeout=60, check=True)
    assert len(json.loads(done.stdout)["data"][0]["embedding"]) == 16
    ran = []
    for program, (name, prints) in PROGRAMS.items():
        environment = ENVIRONMENTS[name]
        try:
            make_in_ci(environment)
        except pytest.skip.Exception:
            continue
        language, code = found[program]
        file = environment.home_of_programs(tmp_path) / f"recipe{'.mjs' if language == 'js' else '.py'}"
        file.write_text(f"{code}\n{prints}\n", encoding="utf-8")
        done = subprocess.run(environment.command(file), capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout.strip()) == (0, "16"), (program, done.stderr)
        ran.append(program)
    assert ran, sys.executable


def result(page: Page, program: str) -> str:
    """Press a recipe's test button, and return what it shows."""
    card = page.find(f"[data-program='{program}']")
    card.find_element(By.CSS_SELECTOR, "[aria-label^='Test:']").click()
    return page.wait_for(f"[data-program='{program}'] .result", ".")


def test_a_test_says_that_it_works_or_what_to_do(page: Page) -> None:
    for program in ("Continue", "Smart Connections", "n8n", "curl"):
        assert re.fullmatch(r"Works: 16 numbers in [\d.]+ ms\.", result(page, program)), program
    call_model(page, "not-here")
    assert "there is no model 'not-here'. Installed: embedder" in result(page, "Roo Code")
    page.open("connect")
    page.wait_for("#snippets", "Continue")
    Select(page.find("#connect-model")).select_by_visible_text("embedder")
    Select(page.find("#connect-place")).select_by_value("container")
    port = page.url.rpartition(":")[2]
    assert page.texts("[data-program='Open WebUI'] dd code")[1] == f"http://host.docker.internal:{port}/v1"
    assert "host 0.0.0.0" in page.text("#connect-place-words") and "host-gateway" in page.text("#connect-place-words")
    assert "Answers" in result(page, "Open WebUI") and "on this computer only" in result(page, "Open WebUI")


def test_programs_are_found_by_name_and_kind(page: Page) -> None:
    for words, found in (
        ("librech", {"LibreChat"}),
        ("obsidian", {"Smart Connections", "Copilot for Obsidian"}),
        ("xyz", set()),
    ):
        page.write("#connect-search", words)
        assert {name for name in page.texts("#snippets h4") if name} == found
        assert len([kind for kind in page.texts("#snippets h3") if kind]) == min(1, len(found))
    assert page.find("#connect-none").is_displayed()


def test_a_result_stays_when_models_are_loaded(page: Page) -> None:
    shown = result(page, "Continue")
    page.chrome.execute_script("window.before = document.querySelector('[data-program=Continue]')")
    page.chrome.execute_script("dispatchEvent(new Event('changed'))")
    page.chrome.execute_async_script("fetch('v1/models').then(() => setTimeout(arguments[0], 200))")
    assert page.text("[data-program=Continue] .result") == shown


def test_a_typed_key_is_filled_in_and_sent_nowhere(chromium: webdriver.Chrome) -> None:
    with serving(FakeEngine(), access=Access(keys=Keys.read(SECRET, None))) as port:
        page = Page(chromium, f"http://127.0.0.1:{port}")
        page.open("connect")
        page.wait_for("#pill", "locked")
        page.write("#key", SECRET)
        page.find("#unlock [type=submit]").click()
        page.wait_for("#snippets", "YOUR_KEY")
        page.chrome.get_log("performance")
        page.write("#connect-key", "another-key")
        assert page.text("#snippets").count("another-key") > 10 and "YOUR_KEY" not in page.text("#snippets")
        assert "authorization: Bearer another-key" in snippets(page)["curl"][1]
        assert "Works" in result(page, "Continue"), "the test sends the key that the page was opened with"
        assert "cannot send an API key" in page.text("[data-program='Smart Connections']")
        assert not [entry for entry in page.chrome.get_log("performance") if "another-key" in entry["message"]]
        page.chrome.execute_script("sessionStorage.clear()")
