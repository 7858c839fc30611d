"""Text under construction: lines, with the headings and pages that begin among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from embedsvc.errors import FileTooLarge
from embedsvc.readers.titles import meaningful
from embedsvc.records import Document, Heading, Source, make_document

_MOST_CHARACTERS = 300_000_000
"""A thousand long books. A file that says "the same again" often enough could fill any memory."""


class Draft:
    """Lines joined by newlines. A page has at least one, were it empty, so that each page has a place of its own."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.headings: list[Heading] = []
        self._parts: list[str] = []
        self._length = 0
        self._page_starts: list[int] = []
        self._page_is_empty = False
        self._expected = 0
        self._first = ""  # top heading that stands in the text

    def page(self) -> None:
        """A new page begins."""
        if self._page_is_empty:
            self.add("")
        self._page_starts.append(self._length)
        self._page_is_empty = True

    def add(self, text: str, level: int = 0) -> None:
        """A paragraph, row or line; a heading where ``level`` is not 0."""
        if level and text.strip():
            title = " ".join(text.split())
            self.head(title, level, len(text) - len(text.lstrip()))
            self._first = self._first or (title if level == 1 else "")
        self._parts.append(text)
        self._length += len(text) + 1
        self._check(self._length)
        self._page_is_empty = False

    def expect(self, characters: int) -> None:
        """So many more are held, to be added later.

        Raises:
            FileTooLarge: more than any document has.
        """
        self._expected += characters
        self._check(self._expected)

    def _check(self, characters: int) -> None:
        if characters > _MOST_CHARACTERS:
            raise FileTooLarge(
                f"{self.source.uri}: its text has more than {_MOST_CHARACTERS / 1e6:,.0f} million characters. "
                "Split the document, or leave it out."
            )

    def head(self, title: str, level: int, ahead: int = 0) -> None:
        """What is added next (from ``ahead`` characters on) stands under ``title``, though it may not say so."""
        self.headings.append(Heading(self._length + ahead, level, title))

    def extend(self, text: str, headings: Iterable[Heading], level: int = 0) -> None:
        """A text with headings of its own, which lie ``level`` lower here."""
        for heading in headings:
            self.headings.append(Heading(self._length + heading.start, heading.level + level, heading.title))
            self._first = self._first or (heading.title if heading.level + level == 1 else "")
        self.add(text)

    def document(
        self,
        *,
        title: str = "",
        from_headings: bool = True,
        metadata: Mapping[str, Any] | None = None,
        notes: tuple[str, ...] = (),
        hash: str | None = "",
    ) -> Document:
        """The Document so far. Its title: ``title``, else (``from_headings``) the first top heading of the text, else
        the file name. ``hash``: that of the file, if nothing else is said."""
        source = self.source
        hash = source.hash if hash == "" else hash
        if self._page_is_empty:
            self.add("")
        text = "\n".join(self._parts)
        if not text.strip():
            return make_document(
                source.uri, "", title=meaningful(title) or source.name, hash=hash, metadata=metadata,
                notes=(*notes, "it has no text"),
            )  # fmt: skip
        headings = tuple(heading for heading in self.headings if heading.start < len(text))
        return make_document(
            source.uri,
            text,
            title=meaningful(title) or (self._first if from_headings else "") or source.name,
            hash=hash,
            page_starts=tuple(self._page_starts),
            headings=headings,
            metadata=metadata,
            notes=notes,
        )
