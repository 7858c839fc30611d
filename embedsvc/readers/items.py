"""The plain data that the readers share among themselves and with their caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from embedsvc.errors import ReadError
from embedsvc.records import Document


@dataclass(frozen=True, slots=True)
class Rejected:
    """An input, or one record of it, that gives no document; ``error`` says why and what to do about it.

    ``placed``: ``uri`` gives the record's place in its file (``#line-3``), since its id cannot be read.
    """

    uri: str
    error: ReadError
    placed: bool = False


NOT_RECOGNISED = "-without-ocr"
"""Behind the hash of a file whose pages recognition may give more of: so the next run reads it again."""
OCR_FAILED = "tesseract failed, or took too long"
"""How the note ends on pages that could not be looked at."""


def is_final(document: Document) -> bool:
    """Whether another reading of the same bytes, by the same programs, would give the same."""
    return not document.hash.endswith(NOT_RECOGNISED) and not any(OCR_FAILED in note for note in document.notes)


@dataclass(frozen=True, slots=True)
class FieldChoice:
    """Which fields of a JSONL or CSV record become what. Nothing chosen: the customary names are looked for.

    ``text``: joined by newlines in this order. ``metadata`` None: every field that is not used otherwise.
    """

    text: tuple[str, ...] = ()
    title: str | None = None
    id: str | None = None
    metadata: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """For the reading of one file; 0 is none, of the first three.

    ``ocr_timeout_s``: seconds that it may take besides, once text in pictures is being recognised. ``ocr_languages``:
    which, in tesseract's words (``deu+eng``); None: pictures are not read. ``member_mb``: of a file in an archive.
    """

    memory_mb: int = 2000
    timeout_s: int = 120
    ocr_timeout_s: int = 1800
    ocr_languages: str | None = "eng"
    member_mb: int = 100


@dataclass(frozen=True, slots=True)
class Means:
    """What a reader may use. ``recognising`` is called before text in pictures is recognised, since that takes long.

    ``reached`` is told, before an item is given, what share of the source has been read with it, by a reader that gives
    many; where it is not, all.
    """

    member_bytes: int = 100_000_000
    ocr_languages: str | None = "eng"
    recognising: Callable[[], None] = lambda: None
    reached: Callable[[float], None] = lambda share: None

    def of_part(self, start: float, end: float) -> Means:
        """For the reader of what lies in the source between these two shares of it."""
        return replace(self, reached=lambda share: self.reached(start + (end - start) * share))
