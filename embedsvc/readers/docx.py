"""DOCX: paragraphs, headings, tables and notes in document order.

Read from the XML itself (zipfile and expat): python-docx finds an eighth less of the text, and cannot
open files in the strict form of the format (docs/formats.md). Elements are told by their local names, because the
strict and the usual form differ in nothing but their namespaces.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from embedsvc.readers.items import FieldChoice
from embedsvc.readers.packages import Package, attribute, child_of, local, opened, text_of
from embedsvc.readers.titles import meaningful
from embedsvc.records import Document, Heading, Source, make_document

_HEADING_NAME = re.compile(r"heading ([1-9])\Z", re.IGNORECASE)
_SKIPPED = frozenset({"del", "moveFrom", "pPr", "rPr", "sectPr", "tblPr", "instrText", "delText", "sdtPr", "Fallback"})
"""Deleted text, properties, field codes, and the second rendering of what is there already."""
_CHARACTERS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "ptab": "\t"}
_NOTE_PARTS = ("footnote", "endnote")


@dataclass(frozen=True, slots=True)
class _Paragraph:
    text: str
    level: int = 0
    """1 to 9 for a heading, else 0."""
    is_title: bool = False


@dataclass(frozen=True, slots=True)
class _Styles:
    levels: dict[str, int] = field(default_factory=dict)
    titles: frozenset[str] = frozenset()


def read_docx(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: that of its properties, else its paragraph of style Title, else the first top heading,
    else the file name.

    Raises:
        LockedFile: encrypted with a password.
        DamagedFile: not a DOCX, or a part of it cannot be read.
        FileTooLarge: it unpacks to more than can be held.
    """
    with opened(source, "DOCX") as package:
        document = _read(source, package)
    yield document


def _read(source: Source, package: Package) -> Document:
    main = package.main("word/document.xml")
    folder = posixpath.dirname(main)
    styles = _styles(package.xml(posixpath.join(folder, "styles.xml")))
    body = package.xml(main)
    notes = [package.xml(posixpath.join(folder, f"{kind}s.xml")) for kind in _NOTE_PARTS]
    properties = package.xml("docProps/core.xml")
    if body is None:
        raise KeyError(f"it has no {main}")
    paragraphs = list(_blocks(body, styles))
    for kind, part in zip(_NOTE_PARTS, notes, strict=True):
        paragraphs += _notes(kind, part, styles)
    parts, headings, length = [], [], 0
    for paragraph in paragraphs:
        if paragraph.level:
            start = length + len(paragraph.text) - len(paragraph.text.lstrip())
            headings.append(Heading(start, paragraph.level, " ".join(paragraph.text.split())))
        parts.append(paragraph.text)
        length += len(paragraph.text) + 1
    title = meaningful(text_of(properties, "title"))
    title = title or next((" ".join(p.text.split()) for p in paragraphs if p.is_title), "")
    title = title or next((heading.title for heading in headings if heading.level == 1), "")
    return make_document(
        source.uri, "\n".join(parts), title=title or source.name, hash=source.hash, headings=tuple(headings)
    )


def _styles(root: Element | None) -> _Styles:
    """Which paragraph styles are headings: by outline level or by built-in name (English in every language version
    of Word), their own or inherited."""
    levels: dict[str, int] = {}
    bases: dict[str, str] = {}
    titles = set()
    for style in () if root is None else root:
        identity = attribute(style, "styleId")
        if local(style) != "style" or identity is None:
            continue
        name = attribute(child_of(style, "name")) or ""
        outline = attribute(child_of(child_of(style, "pPr"), "outlineLvl"))
        if outline is not None and outline.isdecimal():
            levels[identity] = int(outline) + 1 if int(outline) < 9 else 0
        elif match := _HEADING_NAME.match(name):
            levels[identity] = int(match[1])
        if name.lower() == "title":
            titles.add(identity)
        if base := attribute(child_of(style, "basedOn")):
            bases[identity] = base
    for identity in bases:
        ancestor, steps = identity, 0
        while ancestor not in levels and ancestor in bases and steps < len(bases):
            ancestor, steps = bases[ancestor], steps + 1
        levels[identity] = levels.get(ancestor, 0)
    return _Styles(levels, frozenset(titles))


def _blocks(container: Element, styles: _Styles) -> Iterator[_Paragraph]:
    """Paragraphs and table rows below ``container``, in order; content controls and the like are looked through."""
    for child in container:
        name = local(child)
        if name == "p":
            yield from _paragraph(child, styles)
        elif name == "tbl":
            yield from _rows(child, styles)
        elif name not in _SKIPPED:
            yield from _blocks(child, styles)


def _paragraph(element: Element, styles: _Styles) -> Iterator[_Paragraph]:
    """The paragraph, then those of the text boxes that are anchored in it."""
    properties = child_of(element, "pPr")
    style = attribute(child_of(properties, "pStyle")) or ""
    outline = attribute(child_of(properties, "outlineLvl"))
    level = styles.levels.get(style, 0)
    if outline is not None and outline.isdecimal():
        level = int(outline) + 1 if int(outline) < 9 else 0
    boxes: list[Element] = []
    text = "".join(_characters(element, boxes))
    if text.strip():
        if not level and child_of(properties, "numPr") is not None:
            text = f"- {text}"
        yield _Paragraph(text, level, style in styles.titles)
    else:
        yield _Paragraph(text)
    for box in boxes:
        yield from _blocks(box, styles)


def _characters(element: Element, boxes: list[Element]) -> Iterator[str]:
    for child in element:
        name = local(child)
        if name == "t":
            yield child.text or ""
        elif name in _CHARACTERS:
            yield _CHARACTERS[name]
        elif name in ("footnoteReference", "endnoteReference"):
            yield f"[{name.removesuffix('Reference')} {attribute(child, 'id')}]"
        elif name == "txbxContent":
            boxes.append(child)
        elif name not in _SKIPPED:
            yield from _characters(child, boxes)


def _rows(table: Element, styles: _Styles) -> Iterator[_Paragraph]:
    """One paragraph per row, cells separated by tabs; rows and cells may sit in content controls."""
    for row in _within(table, "tr"):
        cells = []
        for cell in _within(row, "tc"):
            blocks = (paragraph.text for paragraph in _blocks(cell, styles))
            cells.append(" ".join(" ".join(blocks).split()))
        yield _Paragraph("\t".join(cells).rstrip())


def _within(element: Element, name: str) -> Iterator[Element]:
    for child in element:
        if local(child) == name:
            yield child
        elif local(child) not in _SKIPPED:
            yield from _within(child, name)


def _notes(kind: str, part: Element | None, styles: _Styles) -> Iterator[_Paragraph]:
    for note in () if part is None else part:
        if local(note) == kind and attribute(note, "type") in (None, "normal"):
            text = " ".join(" ".join(paragraph.text for paragraph in _blocks(note, styles)).split())
            if text:
                yield _Paragraph(f"[{kind} {attribute(note, 'id')}] {text}")
