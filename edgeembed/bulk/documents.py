"""Reads PDF, DOCX and HTML documents: the text of one, its title, and where its pages begin. The libraries are an extra."""

from __future__ import annotations

import io
import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from edgeembed.bulk.content import HEAD_BYTES, Content, content_of
from edgeembed.bulk.places import Place
from edgeembed.bulk.records import PAGE, Position, Read, Record, Reject, fingerprint_of, size_of
from edgeembed.bulk.stores.interface import import_extra
from edgeembed.errors import ConfigError

EXTRA = "documents"
HTML_SUFFIXES = (".html", ".htm", ".xhtml")
DOCUMENT_SUFFIXES = (".pdf", ".docx", *HTML_SUFFIXES)
TITLE = "title"
DOCUMENT_COLUMNS: Mapping[str, str] = {TITLE: "string", PAGE: "int64"}
"""Columns of the output with documents among the inputs, and their types."""
MAX_DOCUMENT_BYTES = 512 * 2**20
"""Larger documents are refused; of a DOCX file, its unpacked parts count, too."""

_OLE = b"\xd0\xcf\x11\xe0"
# fmt: off
_PARAGRAPHS = frozenset([
    "address", "article", "aside", "blockquote", "body", "dd", "div", "dl", "dt", "fieldset", "figure", "footer",
    "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "main", "nav", "ol", "p", "pre", "section", "table",
    "ul",
])
# fmt: on
_LINES = frozenset(["br", "caption", "figcaption", "legend", "li", "option", "summary", "tr"])
_SILENT = frozenset(["head", "script", "style", "template", "noscript", "svg"])


class Document(NamedTuple):
    """The text of a document. title: None if it has none. pages: the first character of each; empty if it has no pages."""

    text: str
    title: str | None = None
    pages: tuple[int, ...] = ()


class UnreadableError(Exception):
    """A document that cannot be read, with the reason."""


def is_document(place: Place, content: Content) -> bool:
    """Return whether a file is a document by what it holds: a PDF or DOCX file, whatever its name."""
    if content != "zip":
        return content == "pdf"
    try:
        with _opened(place) as file:
            return _is_docx(file)
    except UnreadableError:
        return False


def read_document(place: Place) -> Document:
    """Read a document.

    Raises UnreadableError, also for one without text; ConfigError without the library; PlaceError, OSError.
    """
    with _opened(place) as file:
        return _document(file, place.suffix.lower())


def _opened(place: Place) -> BinaryIO:
    """Open a document; one of a store is in memory. Raises UnreadableError if it is too large; PlaceError, OSError."""
    status = place.require()
    if (status.size or 0) <= MAX_DOCUMENT_BYTES:
        file = place.open(status)
        if not place.is_remote:
            return file
        with file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(content) <= MAX_DOCUMENT_BYTES:
            return io.BytesIO(content)
    raise UnreadableError(f"the file is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB; split it")


def _document(file: BinaryIO, suffix: str) -> Document:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    content = content_of(head)
    if content == "pdf":
        reader = _pdf
    elif content == "zip" and _is_docx(file):
        reader = _docx
    elif suffix in HTML_SUFFIXES and content in ("text", "utf-16"):
        reader = _html
    elif head.startswith(_OLE):
        raise UnreadableError("the document is encrypted, or of an old Office format; save it as .docx without a password")
    else:
        raise UnreadableError("the file is no PDF, DOCX or HTML document")
    try:
        found = reader(file)
    except (ConfigError, UnreadableError, OSError):
        raise
    except Exception as error:  # of any class, for documents that are damaged
        # Its message may quote the document.
        raise UnreadableError(f"the document is damaged ({type(error).__name__})") from error
    if not found.text.strip():
        hint = "; scanned pages need text recognition first" if content == "pdf" else ""
        raise UnreadableError(f"the document has no text{hint}")
    return found


class DocumentFile:
    """A document as one text, whose id is the file's name."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def size_bytes(self) -> int | None:
        return size_of(self.place)

    def fingerprint(self) -> str:
        return fingerprint_of(self.place)

    def kept_types(self) -> Mapping[str, Any]:
        return DOCUMENT_COLUMNS

    def read(self, start: Position) -> Iterator[Read]:
        if start.offset:
            return
        after = Position(1, 1, done=self.size_bytes or 0)
        try:
            found = read_document(self.place)
        except UnreadableError as error:
            yield Reject("document", str(error), after, self.name)
            return
        kept = {TITLE: found.title, **({PAGE: 1} if found.pages else {})}
        yield Record(self.name, found.text, 0, after, "document", kept, found.pages)


def _pdf(file: BinaryIO) -> Document:
    pypdf = import_extra("pypdf", EXTRA, "reading PDF documents")
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every flaw that it reads around
    reader = pypdf.PdfReader(file)
    if reader.is_encrypted:
        try:
            opened = reader.decrypt("")  # anyone may read many that are encrypted
        except pypdf.errors.DependencyError as error:
            raise UnreadableError("the document is encrypted by AES; install cryptography to read it") from error
        if not opened:
            raise UnreadableError("the document is encrypted; save it without a password")
    text = ""
    pages: list[int] = []
    for page in reader.pages:
        pages.append(len(text))
        text += page.extract_text().strip() + "\n\n"
    title = reader.metadata.title if reader.metadata else None
    # Half characters, of fonts without a proper table, cannot be embedded.
    return Document(text.rstrip().encode("utf-8", "replace").decode(), _title(title), tuple(pages))


def _docx(file: BinaryIO) -> Document:
    docx = import_extra("docx", EXTRA, "reading DOCX documents")
    with zipfile.ZipFile(file) as archive:
        if sum(part.file_size for part in archive.infolist()) > MAX_DOCUMENT_BYTES:
            raise UnreadableError(f"the document is larger than {MAX_DOCUMENT_BYTES // 2**20} MiB when unpacked")
    document = docx.Document(file)
    parts: list[str] = []
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            parts.append("\n".join("\t".join(dict.fromkeys(cell.text for cell in row.cells)) for row in block.rows))
        else:
            parts.append(block.text)
    return Document("\n\n".join(part for part in parts if part.strip()), _title(document.core_properties.title))


def _html(file: BinaryIO) -> Document:
    html, etree = (import_extra(f"lxml.{module}", EXTRA, "reading HTML documents") for module in ("html", "etree"))
    content = file.read()
    try:
        content.decode("utf-8-sig")
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = None  # as the page declares it
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        return Document("")
    root = html.document_fromstring(content, parser=html.HTMLParser(encoding=encoding, huge_tree=True))
    parts: list[str] = []
    silent = preformatted = 0
    for event, element in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
        if event in ("start", "end"):
            step = 1 if event == "start" else -1
            silent += step * (element.tag in _SILENT)
            preformatted += step * (element.tag == "pre")
            parts.append("\n\n" if element.tag in _PARAGRAPHS else "\n" if element.tag in _LINES and step > 0 else "")
            parts.append(" " if element.tag in ("td", "th") and step > 0 else "")
        words = element.text if event == "start" else element.tail
        if words and not silent:
            words = words if preformatted else re.sub(r"\s+", " ", words)
            parts.append(words.lstrip(" ") if "".join(parts[-2:]).endswith("\n") and not preformatted else words)
    text = re.sub(r"[ \t]+\n", "\n", "".join(parts))
    title = root.findtext(".//title")
    return Document(re.sub(r"\n{3,}", "\n\n", text).strip(), _title(title))


def _title(title: object) -> str | None:
    return " ".join(str(title).split()) or None if title is not None else None


def _is_docx(file: BinaryIO) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return "word/document.xml" in archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return False
