"""PDF: the text of each page in reading order, by PDFium (docs/formats.md says why)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from embedsvc.errors import DamagedFile, LockedFile
from embedsvc.readers.items import FieldChoice
from embedsvc.readers.titles import meaningful
from embedsvc.records import Document, Heading, Source, make_document

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

_PDFIUM = threading.Lock()
"""PDFium is not thread-safe, not even across documents."""
_WRONG_PASSWORD = 4
"""FPDF_ERR_PASSWORD of PDFium."""


def read_pdf(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document: pages joined by a newline, headings from the bookmarks whose words are found on their page.

    A PDF that only restricts printing or copying opens like any other. Pages without text are named in the notes.

    Raises:
        LockedFile: it opens only with a password.
        DamagedFile: it is not a PDF that PDFium can open.
    """
    with _PDFIUM:
        document = _read(source)
    yield document


def _read(source: Source) -> Document:
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(source.data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _WRONG_PASSWORD:
            raise LockedFile(
                f"{source.uri}: this PDF opens only with a password. Save a copy without one, then index that."
            ) from error
        raise DamagedFile(
            f"{source.uri}: this is not a PDF that can be opened ({error}). Open it in a PDF viewer and save it anew."
        ) from error
    try:
        texts, broken = _pages(pdf)
        starts = [0]
        for text in texts:
            starts.append(starts[-1] + len(text) + 1)
        headings = _headings(pdf, texts, starts)
        title = meaningful(pdf.get_metadata_dict().get("Title", ""))
    finally:
        pdf.close()
    notes = []
    if broken:
        notes.append(f"page(s) {_listed(broken)} could not be read")
    if empty := [page for page, text in enumerate(texts, start=1) if not text.strip() and page not in broken]:
        if len(empty) == len(texts):
            notes.append("it has no text layer (scanned?): run it through OCR, then index it again")
        else:
            notes.append(f"page(s) {_listed(empty)} have no text layer (scanned or blank?)")
    return make_document(
        source.uri,
        "\n".join(texts) if any(text.strip() for text in texts) else "",
        title=title or next((heading.title for heading in headings if heading.level == 1), "") or source.name,
        hash=source.hash,
        page_starts=tuple(starts[: len(texts)]) if any(text.strip() for text in texts) else (),
        headings=tuple(headings),
        notes=tuple(notes),
    )


def _pages(pdf: PdfDocument) -> tuple[list[str], list[int]]:
    """The text of each page, and the 1-based numbers of those that PDFium cannot load."""
    import pypdfium2

    texts, broken = [], []
    for index in range(len(pdf)):
        try:
            page = pdf[index]
            textpage = page.get_textpage()
            texts.append(_clean(textpage.get_text_range()))
            textpage.close()
            page.close()
        except pypdfium2.PdfiumError:
            texts.append("")
            broken.append(index + 1)
    return texts, broken


def _clean(text: str) -> str:
    """PDFium ends lines with CR LF, and joins a word hyphenated at a line's end by U+FFFE: that is a hyphen and a line
    break on the page, and here."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufffe", "-\n").replace("\x00", "")


def _headings(pdf: PdfDocument, texts: Sequence[str], starts: Sequence[int]) -> list[Heading]:
    headings: dict[int, Heading] = {}
    for bookmark in pdf.get_toc():
        destination = bookmark.get_dest()
        index = destination.get_index() if destination is not None else None
        words = bookmark.get_title().split()
        if index is None or not 0 <= index < len(texts) or not words:
            continue
        # As a line of its own first: a section's title may well be a word of the text above it.
        pattern = r"\s+".join(map(re.escape, words))
        found = re.search(rf"(?m)^[\d. ]{{0,20}}{pattern} *$", texts[index]) or re.search(pattern, texts[index])
        if found:
            start = starts[index] + found.start() + len(found[0]) - len(found[0].lstrip())
            headings.setdefault(start, Heading(start, bookmark.level + 1, " ".join(words)))
    return [headings[start] for start in sorted(headings)]


def _listed(pages: Sequence[int]) -> str:
    shown = ", ".join(map(str, pages[:10]))
    return f"{shown} and {len(pages) - 10} more" if len(pages) > 10 else shown
