"""The words of docs/glossary.md: names and prose use the field's terms, docstrings begin with what is returned or done.

Run as a script with paths it lists what it finds: `python -m tests.test_vocabulary edgeembed/hub`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_CHECKED = (
    "CHANGELOG.md",
    "edgeembed/common/migration.py",
    "edgeembed/diagnostics/bench/texts.py",  # a word list, which seeds of earlier measurements rely on
    "tests/common/test_migration.py",
    "tests/test_vocabulary.py",
)

# Never, in names or prose. The right-hand side is what is said instead.
BANNED = {
    "ladder": "fallback policy",
    "rung": "execution mode",
    "rungs": "execution modes",
    "climb": "promote",
    "climbs": "promote",
    "obituary": "worker exit",
    "ledger": "activity table",
    "fleet": "configured models",
    "roster": "model registry",
    "wish": "row request",
    "rider": "sentinel text",
    "riders": "sentinel texts",
    "tally": "counters",
    "patience": "retry budget",
    "patiently": "with retries",
}
# Plain English elsewhere; as (part of) the name of a module, class, function or attribute they were words of our own.
BANNED_NAMES = BANNED | {
    "fall": "demotion",
    "falls": "demotions",
    "fell": "demoted",
    "life": "worker session, lifecycle",
    "death": "worker exit",
    "flight": "single flight",
    "flights": "single flight",
    "landed": "on_result",
    "land": "on_result",
    "door": "limiter",
    "doors": "limiters",
    "seal": "isolated batch",
    "sealed": "isolated",
    "sight": "probe result",
    "carry": "transfer",
    "known": "a Bloom filter, or say what is known",
    "unwritten": "write buffer",
    "face": "icon",
    "news": "notifications",
    "way": "run profile",
    "ways": "run profiles",
    "look": "autotune, inspect",
    "looked": "autotuned, inspected",
    "told": "summary",
    "front": "fast path",
}
ALLOWED_NAMES = re.compile(r"single_?flight|in_?flight|half_?life|look_?up|lifecycle", re.IGNORECASE)
FIRST_WORDS = ("Give", "Gives", "Say", "Says", "Tell", "Tells")
_BANNED_WORD = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(BANNED)})(?![A-Za-z])", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of every class, function, parameter, attribute, constant and import of a module."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.AnnAssign(target=ast.Name(id=name)):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) if name.isupper():
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield 0, name


def python_problems(path: Path, text: str) -> Iterator[str]:
    tree = ast.parse(text)
    for line, name in [(1, path.stem), *names_in(tree)]:
        words = _WORD.findall(ALLOWED_NAMES.sub("", name))
        for word in words:
            if instead := BANNED_NAMES.get(word.lower()):
                yield f"{line}: the name {name!r}: not {word!r}, but {instead!r}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").split(" ")[0]
            if first in FIRST_WORDS:
                yield f"{getattr(node, 'lineno', 1)}: a docstring begins with {first!r}"
    yield from prose_problems(text)


def prose_problems(text: str) -> Iterator[str]:
    for found in _BANNED_WORD.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield f"{line}: not {found[0]!r}, but {BANNED[found[0].lower()]!r}"


def problems_of(path: Path) -> list[str]:
    """Return what is wrong in a file, each with its line where there is one."""
    text = path.read_text(encoding="utf-8")
    return list(python_problems(path, text) if path.suffix == ".py" else prose_problems(text))


def checked_files(under: str = ".") -> list[Path]:
    listed = subprocess.run(["git", "ls-files", under], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    suffixes = {".py", ".md", ".toml", ".js", ".html", ".css", ".h", ".cpp", ".sh", ".service", ".yaml", ".cfg", ".conf"}
    return [ROOT / name for name in listed if Path(name).suffix in suffixes and name not in NOT_CHECKED]


def test_names_and_prose_use_the_words_of_the_glossary() -> None:
    found = [f"{path.relative_to(ROOT)}:{problem}" for path in checked_files() for problem in problems_of(path)]
    assert not found, "\n".join(found)


if __name__ == "__main__":
    paths = [path for name in sys.argv[1:] or ["."] for path in checked_files(name)]
    lines = [f"{path.relative_to(ROOT)}:{problem}" for path in paths for problem in problems_of(path)]
    print("\n".join(lines))
    print(f"{len(lines)} found")
    sys.exit(bool(lines))
