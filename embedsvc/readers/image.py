"""Pictures: what :mod:`.ocr` recognises in them. Those of several pages (TIFF) are cited by page."""

from __future__ import annotations

from collections.abc import Iterator

from embedsvc.errors import DamagedFile, NeedsOcr, UnsupportedFormat
from embedsvc.readers import ocr
from embedsvc.readers.items import FieldChoice, Means
from embedsvc.records import Document, Source, make_document


def read_image(source: Source, fields: FieldChoice, means: Means) -> Iterator[Document]:
    """One Document: pages joined by a newline; empty, with a note, where no text is seen.

    Raises:
        UnsupportedFormat: pictures are not to be read.
        NeedsOcr: tesseract or its data of a language is not there.
        DamagedFile: tesseract cannot read it.
    """
    if means.ocr_languages is None:
        raise UnsupportedFormat(f"{source.uri}: it is a picture, and ocr is off. Set ocr to auto to have it read.")
    means.recognising()
    try:
        texts = ocr.page_texts(source.data, means.ocr_languages)
    except NeedsOcr as error:
        raise NeedsOcr(f"{source.uri}: it is a picture, and {error}") from None
    if not texts:
        raise DamagedFile(
            f"{source.uri}: tesseract cannot read this picture (it may be damaged, or too large). Save it anew as PNG, "
            "then index that."
        )
    starts = [0]
    for text in texts:
        starts.append(starts[-1] + len(text) + 1)
    has_text = any(texts)
    note = f"text recognised by tesseract ({means.ocr_languages})" if has_text else "no text was recognised in it"
    yield make_document(
        source.uri,
        "\n".join(texts) if has_text else "",
        title=source.name,
        hash=source.hash,
        page_starts=tuple(starts[: len(texts)]) if has_text and len(texts) > 1 else (),
        notes=(note,),
    )
