"""A retrieval set from Python's documentation: paragraphs, and queries that were taken out of them.

The documentation (PSF License Version 2) is read from its reStructuredText sources, as the Debian package python3.11-doc
has them: `apt-get download python3.11-doc && dpkg-deb -x python3.11-doc*.deb FOLDER`, then
FOLDER/usr/share/doc/python3.11/html/_sources.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["sentence", "title", "name"]
WANTED: dict[Kind, int] = {"sentence": 100, "title": 60, "name": 60}
PARAGRAPHS = 1_000
FOLDERS = ("faq", "howto", "library", "reference", "tutorial", "using", "extending", "c-api")
SEED = 0
_WORDS = range(20, 150)
_QUERY_WORDS = range(6, 31)
_RULE = re.compile(r"([=\-~^\"'*#+.:])\1{2,}\s*$")
_DIRECTIVE = re.compile(
    r"(\s*)\.\. (?:c:|py:)?(function|class|method|exception|data|attribute|classmethod|macro)::\s+([\w.]+)"
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_MARKUP = (
    (re.compile(r":[\w:+-]+:`[~!]?([^`<]*?)\s*(?:<[^`>]*>)?`"), r"\1"),
    (re.compile(r"`([^`<]*?)\s*<[^`>]*>`__?"), r"\1"),
    (re.compile(r"\[#?[\w-]*\]_"), ""),
    (re.compile(r"``?([^`]*)``?_?"), r"\1"),
    (re.compile(r"\*\*?([^*\s][^*]*)\*\*?"), r"\1"),
    (re.compile(r"\\(.)"), r"\1"),
    (re.compile(r"::$"), ":"),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Query:
    """kind: a first sentence, which its paragraph then lacks; the title of a section; a name from the index.

    paragraph: the number of the one that it is from.
    """

    kind: Kind
    text: str
    paragraph: int


@dataclass(frozen=True)
class RetrievalSet:
    """Paragraphs, and queries each of which is to find one of them."""

    paragraphs: list[str]
    queries: list[Query]


@dataclass(frozen=True)
class _Paragraph:
    text: str
    title: str = ""
    """Of the section that it begins."""
    name: str = ""
    """What it describes."""


def retrieval_set(sources: Path) -> RetrievalSet:
    """Return paragraphs in an order drawn once for all, those of the queries among them."""
    found: dict[str, _Paragraph] = {}
    for folder in FOLDERS:
        for file in sorted((sources / folder).rglob("*.rst.txt")):
            for paragraph in _paragraphs(file.read_text(encoding="utf-8")):
                found.setdefault(paragraph.text, paragraph)
    every = list(found.values())
    titles, names = Counter(each.title for each in every), Counter(each.name for each in every)
    drawn = random.Random(SEED)
    drawn.shuffle(every)
    paragraphs: list[str] = []
    queries: list[Query] = []
    left = Counter(WANTED)
    for each in every:
        if len(paragraphs) == PARAGRAPHS:
            break
        sentences = _SENTENCE.split(each.text)
        text = each.text
        kind: Kind | None = None
        if each.title and titles[each.title] == 1 and len(each.title.split()) > 1 and left["title"]:
            kind, query = "title", each.title
        elif each.name and names[each.name] == 1 and left["name"]:
            kind, query = "name", each.name
        elif len(sentences) > 2 and len(sentences[0].split()) in _QUERY_WORDS and left["sentence"]:
            kind, query, text = "sentence", sentences[0], " ".join(sentences[1:])
        elif len(paragraphs) - len(queries) >= PARAGRAPHS - sum(WANTED.values()):
            continue  # room for the queries
        if kind is not None:
            queries.append(Query(kind, query, len(paragraphs)))
            left[kind] -= 1
        paragraphs.append(text)
    return RetrievalSet(paragraphs, queries)


def _paragraphs(source: str) -> Iterator[_Paragraph]:
    """Yield the paragraphs of prose in a file, with the title or the name that is right before them."""
    title = name = ""
    for block in re.split(r"\n\s*\n", source):
        lines = block.strip("\n").split("\n")
        rules = [number for number, line in enumerate(lines) if _RULE.match(line)]
        if rules and (heads := [line for line in lines if not _RULE.match(line)]):
            title, name = _plain(heads[-1] if rules[0] else heads[0]), ""
        elif directive := _DIRECTIVE.match(lines[0]):
            title, name = "", directive[3]
        elif (text := _prose(lines)) is not None:
            yield _Paragraph(text, title, name)
            title = name = ""


def _prose(lines: list[str]) -> str | None:
    """Return a block as one line without markup; None if it is something else than prose."""
    if lines[0].lstrip()[:2] in ("..", ">>", "* ", "- ", "+-", "| ", "#.") or lines[0].lstrip().startswith(":"):
        return None
    text = _plain(" ".join(line.strip() for line in lines))
    words = text.split()
    if len(words) not in _WORDS or not text[0].isupper() or text[-1] not in ".:" or ">>>" in text:
        return None
    return text if sum(word[:1].isalpha() for word in words) > 0.8 * len(words) else None


def _plain(text: str) -> str:
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text.strip())
    return text.strip()
