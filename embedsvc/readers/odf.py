"""OpenDocument: texts by their outline, sheets and slides as pages, also in the flat form that is one XML file."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from xml.etree.ElementTree import Element

from embedsvc.errors import FileTooLarge
from embedsvc.readers.drafts import Draft
from embedsvc.readers.items import FieldChoice
from embedsvc.readers.numbers import plain
from embedsvc.readers.packages import (
    Package,
    attribute,
    child_of,
    damaged,
    local,
    locked,
    opened,
    parse,
    stream,
    text_of,
)
from embedsvc.readers.tables import Cell, Row, lines
from embedsvc.records import Document, Source


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SKIPPED = _words(
    "tracked-changes forms sequence-decls variable-decls user-field-decls dde-connection-decls scripts settings styles "
    "automatic-styles master-styles font-face-decls title desc event-listeners page-thumbnail binary-data"
)
"""What is not shown: deleted text, declarations, and descriptions for those who do not see a picture."""
_SHAPES = _words(
    "frame custom-shape rect ellipse circle line polyline polygon path connector caption g control measure"
)
_FURNITURE = frozenset({"header", "footer", "date-time", "page-number", "page"})
"""Of a notes page; of a slide only its number."""
_SPACE = re.compile(r"[ \t\r\n]+")
_DURATION = re.compile(r"(-?)PT(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})(?:[.,]\d+)?S)?\Z")
_MOST_REPEATED = 1_000_000
"""Cells that a file may fill by saying "the same again"; one that fills more was made to fill memories."""
_MOST_SPACES = 1000


def read_odf(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: that of its properties, else its paragraph of style Title, else (not of sheets)
    the first top heading or slide title, else the file name.

    Raises:
        LockedFile, DamagedFile, FileTooLarge: as :func:`~embedsvc.readers.packages.opened`.
    """
    if source.data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        yield _read_flat(source)
        return
    with opened(source, "OpenDocument file") as package:
        manifest = package.bytes("META-INF/manifest.xml") or b""
        if b"encryption-data" in manifest or "encrypted-package" in package:
            raise locked(source)
        reader = _Reader(source, package)
        if b"spreadsheet" in (package.bytes("mimetype") or manifest[:4096]):
            reader.add_sheets(package.events("content.xml"))
        else:
            content = package.xml("content.xml")
            if content is None:
                raise KeyError("it has no content.xml")
            reader.add(content)
        document = reader.document(child_of(package.xml("meta.xml"), "meta"))
    yield document


def _read_flat(source: Source) -> Document:
    try:
        root = parse(source.data)
        reader = _Reader(source, None)
        if child_of(child_of(root, "body"), "spreadsheet") is not None:
            reader.add_sheets(stream(source.data))
        else:
            reader.add(root)
        return reader.document(child_of(root, "meta"))
    except (SyntaxError, LookupError, RecursionError, ValueError) as error:  # ElementTree's ParseError is a SyntaxError
        raise damaged(source, "OpenDocument file", error) from error


