"""The examples of docs/clients.md, and how they are run."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.clients.environments import Environment
from tests.clients.matrix import RERANKER

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
WRITTEN = "http://127.0.0.1:8327"
WRITTEN_RERANKER = "qwen3-reranker-0.6b"
_EXAMPLE = re.compile(r"<!-- environment: (\S+) -->\n```(python|js)\n(.*?)```", re.DOTALL)
_FENCE = re.compile(r"^```(?:python|js)$", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A program of the page: where it runs, its language, its text."""

    environment: str
    language: str
    line: int
    text: str

    @property
    def printed(self) -> str:
        """What the comment at its end says that it prints."""
        [comment] = re.findall(r"(?:#|//) (\S+)\n\Z", self.text)
        return str(comment)

    def run(self, environment: Environment, url: str, folder: Path) -> str:
        """Return what it prints.

        Raises:
            AssertionError: it fails.
        """
        name = f"example_{self.line}.{'mjs' if self.language == 'js' else 'py'}"
        program = environment.home_of_programs(folder) / name
        program.write_text(self.text.replace(WRITTEN, url).replace(WRITTEN_RERANKER, RERANKER), encoding="utf-8")
        variables = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
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


def examples() -> list[Example]:
    """Return the examples of the page.

    Raises:
        ValueError: one does not say where it runs.
    """
    page = PAGE.read_text(encoding="utf-8")
    found = [
        Example(match[1], match[2], page.count("\n", 0, match.start()) + 2, match[3]) for match in _EXAMPLE.finditer(page)
    ]
    if len(found) != len(_FENCE.findall(page)):
        raise ValueError(f"{PAGE.name}: an example without <!-- environment: NAME --> before it")
    return found
