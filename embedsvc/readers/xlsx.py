"""XLSX: each sheet a page under its name, its rows as lines, then its text boxes, charts and comments.

Read as a stream of elements: only cells that hold something take memory, whatever size a sheet claims.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from embedsvc.readers.drafts import Draft
from embedsvc.readers.drawings import chart, paragraphs
from embedsvc.readers.items import FieldChoice
from embedsvc.readers.numbers import kind_of, shown
from embedsvc.readers.packages import Package, Relation, attribute, child_of, local, opened, text_of
from embedsvc.readers.tables import Cell, Row, lines
from embedsvc.records import Document, Source

_REFERENCE = re.compile(r"\$?([A-Za-z]{1,3})\$?(\d{1,7})\Z")
_COPIED_COMMENT = "[Threaded comment]"
"""So begins the copy that is kept for old programs."""


@dataclass(frozen=True, slots=True)
class _Book:
    strings: Sequence[str]
    kinds: Sequence[str]
    """What the numbers of each cell style are."""
    from_1904: bool


def read_xlsx(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: that of its properties, else the file name. Hidden sheets are read too.

    Raises:
        LockedFile, DamagedFile, FileTooLarge: as :func:`~embedsvc.readers.packages.opened`.
    """
    with opened(source, "XLSX") as package:
        document = _read(source, package)
    yield document


def _read(source: Source, package: Package) -> Document:
    main = package.main("xl/workbook.xml")
    root, relations = package.xml(main), package.relations(main)
    if root is None:
        raise KeyError(f"it has no {main}")
    parts = {relation.kind: relation.target for relation in relations.values()}
    dates = attribute(child_of(root, "workbookPr"), "date1904")
    book = _Book(
        _strings(package, parts.get("sharedStrings", "")),
        _kinds(package.xml(parts.get("styles", ""))),
        dates in ("1", "true"),
    )
    draft = Draft(source)
    sheets = child_of(root, "sheets")
    for sheet in sheets if sheets is not None else ():
        relation = relations.get(next((value for key, value in sheet.attrib.items() if key.endswith("}id")), ""))
        if relation is not None and relation.target in package:
            draft.page()
            draft.add(sheet.get("name", ""), level=1)
            for line in _sheet(package, relation, book, draft):
                draft.add(line)
    title = text_of(package.xml("docProps/core.xml"), "title")
    return draft.document(title=title, from_headings=False)


def _strings(package: Package, part: str) -> list[str]:
    found = []
    if part in package:
        for event, element in package.events(part):
            if event == "end" and local(element) == "si":
                found.append(_rich(element))
                element.clear()
    return found


def _rich(element: Element) -> str:
    """The text of a string item, without the phonetic guide."""
    texts = []
    for child in element:
        if local(child) == "t":
            texts.append(child.text or "")
        elif local(child) == "r":
            texts += [leaf.text or "" for leaf in child if local(leaf) == "t"]
    return "".join(texts)


def _kinds(styles: Element | None) -> list[str]:
    codes: dict[str, str] = {}
    formats = child_of(styles, "numFmts")
    for entry in formats if formats is not None else ():
        codes[entry.get("numFmtId", "")] = entry.get("formatCode", "")
    cells = child_of(styles, "cellXfs")
    ids = [entry.get("numFmtId", "0") for entry in cells] if cells is not None else []
    return [kind_of(int(id) if id.isdecimal() else 0, codes.get(id, "")) for id in ids]


def _sheet(package: Package, relation: Relation, book: _Book, draft: Draft) -> Iterator[str]:
    if relation.kind == "worksheet":
        yield from lines(_rows(package, relation.target, book, draft))
    relations = list(package.relations(relation.target).values())
    has_threads = any(other.kind == "threadedComment" for other in relations)
    for other in relations:
        if other.kind == "drawing" and (root := package.xml(other.target)) is not None:
            yield from paragraphs(root, package, package.relations(other.target))
        elif other.kind == "chart" and (root := package.xml(other.target)) is not None:
            yield from chart(root)
        elif other.kind in ("comments", "threadedComment"):
            for place, text in _comments(package.xml(other.target)):
                if not (has_threads and text.startswith(_COPIED_COMMENT)):
                    yield f"Comment on {place}: {text}"


def _rows(package: Package, part: str, book: _Book, draft: Draft) -> Iterator[tuple[int, Row]]:
    number = 0
    rows: Element | None = None
    row_tag = ""
    for event, element in package.events(part):
        if event == "start":
            if rows is None and local(element) == "sheetData":
                rows, row_tag = element, element.tag.removesuffix("sheetData") + "row"
        elif element.tag == row_tag:
            given = element.get("r", "")
            number = int(given) if given.isdecimal() else number + 1
            if row := _cells(element, book):
                draft.expect(sum(len(cell.text) for cell in row.values()))
                yield number, row
            if rows is not None:
                rows.clear()


def _cells(row: Element, book: _Book) -> dict[int, Cell]:
    column, found = 0, {}
    for element in row:
        if local(element) == "c":
            match = _REFERENCE.match(element.get("r", ""))
            column = _column(match[1]) if match else column + 1
            cell = _cell(element, book)
            if cell.text.strip():
                found[column] = cell
    return found


def _column(letters: str) -> int:
    number = 0
    for letter in letters.upper():
        number = 26 * number + ord(letter) - 64
    return number


def _cell(element: Element, book: _Book) -> Cell:
    kind = element.get("t", "n")
    content = child_of(element, "v")
    text = (content.text or "") if content is not None else ""
    if kind == "inlineStr":
        inline = child_of(element, "is")
        return Cell(_rich(inline) if inline is not None else "")
    if not text:
        # A program that does not calculate leaves no value: then the formula is all there is to read.
        formula = text_of(element, "f")
        return Cell(f"={formula}" if formula else "", is_text=False)
    if kind == "s":
        return Cell(book.strings[int(text)])
    if kind == "b":
        return Cell("TRUE" if text.strip() == "1" else "FALSE", is_text=False)
    if kind == "d":
        return Cell(text.removesuffix("T00:00:00").replace("T", " "), is_text=False)
    if kind == "n":
        return Cell(_number(text, element.get("s", ""), book), is_text=False)
    return Cell(text, is_text=kind == "str")


def _number(text: str, style: str, book: _Book) -> str:
    try:
        number = float(text)
    except ValueError:
        return text
    place = int(style) if style.isdecimal() else 0
    kind = book.kinds[place] if place < len(book.kinds) else "number"
    return shown(number, kind, from_1904=book.from_1904)


def _comments(root: Element | None) -> Iterator[tuple[str, str]]:
    """The cell and the text of each comment, of the old and of the threaded form."""
    for element in root.iter() if root is not None else ():
        if local(element) == "comment":
            content = child_of(element, "text")
            yield element.get("ref", ""), (_rich(content) if content is not None else "").strip()
        elif local(element) == "threadedComment":
            yield element.get("ref", ""), text_of(element, "text").strip()