class _Reader:
    """One document under construction, with the notes that wait for its end."""

    def __init__(self, source: Source, package: Package | None) -> None:
        self._source = source
        self._package = package
        self._draft = Draft(source)
        self._notes: list[str] = []
        self._title = ""
        self._titles = {"Title"}  # styles of the title
        self._bullets = True
        self._has_sheets = False
        self._repeated = 0

    def document(self, meta: Element | None) -> Document:
        for note in self._notes:
            self._draft.add(note)
        return self._draft.document(
            title=text_of(meta, "title").strip() or self._title, from_headings=not self._has_sheets
        )

    def add(self, root: Element) -> None:
        """A text, or the slides of a presentation, or the pages of a drawing."""
        body = child_of(root, "body")
        if body is None:
            raise KeyError("it has no body")
        styles = child_of(root, "automatic-styles")
        for style in styles if styles is not None else ():
            if attribute(style, "parent-style-name") == "Title":
                self._titles.add(attribute(style, "name") or "")
        for content in body:
            number = 0
            for element in content:
                if local(element) == "page":
                    number += 1
                    self._slide(element, f"{'Slide' if local(content) == 'presentation' else 'Page'} {number}")
                elif local(content) == "text":
                    for text, level in self._blocks([element]):
                        self._draft.add(text, level)

    # -- sheets ------------------------------------------------------------------------------------------------------

    def add_sheets(self, events: Iterator[tuple[str, Element]]) -> None:
        """The sheets, row by row: as a tree, a large one would not fit in memory."""
        self._has_sheets = True
        depth = number = 0
        rows: list[tuple[int, Row]] = []
        beside: list[str] = []
        for event, element in events:
            name = local(element)
            if name == "table":
                depth += 1 if event == "start" else -1
                if event == "start" and depth == 1:
                    rows, beside, number = [], [], 0
                    self._draft.page()
                    self._draft.add(attribute(element, "name") or "", level=1)
                elif event == "end" and not depth:
                    for line in (*lines(rows), *beside):
                        self._draft.add(line)
                    element.clear()
            elif event == "end" and depth == 1 and name == "table-row":
                row = self._row(element, beside)
                count = _count(element, "number-rows-repeated")
                if row:
                    self._repeat(len(row) * (count - 1))
                    self._draft.expect((count - 1) * sum(len(cell.text) for cell in row.values()))
                    rows += [(number + copy, row) for copy in range(1, count + 1)]
                number += count
                element.clear()
            elif event == "end" and depth == 1 and name == "shapes":
                beside += [text for text, _ in self._blocks(element) if text.strip()]

    def _row(self, element: Element, beside: list[str]) -> dict[int, Cell]:
        """The cells of a row that hold something; comments and shapes go to ``beside``."""
        column = 0
        found: dict[int, Cell] = {}
        for entry in element:
            name = local(entry)
            if name in ("table-cell", "covered-table-cell"):
                count = _count(entry, "number-columns-repeated")
                cell = self._cell(entry, beside) if name == "table-cell" else None
                if cell is not None and cell.text.strip():
                    self._repeat(count - 1)
                    self._draft.expect(count * len(cell.text))
                    found |= dict.fromkeys(range(column, column + count), cell)
                column += count
        return found

    def _repeat(self, cells: int) -> None:
        self._repeated += cells
        if self._repeated > _MOST_REPEATED:
            raise FileTooLarge(
                f"{self._source.uri}: its sheets repeat more than {_MOST_REPEATED:,} cells. "
                "Clear the cells beyond the tables, or leave it out."
            )

    def _cell(self, element: Element, beside: list[str]) -> Cell:
        boxes: list[Element] = []
        texts = []
        for entry in element:
            if local(entry) in ("p", "h"):
                texts.append(self._line(entry, boxes))
            else:
                boxes.append(entry)
        beside += [text for text, _ in self._boxes(boxes) if text.strip()]
        text, kind = "\n".join(texts), attribute(element, "value-type")
        try:
            known = _known(element, kind)
        except ValueError:
            known = None
        return Cell(text, is_text=kind in (None, "string")) if known is None else Cell(known, is_text=False)

    # -- slides ------------------------------------------------------------------------------------------------------

    def _slide(self, page: Element, name: str) -> None:
        titles: list[str] = []
        others: list[str] = []
        self._bullets = False  # on slides nearly all is a list
        for shape in page:
            kind = attribute(shape, "class")
            if local(shape) == "notes":
                bodies = [entry for entry in shape if attribute(entry, "class") not in _FURNITURE]
                others += [f"Notes: {text}" for text, _ in self._blocks(bodies) if text.strip()]
            elif kind != "page-number":
                texts = [text for text, _ in self._blocks([shape]) if text.strip()]
                if kind == "title":
                    titles += texts
                else:
                    others += texts
        self._draft.page()
        if title := " ".join(" ".join(titles).split()):
            self._draft.add(title, level=1)
        elif others:
            self._draft.head(name, 1)
        for text in others:
            self._draft.add(text)

    # -- text --------------------------------------------------------------------------------------------------------

    def _blocks(self, elements: Iterable[Element]) -> Iterator[tuple[str, int]]:
        """Paragraphs and table rows in order, each with its level if it is a heading."""
        for element in elements:
            name = local(element)
            if name in ("p", "h"):
                boxes: list[Element] = []
                level = attribute(element, "outline-level") if name == "h" else None
                line = self._line(element, boxes)
                if not self._title and attribute(element, "style-name") in self._titles:
                    self._title = line
                yield line, max(1, min(int(level or 1), 10)) if name == "h" else 0
                yield from self._boxes(boxes)
            elif name == "list-item":
                for index, (text, level_) in enumerate(self._blocks(element)):
                    is_item = self._bullets and not index and not level_ and text.strip() and not text.startswith("- ")
                    yield f"- {text}" if is_item else text, level_
            elif name == "table":
                yield from ((row, 0) for row in self._rows(element))
            elif name == "object":
                yield from self._object(element)
            elif name not in _SKIPPED:
                yield from self._blocks(element)

    def _boxes(self, boxes: Iterable[Element]) -> Iterator[tuple[str, int]]:
        """What is anchored in a paragraph or cell: frames, shapes, comments."""
        for box in boxes:
            for text, level in self._blocks([box]):
                yield (f"Comment: {text}" if local(box) == "annotation" and text.strip() else text), level

    def _rows(self, table: Element) -> Iterator[str]:
        for element in table:
            name = local(element)
            if name == "table-row":
                cells = []
                for cell in element:
                    if local(cell) in ("table-cell", "covered-table-cell"):
                        texts = (text for text, _ in self._blocks(cell)) if local(cell) == "table-cell" else ()
                        text = " ".join(" ".join(texts).split())
                        copies = _count(cell, "number-columns-repeated") if text else 1
                        self._repeat(copies - 1)
                        self._draft.expect(copies * len(text))
                        cells += [text] * copies
                row = "\t".join(cells).rstrip()
                count = _count(element, "number-rows-repeated") if row else 1
                self._repeat((count - 1) * len(cells))
                yield from [row] * count
            elif name not in _SKIPPED:
                yield from self._rows(element)

    def _object(self, element: Element) -> Iterator[tuple[str, int]]:
        """The texts of an embedded chart or formula. One that embeds others is not followed into these."""
        href = attribute(element, "href")
        root = child_of(element, "math") if href is None else None
        if root is None and len(element) and href is None:
            root = element[0]
        if root is None and href and self._package is not None:
            folder = posixpath.normpath(href)
            root = None if folder.startswith("..") else self._package.xml(posixpath.join(folder, "content.xml"))
        if root is None or root is element:
            return
        if local(root) == "math":
            formula = [leaf.text or "" for leaf in root.iter() if local(leaf) == "annotation"]
            yield " ".join(" ".join(formula or root.itertext()).split()), 0
            return
        package, self._package = self._package, None
        try:
            yield from self._blocks(root)
        finally:
            self._package = package

    def _line(self, element: Element, boxes: list[Element]) -> str:
        pieces: list[str] = []
        self._gather(element, pieces, boxes)
        return "".join(pieces).strip(" ")

    def _gather(self, element: Element, pieces: list[str], boxes: list[Element]) -> None:
        """The characters of a paragraph; white space between marks counts as one space, as OpenDocument has it."""
        _append(pieces, element.text)
        for entry in element:
            name = local(entry)
            if name == "s":
                count = attribute(entry, "c") or "1"
                pieces.append(" " * min(int(count), _MOST_SPACES))
            elif name == "tab":
                pieces.append("\t")
            elif name == "line-break":
                pieces.append("\n")
            elif name == "note":
                pieces.append(self._note(entry))
            elif name in _SHAPES or name == "annotation":
                boxes.append(entry)
            elif name not in _SKIPPED:
                self._gather(entry, pieces, boxes)
            _append(pieces, entry.tail)

    def _note(self, element: Element) -> str:
        kind = attribute(element, "note-class") or "footnote"
        mark = f"[{kind} {text_of(element, 'note-citation').strip()}]"
        body = child_of(element, "note-body")
        texts = (text for text, _ in self._blocks(body if body is not None else ()))
        place = len(self._notes)
        note = " ".join(" ".join(texts).split())
        self._notes.insert(place, f"{mark} {note}")
        return mark


