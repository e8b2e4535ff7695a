"""README and the pages of docs/, taken apart: fenced blocks, command lines, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("installers/**/README.md"),
        *ROOT.glob("edgeembed/**/README.md"),
        *ROOT.glob("tests/**/README.md"),
    ]
)
FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
QUOTED_OR_COMMENT = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|(?:^|(?<=\s))#.*""")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a command line, as a shell splits it: no pipes, lists or redirections."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place} {shlex.join(self.words)}"


def blocks(*languages: str) -> list[Block]:
    """Return the fenced blocks in these languages, of all pages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[2] in languages:
                indent, lines = match[1], match[3].splitlines()
                inside = "\n".join(line.removeprefix(indent) for line in lines)
                found.append(Block(page, text.count("\n", 0, match.start()) + 2, match[2], inside))
    return found


def prose(page: Path) -> str:
    """Return a page without its fenced blocks and comments."""
    return COMMENT.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))


def commands() -> list[Command]:
    """Return every command: of `sh` blocks, after the prompts of `console` blocks, and `edgeembed …` in prose."""
    found = [command for block in blocks("sh", "bash", "console") for command in _of_block(block)]
    for page in PAGES:
        place = page.relative_to(ROOT).as_posix()
        for inline in re.findall(r"`(edgeembed [^`\n]+)`", prose(page)):
            found += _split(place, inline)
    return found


def _of_block(block: Block) -> Iterator[Command]:
    for offset, line in _lines(block):
        place = f"{block.page.relative_to(ROOT).as_posix()}:{block.line + offset}"
        yield from _split(place, line)


def _lines(block: Block) -> Iterator[tuple[int, str]]:
    """Yield command lines with the number of their first line; a backslash, or an open quote, continues one."""
    whole, start = "", 0
    for number, line in enumerate(block.text.splitlines()):
        if not whole:
            start = number
            if block.language == "console":
                if not line.startswith(("$ ", "# ")):
                    continue  # what the command printed
                line = line[2:]
        whole += line
        if whole.endswith("\\"):
            whole = whole[:-1] + " "
        elif re.search("['\"]", QUOTED_OR_COMMENT.sub("", whole)):  # a quote is open
            whole += "\n"
        else:
            command = QUOTED_OR_COMMENT.sub(lambda found: found[0] if found[0][0] in "'\"" else "", whole)
            if command.strip():
                yield start, command
            whole = ""
    assert not whole, f"{block.place}: a command line that does not end: {whole}"


def _split(place: str, line: str) -> Iterator[Command]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if skip:  # the file of a redirection
            skip = False
        elif re.fullmatch(r"[;&|()]+", word):
            while words and (re.fullmatch(r"[A-Za-z_]\w*=.*", words[0], re.DOTALL) or words[0] in ("sudo", "time", "exec")):
                words.pop(0)
            if words:
                yield Command(place, tuple(words))
            words = []
        elif re.fullmatch(r"[<>]+&?", word):
            skip = True
        else:
            words.append(word)
