"""DOCX: paragraphs, headings, tables and notes in document order.

Read from the XML itself (zipfile and expat): python-docx finds an eighth less of the text, and cannot
open files in the strict form of the format (docs/formats.md). Elements are told by their local names, because the
strict and the usual form differ in nothing but their namespaces.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from embedsvc.errors import DamagedFile, FileTooLarge, LockedFile, UnsupportedFormat
from embedsvc.readers.items import FieldChoice
from embedsvc.readers.titles import meaningful
from embedsvc.records import Document, Heading, Source, make_document

_OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_MOST_PART_BYTES = 100_000_000
"""A larger XML part would need gigabytes as a tree. The text of a thousand-page book has about 10 MB of XML."""
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
    try:
        yield _read(source)
    except (
        zipfile.BadZipFile,
        zlib.error,
        ElementTree.ParseError,
        EOFError,
        KeyError,
        LookupError,  # an XML declaration with an unknown encoding
        NotImplementedError,  # a compression that zipfile lacks
        OSError,
        RecursionError,
        ValueError,
    ) as error:
        if source.data.startswith(_OLE_MAGIC):
            raise ole_error(source) from error
        raise DamagedFile(
            f"{source.uri}: this DOCX is damaged ({error or type(error).__name__}). "
            "Open it in a word processor and save it anew."
        ) from error


def ole_error(source: Source) -> LockedFile | UnsupportedFormat:
    """What is wrong with an OLE container: Office wraps encrypted files in one; old binary formats are one."""
    if _ENCRYPTED in source.data:
        return LockedFile(f"{source.uri}: this document is encrypted. Save a copy without a password, then index that.")
    return UnsupportedFormat(f"{source.uri}: this is an Office file of before 2007. Save it as .docx, then index that.")


def _read(source: Source) -> Document:
    with zipfile.ZipFile(BytesIO(source.data)) as archive:
        main = _main_part(archive, source)
        folder = posixpath.dirname(main)
        styles = _styles(_part(archive, posixpath.join(folder, "styles.xml"), source))
        body = _part(archive, main, source)
        notes = [_part(archive, posixpath.join(folder, f"{kind}s.xml"), source) for kind in _NOTE_PARTS]
        properties = _part(archive, "docProps/core.xml", source)
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
    title = meaningful(_text_of(properties, "title"))
    title = title or next((" ".join(p.text.split()) for p in paragraphs if p.is_title), "")
    title = title or next((heading.title for heading in headings if heading.level == 1), "")
    return make_document(
        source.uri, "\n".join(parts), title=title or source.name, hash=source.hash, headings=tuple(headings)
    )


def _main_part(archive: zipfile.ZipFile, source: Source) -> str:
    relations = _part(archive, "_rels/.rels", source)
    for relation in () if relations is None else relations:
        if relation.get("Type", "").endswith("/officeDocument"):
            return relation.get("Target", "").lstrip("/")
    return "word/document.xml"


def _part(archive: zipfile.ZipFile, name: str, source: Source) -> Element | None:
    """The XML of a part, or None where the document has no such part."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        return None
    if info.flag_bits & 1:
        raise LockedFile(f"{source.uri}: this document is encrypted. Save a copy without a password, then index that.")
    # zipfile unpacks no more than the declared size, so a lie here ends in a checksum error, not in full memory.
    if info.file_size > _MOST_PART_BYTES:
        raise FileTooLarge(
            f"{source.uri}: its part {name} unpacks to {info.file_size / 1e6:,.0f} MB, more than the limit of "
            f"{_MOST_PART_BYTES / 1e6:,.0f} MB. Split the document, or leave it out."
        )
    return ElementTree.fromstring(archive.read(info))


def _local(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _value(element: Element | None, name: str = "val") -> str | None:
    """The attribute ``name`` of ``element``, in whatever namespace."""
    if element is None:
        return None
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)


def _child(element: Element | None, name: str) -> Element | None:
    return None if element is None else next((child for child in element if _local(child) == name), None)


def _text_of(root: Element | None, name: str) -> str:
    element = _child(root, name)
    return "" if element is None else "".join(element.itertext())


def _styles(root: Element | None) -> _Styles:
    """Which paragraph styles are headings: by outline level or by built-in name (English in every language version
    of Word), their own or inherited."""
    levels: dict[str, int] = {}
    bases: dict[str, str] = {}
    titles = set()
    for style in () if root is None else root:
        identity = _value(style, "styleId")
        if _local(style) != "style" or identity is None:
            continue
        name = _value(_child(style, "name")) or ""
        outline = _value(_child(_child(style, "pPr"), "outlineLvl"))
        if outline is not None and outline.isdecimal():
            levels[identity] = int(outline) + 1 if int(outline) < 9 else 0
        elif match := _HEADING_NAME.match(name):
            levels[identity] = int(match[1])
        if name.lower() == "title":
            titles.add(identity)
        if base := _value(_child(style, "basedOn")):
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
        name = _local(child)
        if name == "p":
            yield from _paragraph(child, styles)
        elif name == "tbl":
            yield from _rows(child, styles)
        elif name not in _SKIPPED:
            yield from _blocks(child, styles)


def _paragraph(element: Element, styles: _Styles) -> Iterator[_Paragraph]:
    """The paragraph, then those of the text boxes that are anchored in it."""
    properties = _child(element, "pPr")
    style = _value(_child(properties, "pStyle")) or ""
    outline = _value(_child(properties, "outlineLvl"))
    level = styles.levels.get(style, 0)
    if outline is not None and outline.isdecimal():
        level = int(outline) + 1 if int(outline) < 9 else 0
    boxes: list[Element] = []
    text = "".join(_characters(element, boxes))
    if text.strip():
        if not level and _child(properties, "numPr") is not None:
            text = f"- {text}"
        yield _Paragraph(text, level, style in styles.titles)
    else:
        yield _Paragraph(text)
    for box in boxes:
        yield from _blocks(box, styles)


def _characters(element: Element, boxes: list[Element]) -> Iterator[str]:
    for child in element:
        name = _local(child)
        if name == "t":
            yield child.text or ""
        elif name in _CHARACTERS:
            yield _CHARACTERS[name]
        elif name in ("footnoteReference", "endnoteReference"):
            yield f"[{name.removesuffix('Reference')} {_value(child, 'id')}]"
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
        if _local(child) == name:
            yield child
        elif _local(child) not in _SKIPPED:
            yield from _within(child, name)


def _notes(kind: str, part: Element | None, styles: _Styles) -> Iterator[_Paragraph]:
    for note in () if part is None else part:
        if _local(note) == kind and _value(note, "type") in (None, "normal"):
            text = " ".join(" ".join(paragraph.text for paragraph in _blocks(note, styles)).split())
            if text:
                yield _Paragraph(f"[{kind} {_value(note, 'id')}] {text}")
