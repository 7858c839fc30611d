"""PDF: the text of each page in reading order, by PDFium (docs/formats.md says why); that of scanned pages by
:mod:`.ocr`."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from embedsvc.errors import DamagedFile, LockedFile, NeedsOcr
from embedsvc.readers import ocr
from embedsvc.readers.items import NOT_RECOGNISED, OCR_FAILED, FieldChoice, Means
from embedsvc.readers.titles import meaningful
from embedsvc.records import Document, Heading, Source, make_document

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

_PDFIUM = threading.Lock()
"""PDFium is not thread-safe, not even across documents."""
_WRONG_PASSWORD = 4
"""FPDF_ERR_PASSWORD of PDFium."""
_DPI, _LOOK_DPI = 300, 36
"""What tesseract is best at; what tells whether there is anything on a page."""
_LEAST_PAGE = 4
"""Bytes that a page takes in a file, at least: a page tree that comes back to itself has pages without end."""
_MOST_PIXELS = 40_000_000
"""Of a page; A4 has 9 million. A larger one is drawn more coarsely."""


def read_pdf(source: Source, fields: FieldChoice, means: Means) -> Iterator[Document]:
    """One Document: pages joined by a newline, headings from the bookmarks whose words are found on their page.

    A PDF that only restricts printing or copying opens like any other. The text of pages that have none, but show
    something, is recognised; what became of them is told in the notes. Where recognition is not to be had, ``hash`` is
    not that of the file, so that the next run reads it again.

    Raises:
        LockedFile: it opens only with a password.
        NeedsOcr: it is a scan, and tesseract is not there.
        DamagedFile: it is not a PDF that PDFium can open.
    """
    with _PDFIUM:
        document = _read(source, means)
    yield document


def _read(source: Source, means: Means) -> Document:
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
        if _LEAST_PAGE * len(pdf) > len(source.data):
            raise DamagedFile(
                f"{source.uri}: this PDF says that it has {len(pdf):,} pages, in {len(source.data):,} bytes. "
                "Open it in a PDF viewer and save it anew."
            )
        texts, broken = _pages(pdf)
        notes = [f"page(s) {_listed(broken)} could not be read"] if broken else []
        empty = [page for page, text in enumerate(texts, start=1) if not text.strip() and page not in broken]
        hash = source.hash
        try:
            found, told = _recognised(pdf, empty, means)
        except NeedsOcr as error:
            if len(empty) + len(broken) == len(texts) and means.ocr_languages is not None:
                raise NeedsOcr(f"{source.uri}: its pages are pictures (scanned?), and {error}") from None
            notes.append(f"page(s) {_listed(empty)} have no text layer (scanned or blank?), and {error}")
            hash += NOT_RECOGNISED
        else:
            texts = [found.get(page, text) for page, text in enumerate(texts, start=1)]
            notes += told
        starts = [0]
        for text in texts:
            starts.append(starts[-1] + len(text) + 1)
        headings = _headings(pdf, texts, starts)
        title = meaningful(pdf.get_metadata_dict().get("Title", ""))
    finally:
        pdf.close()
    has_text = any(text.strip() for text in texts)
    return make_document(
        source.uri,
        "\n".join(texts) if has_text else "",
        title=title or next((heading.title for heading in headings if heading.level == 1), "") or source.name,
        hash=hash,
        page_starts=tuple(starts[: len(texts)]) if has_text else (),
        headings=tuple(headings),
        notes=tuple(notes),
    )


def _recognised(pdf: PdfDocument, empty: Sequence[int], means: Means) -> tuple[dict[int, str], list[str]]:
    """What is recognised on the pages ``empty`` (1-based), by page; notes on what became of them.

    Raises:
        NeedsOcr: some show something, and tesseract is not there or not to be used. The message ends a sentence.
    """
    if not empty:
        return {}, []
    if means.ocr_languages is None:
        raise NeedsOcr("ocr is off")
    pages = [page for page in empty if _shows_something(pdf[page - 1])]
    found: dict[int, str | None] = {}
    if pages:
        means.recognising()
        pictures = (_graymap(*_drawn(pdf[page - 1], _DPI)) for page in pages)
        found = dict(zip(pages, ocr.pictured_pages(pictures, means.ocr_languages, _DPI), strict=True))
    told = {
        f"recognised by tesseract ({means.ocr_languages})": [page for page, text in found.items() if text],
        "no text was recognised": [page for page, text in found.items() if text == ""],
        OCR_FAILED: [page for page, text in found.items() if text is None],
        "blank": [page for page in empty if page not in found],
    }
    notes = [f"page(s) {_listed(those)}: {what}" for what, those in told.items() if those]
    return {page: text or "" for page, text in found.items()}, notes


def _shows_something(page: PdfPage) -> bool:
    _, _, pixels = _drawn(page, _LOOK_DPI)
    return pixels.count(pixels[:1]) < len(pixels)


def _drawn(page: PdfPage, dpi: int) -> tuple[int, int, bytes]:
    """The page in grey: width and height in pixels, a byte for each pixel, rows from the top."""
    width, height = page.get_size()
    scale = min(dpi / 72, math.sqrt(_MOST_PIXELS / max(1.0, width * height)))
    bitmap = page.render(scale=scale, grayscale=True)
    rows = memoryview(bitmap.buffer).cast("B")
    starts = range(0, bitmap.height * bitmap.stride, bitmap.stride)
    pixels = b"".join(rows[start : start + bitmap.width] for start in starts)
    size = bitmap.width, bitmap.height
    bitmap.close()
    page.close()
    return *size, pixels


def _graymap(width: int, height: int, pixels: bytes) -> bytes:
    """A file of the pixels that :func:`_drawn` gives, in the plainest of formats."""
    return b"P5 %d %d 255\n" % (width, height) + pixels


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