def _append(pieces: list[str], raw: str | None) -> None:
    text = _SPACE.sub(" ", raw or "")
    if text.startswith(" ") and (not pieces or pieces[-1].endswith((" ", "\n"))):
        text = text[1:]
    if text:
        pieces.append(text)


def _count(element: Element, name: str) -> int:
    text = attribute(element, name) or "1"
    return max(1, int(text)) if text.isdecimal() and len(text) < 10 else 1


def _known(element: Element, kind: str | None) -> str | None:
    """The value that a cell states apart from the text that is shown for it, in a form that no locale changes."""
    number, moment = attribute(element, "value"), attribute(element, "date-value")
    if kind == "float" and number:
        return plain(float(number))
    if kind == "percentage" and number:
        return f"{plain(float(number) * 100)}%"
    if kind == "currency" and number:
        return f"{plain(float(number))} {attribute(element, 'currency') or ''}".rstrip()
    if kind == "date" and moment:
        return moment.removesuffix("T00:00:00").replace("T", " ")
    if kind == "time" and (match := _DURATION.match(attribute(element, "time-value") or "")):
        sign, *parts = match.groups("0")
        hours, minutes, seconds = map(int, parts)
        return f"{'-' if sign == '-' else ''}{hours}:{minutes:02}" + (f":{seconds:02}" if seconds else "")
    if kind == "boolean":
        return "TRUE" if attribute(element, "boolean-value") == "true" else "FALSE"
    return None
