"""Compare libraries on a folder of real files: words found, seconds, failures. Candidates not installed are left out.

    python benchmarks/readers.py ../shared/data/formats [SUFFIX …]

``words``: of the words that at least two candidates find in a file, the share that this one finds.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from embedsvc.readers import FieldChoice, read
from embedsvc.readers.items import Means
from embedsvc.records import Document, Source


def embedsvc(suffix: str) -> Callable[[bytes], str]:
    def extract(data: bytes) -> str:
        items = read(Source("file:///x", f"x.{suffix}", data), FieldChoice(), Means(ocr_languages=None))
        return "\n".join(item.text for item in items if isinstance(item, Document))

    return extract


def pypdf(data: bytes) -> str:
    import pypdf as library

    return "\n".join(page.extract_text() for page in library.PdfReader(io.BytesIO(data)).pages)


def pdfplumber(data: bytes) -> str:
    import pdfplumber as library

    with library.open(io.BytesIO(data)) as pdf:
        return "\n".join(page.extract_text() or "" for page in pdf.pages)


def pdfminer(data: bytes) -> str:
    from pdfminer.high_level import extract_text

    return extract_text(io.BytesIO(data))


def trafilatura(data: bytes) -> str:
    import trafilatura as library

    return library.extract(data, favor_recall=True, include_tables=True) or ""


def resiliparse(data: bytes) -> str:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    return extract_plain_text(HTMLTree.parse_from_bytes(data, "utf-8"), main_content=True)


def readability(data: bytes) -> str:
    import lxml.html
    from readability import Document as Page

    return lxml.html.fromstring(Page(data.decode("utf-8", "replace")).summary()).text_content()


def bs4(data: bytes) -> str:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(data, "html.parser")
    for element in soup(["script", "style", "nav", "footer", "noscript", "template"]):
        element.decompose()
    return (soup.body or soup).get_text("\n")


def docx(data: bytes) -> str:
    import docx as library

    lines = []
    for block in library.Document(io.BytesIO(data)).iter_inner_content():
        rows: Any = getattr(block, "rows", None)
        lines += [block.text] if rows is None else ["\t".join(cell.text for cell in row.cells) for row in rows]
    return "\n".join(lines)


def mammoth(data: bytes) -> str:
    import mammoth as library

    return library.extract_raw_text(io.BytesIO(data)).value


def docx2python(data: bytes) -> str:
    import docx2python as library

    with library.docx2python(io.BytesIO(data)) as result:
        return result.text


def through_file(suffix: str, convert: Callable[[str], str]) -> Callable[[bytes], str]:
    """For libraries that tell a format by the name of its file."""

    def extract(data: bytes) -> str:
        with tempfile.NamedTemporaryFile(suffix=f".{suffix}") as file:
            file.write(data)
            file.flush()
            return convert(file.name)

    return extract


def kreuzberg(path: str) -> str:
    import kreuzberg as library

    return library.extract_file_sync(path, config=library.ExtractionConfig(use_cache=False)).content


def markitdown(path: str) -> str:
    from markitdown import MarkItDown

    return MarkItDown().convert(path).text_content


def pptx(data: bytes) -> str:
    import pptx as library

    def texts(shapes: Any) -> Iterator[str]:
        for shape in shapes:
            if shape.has_text_frame:
                yield shape.text_frame.text
            if shape.has_table:
                yield from ("\t".join(cell.text for cell in row.cells) for row in shape.table.rows)
            if hasattr(shape, "shapes"):
                yield from texts(shape.shapes)

    lines: list[str] = []
    for slide in library.Presentation(io.BytesIO(data)).slides:
        lines += texts(slide.shapes)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            lines.append(slide.notes_slide.notes_text_frame.text)
    return "\n".join(lines)


def openpyxl(data: bytes) -> str:
    import openpyxl as library

    lines = []
    for sheet in library.load_workbook(io.BytesIO(data), data_only=True):
        lines.append(sheet.title)
        if hasattr(sheet, "iter_rows"):
            rows = sheet.iter_rows(values_only=True)
            lines += ["\t".join("" if cell is None else str(cell) for cell in row) for row in rows]
    return "\n".join(lines)


def python_calamine(data: bytes) -> str:
    import python_calamine as library

    book = library.CalamineWorkbook.from_filelike(io.BytesIO(data))
    lines = []
    for name in book.sheet_names:
        lines.append(name)
        try:
            rows = book.get_sheet_by_name(name).to_python()
        except library.WorksheetNotFound:  # a sheet that is one chart
            continue
        lines += ["\t".join(map(str, row)) for row in rows]
    return "\n".join(lines)


def odf(data: bytes) -> str:
    from odf import teletype, text
    from odf.opendocument import load

    document = load(io.BytesIO(data))
    elements = document.getElementsByType(text.H) + document.getElementsByType(text.P)
    return "\n".join(map(teletype.extractText, elements))


def striprtf(data: bytes) -> str:
    from striprtf.striprtf import rtf_to_text

    return rtf_to_text(data.decode("latin-1"), errors="replace")


def oxmsg(data: bytes) -> str:
    import oxmsg as library

    message = library.Message.load(io.BytesIO(data))
    return f"{message.subject}\n{message.body}"


def stdlib_email(data: bytes) -> str:
    import email
    import email.policy

    message = email.message_from_bytes(data, policy=email.policy.default)
    body = message.get_body(("plain", "html"))
    return f"{message['subject']}\n{body.get_content() if body else ''}"


def by_suffix(suffix: str) -> dict[str, Callable[[bytes], str]]:
    names = [f for f in (kreuzberg, markitdown) if suffix in OFFICE and importlib.util.find_spec(f.__name__)]
    return {f.__name__: through_file(suffix, f) for f in names}


CANDIDATES: dict[str, list[Callable[[bytes], str]]] = {
    "pdf": [pypdf, pdfplumber, pdfminer],
    "html": [trafilatura, resiliparse, readability, bs4],
    "docx": [docx, mammoth, docx2python],
    "pptx": [pptx],
    "xlsx": [openpyxl, python_calamine],
    "xls": [python_calamine],
    "odt": [odf],
    "ods": [odf, python_calamine],
    "odp": [odf],
    "rtf": [striprtf],
    "epub": [],
    "eml": [stdlib_email],
    "msg": [oxmsg],
    "doc": [],
    "ppt": [],
}
OFFICE = frozenset(CANDIDATES) - {"pdf", "html", "docx"}


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w{2,}", text))


def compare(suffix: str, files: list[Path]) -> None:
    candidates = {"embedsvc": embedsvc(suffix)}
    installed = [f for f in CANDIDATES[suffix] if f is stdlib_email or importlib.util.find_spec(f.__name__)]
    candidates |= {f.__name__: f for f in installed} | by_suffix(suffix)
    found: dict[str, list[Counter[str]]] = {}
    reports = {}
    for name, extract in candidates.items():
        failures: Counter[str] = Counter()
        found[name] = []
        with contextlib.suppress(Exception):
            extract(files[0].read_bytes())  # imports are not timed
        started = time.perf_counter()
        for file in files:
            data = file.read_bytes()
            try:
                text = extract(data)
            except Exception as error:
                failures[type(error).__name__] += 1
                text = ""
            found[name].append(words(text))
        reports[name] = (time.perf_counter() - started, dict(failures))
    agreed = [
        Counter({w: sorted(c[w] for c in counts)[-2] for w in set().union(*counts)})
        for counts in zip(*found.values(), strict=True)
    ]
    total = max(1, sum(reference.total() for reference in agreed))
    for name, (seconds, failures) in reports.items():
        share = sum((mine & reference).total() for mine, reference in zip(found[name], agreed, strict=True)) / total
        empty = sum(not mine for mine in found[name])
        print(f"{suffix:5} {name:12} words {share:.3f}  {seconds:6.2f} s  empty {empty}  {failures or ''}")


def main() -> None:
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python benchmarks/readers.py FOLDER (of real files: pdf, html, docx, pptx …) [SUFFIX …]")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for suffix in sys.argv[2:] or CANDIDATES:
        if files := sorted(Path(sys.argv[1]).rglob(f"*.{suffix}")):
            compare(suffix, files)


if __name__ == "__main__":
    main()
