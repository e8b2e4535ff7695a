"""The examples of docs/clients.md, docs/python.md and docs/search.md, and how they are run."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.clients.environments import Environment
from tests.clients.matrix import M3, RERANKER

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("clients", "python", "search")]
WRITTEN = "http://127.0.0.1:8327"
WRITTEN_MODELS = {"qwen3-reranker-0.6b": RERANKER, "bge-m3": M3}
"""Models of the pages, and the small ones that take their place."""
_EXAMPLE = re.compile(r"<!-- environment: (\S+) -->\n```(python|js)\n(.*?)```", re.DOTALL)
_FENCE = re.compile(r"^```(?:python|js)$", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A program of the page: where it runs, its language, its text."""

    page: Path
    environment: str
    language: str
    line: int
    text: str

    @property
    def printed(self) -> str:
        """What the comment at its end says that it prints."""
        [comment] = re.findall(r"(?:#|//) (\S.*)\n\Z", self.text)
        return str(comment)

    def run(self, environment: Environment, url: str, folder: Path) -> str:
        """Return what it prints.

        Raises:
            AssertionError: it fails.
        """
        name = f"example_{self.line}.{'mjs' if self.language == 'js' else 'py'}"
        program = environment.home_of_programs(folder) / name
        text = self.text.replace(WRITTEN, url)
        for written, small in WRITTEN_MODELS.items():
            text = text.replace(written, small)
        program.write_text(text, encoding="utf-8")
        variables = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        if "edgeembed" in self.text:
            variables["PYTHONPATH"] = os.pathsep.join(_paths(environment))
            variables["EDGEEMBED_PORT"] = str(urlsplit(url).port)
        done = subprocess.run(
            environment.command(program),
            capture_output=True,
            text=True,
            timeout=120,
            env={**variables, **environment.variables},
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def _paths(environment: Environment) -> list[str]:
    """Return where Python finds edgeembed and what it needs; the environment's own packages come first."""
    own, ours = (str(Path(folder)) for folder in (_site_packages(environment), sysconfig.get_paths()["purelib"]))
    return [str(ROOT), str(ROOT / ".ci" / "typed"), own, *([ours] if ours != own else [])]


def _site_packages(environment: Environment) -> str:
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return subprocess.run(
        [str(environment.interpreter), "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()


def examples() -> list[Example]:
    """Return the examples of the pages.

    Raises:
        ValueError: one does not say where it runs.
    """
    return [example for page in PAGES for example in _of(page)]


def _of(page: Path) -> list[Example]:
    text = page.read_text(encoding="utf-8")
    found = [
        Example(page, match[1], match[2], text.count("\n", 0, match.start()) + 2, match[3])
        for match in _EXAMPLE.finditer(text)
    ]
    if len(found) != len(_FENCE.findall(text)):
        raise ValueError(f"{page.name}: an example without <!-- environment: NAME --> before it")
    return found
