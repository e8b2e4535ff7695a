"""PDF, DOCX and HTML documents as inputs: their texts, titles and pages, and why one cannot be read."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import docx
import pypdf
import pytest

from edgeembed.bulk.documents import UnreadableError, read_document
from edgeembed.bulk.inputs import Columns, Cursor, open_inputs
from edgeembed.bulk.places import Place
from edgeembed.bulk.records import Record
from edgeembed.errors import ConfigError
from edgeembed.inference.chunking import Chunker, ChunkRules, WordTokens
from tests.bulk.reading import opened, records, rejects

PAGES = ["The first page speaks of rain.", "The second page speaks of deserts.", "The third page is about umbrellas."]


def pdf_of(pages: list[str], title: str) -> bytes:
    """Return a PDF file with a line of text on each page."""
    kids = " ".join(f"{4 + 2 * page} 0 R" for page in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 200] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects.append(f"<< /Title ({title}) >>")
    content, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n{each}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>"
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n{trailer}\nstartxref\n{len(content)}\n%%EOF\n"
    return content + end.encode()


def write_pdf(path: Path, pages: list[str] | None = None) -> Path:
    path.write_bytes(pdf_of(PAGES if pages is None else pages, "Of weather"))
    return path


def write_docx(path: Path) -> Path:
    document = docx.Document()
    document.core_properties.title = "A report"
    document.add_heading("Chapter")
    document.add_paragraph("Before the table.")
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    document.add_paragraph("Behind it.")
    document.save(str(path))
    return path


def write_html(path: Path, encoding: str = "utf-8", head: str = "") -> Path:
    page = (
        f"<!doctype html><html><head>{head}<title>Cheese &amp;\n bread</title><style>p {{}}</style></head>"
        "<body><h1>Head</h1>"
        "<p>One <b>bo</b>ld\n  word.<br>Next</p><ul><li>a</li><li>b</li></ul><script>no()</script>"
        "<pre>x  y\n  z</pre>K\u00e4se</body></html>"
    )
    path.write_bytes(page.encode(encoding))
    return path


def kept(*paths: Path, chunk_rows: bool = False) -> list[tuple[object, Any, Any]]:
    steps = opened(*paths, chunk_rows=chunk_rows).read(Cursor())
    return [
        (step.read.id, step.read.kept.get("title"), step.read.kept.get("page"))
        for step in steps
        if isinstance(step.read, Record)
    ]


def test_a_document_is_one_text_with_its_title(tmp_path: Path) -> None:
    pdf, word, page = write_pdf(tmp_path / "a.pdf"), write_docx(tmp_path / "b.docx"), write_html(tmp_path / "c.html")
    inputs = opened(pdf, word, page)
    assert records(inputs) == [
        (str(pdf), "\n\n".join(PAGES)),
        (str(word), "Chapter\n\nBefore the table.\n\nleft\tright\n\nBehind it."),
        (str(page), "Head\n\nOne bold word.\nNext\n\na\nb\n\nx  y\n  z\n\nKäse"),
    ]
    assert kept(pdf, word, page) == [
        (str(pdf), "Of weather", 1),
        (str(word), "A report", None),
        (str(page), "Cheese & bread", None),
    ]
    assert inputs.kept_types() == {"title": "string", "page": "int64"}
    assert opened(tmp_path).kept_types() == {"title": "string", "page": "int64"}


def test_chunks_have_the_page_on_which_they_begin(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf")
    found = kept(path, chunk_rows=True)
    assert found[0][2] == 1
    assert {page for _, _, page in found} == {1, 2, 3}
    text = "\n\n".join(PAGES)
    for id_, title, page in found:
        start = int(str(id_).partition("#")[2].partition("-")[0])
        assert title == "Of weather"
        assert page == 1 + text.count("\n\n", 0, start + 1)
    assert [(str(id_).partition("#")[2], page) for id_, _, page in kept(tmp_path)] == [
        (str(id_).partition("#")[2], page) for id_, _, page in found
    ], "a folder cuts its documents in the same way"


def test_reading_goes_on_inside_a_document(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf")
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4\nnothing else")
    write_docx(tmp_path / "c.docx")
    for names in ((tmp_path,), (tmp_path / "a.pdf", tmp_path / "c.docx")):
        whole = list(opened(*names, chunk_rows=True).read(Cursor()))
        assert len(whole) > 6
        for index, step in enumerate(whole):
            assert list(opened(*names, chunk_rows=True).read(step.after)) == whole[index + 1 :]


@pytest.mark.parametrize(
    ("encoding", "head"), [("utf-8", ""), ("latin-1", '<meta charset="latin-1">'), ("utf-16", ""), ("utf-8-sig", "")]
)
def test_pages_are_read_in_their_own_encoding(tmp_path: Path, encoding: str, head: str) -> None:
    assert read_document(Place.of_path(write_html(tmp_path / "a.html", encoding, head))).text.endswith("Käse")


def test_documents_are_read_under_any_name(tmp_path: Path) -> None:
    assert records(opened(write_pdf(tmp_path / "a.txt")))[0][1] == "\n\n".join(PAGES)
    assert records(opened(write_docx(tmp_path / "b.bin")))[0][1].startswith("Chapter")
    with pytest.raises(ConfigError, match="holds a PDF document, not text"):
        open_inputs(
            [str(tmp_path / "a.txt")], "jsonl", Columns(), Chunker(ChunkRules(), WordTokens())
        )  # the user says otherwise


def encrypted(path: Path, algorithm: str) -> Path:
    writer = pypdf.PdfWriter(clone_from=write_pdf(path))
    writer.encrypt("secret", algorithm=algorithm)
    writer.write(path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.pdf", b"%PDF-1.4\nnothing else", "damaged"),
        ("a.pdf", pdf_of(["", ""], ""), "text recognition"),
        ("a.pdf", b"plain text", "no PDF"),
        ("a.docx", b"PK\3\4 and nothing else", "no PDF, DOCX"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 100, "encrypted"),
        ("a.html", b"", "no text"),
        ("a.html", b"<script>no()</script>", "no text"),
        ("a.html", b"\x89PNG\0", "no PDF"),
    ],
    ids=["cut", "empty", "plain", "zip", "ole", "nothing", "script", "png"],
)
def test_a_document_that_cannot_be_read_is_a_reject_with_the_reason(
    tmp_path: Path, name: str, content: bytes, word: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for inputs, place in ((opened(path), "document"), (opened(tmp_path), name)):
        assert [(found, word in reason) for found, reason in rejects(inputs)] == [(place, True)]
        assert records(inputs) == []


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_an_encrypted_document_is_a_reject_unless_anyone_may_read_it(tmp_path: Path, algorithm: str) -> None:
    ((_, reason),) = rejects(opened(encrypted(tmp_path / "a.pdf", algorithm)))
    assert "encrypted; save it without a password" in reason
    writer = pypdf.PdfWriter(clone_from=write_pdf(tmp_path / "b.pdf"))
    writer.encrypt("", "owner", algorithm=algorithm)
    writer.write(tmp_path / "b.pdf")
    assert records(opened(tmp_path / "b.pdf"))[0][1] == "\n\n".join(PAGES)


def test_a_document_that_unpacks_to_more_than_memory_takes_is_a_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_docx(tmp_path / "a.docx")
    monkeypatch.setattr("edgeembed.bulk.documents.MAX_DOCUMENT_BYTES", path.stat().st_size + 1)
    with pytest.raises(UnreadableError, match="when unpacked"):
        read_document(Place.of_path(path))


@pytest.mark.parametrize(("name", "module"), [("a.pdf", "pypdf"), ("a.docx", "docx"), ("a.html", "lxml")])
def test_without_its_library_a_document_is_an_error_that_tells_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    path = {"a.pdf": write_pdf, "a.docx": write_docx, "a.html": write_html}[name](tmp_path / name)
    import_ = builtins.__import__
    for loaded in [each for each in sys.modules if each.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, loaded, None)

    def without(wanted: str, *rest: Any) -> Any:
        if wanted.partition(".")[0] == module:
            raise ImportError(wanted)
        return import_(wanted, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=f"documents needs {module}: .*"):
        records(opened(path))
    assert f"needs {module}" in rejects(opened(tmp_path))[0][1], "a folder holds other files, too"
