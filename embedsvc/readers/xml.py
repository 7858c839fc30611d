"""XML of any dialect: the text of its elements in order, blocks on lines of their own, titles of sections as headings.

No schema says what is a block. An element beside text ("a <b>bold</b> word") is within a line, others begin one; the
names that JATS, DocBook, TEI and patents use for emphasis, tables and references are known besides. Parsed twice by
expat, once to learn which elements hold text beside elements: there is no tree, so neither depth nor size matters.
"""

from __future__ import annotations

import html.entities
import re
from collections.abc import Iterator
from xml.parsers import expat

from embedsvc.errors import DamagedFile
from embedsvc.readers.items import FieldChoice
from embedsvc.readers.plain import build, decode_file
from embedsvc.records import Document, Heading, Source, make_document


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WITHIN_LINES = _names(
    "a abbr acronym b bold code command em emphasis ext-link filename foreignphrase hi i inline-formula italic link "
    "literal monospace named-content overline phrase quote ref roman sans-serif sc seg small span strike strong "
    "styled-content sub subscript sup superscript tt u ulink underline uri xref footnoteref indexterm o"
)
_BLOCKS = _names(
    "p para simpara formalpara sec section title list list-item listitem itemizedlist orderedlist variablelist item "
    "table table-wrap tgroup thead tbody tr row fig figure disp-formula disp-quote blockquote def-list def-item fn "
    "footnote note caption programlisting screen literallayout preformat verse-group verse-line lg l div head"
)
_FLAT = _names(
    "td th entry entrytbl name string-name persname date pub-date mixed-citation element-citation citation "
    "nlm-citation biblstruct bibl biblioentry bibliomixed docnumber document-id addressbook address title "
    "article-title head heading label book-title invention-title contrib-id subj-group context unit "
    "article-id journal-meta pub-history"
)
"""All within is on one line, parted by spaces: cells, names, dates, references, titles."""
_CELLS = _names("td th entry entrytbl")
_FORMULAS = _names("math tex-math")
"""All within is joined: a line per symbol says nothing."""
_LINE_ENDS = _names("br break lb")
_PREFORMATTED = _names("pre preformat programlisting screen literallayout synopsis eg")
_SECTIONS = _names(
    "sec section sect1 sect2 sect3 sect4 sect5 simplesect chapter part appendix app preface dedication abstract "
    "trans-abstract ack ref-list bibliography glossary boxed-text refsect1 refsect2 refsect3 refsection notes "
    "app-group div div1 div2 div3 div4 div5 div6 bio fn-group topic"
)
_SECTION_TITLES = _names("title head")
_TITLES = _names("title article-title book-title invention-title title-of-invention")
_OF_OTHERS = _names(
    "ref ref-list citation mixed-citation element-citation nlm-citation related-article related-object biblstruct bibl "
    "biblioentry bibliography product references-cited us-references-cited series fig table table-wrap"
)
"""A title in these is not that of the document."""
_SPACE = re.compile(r"[ \t\r\n]+")
_REFERENCE = re.compile(r"&(?!#|(?:amp|lt|gt|quot|apos);)[^\s;&]{1,100};")
_SURPLUS = 1_000_000
"""Characters and elements beyond those that the file has: its entities may not give more."""


class _Bomb(Exception):
    """Entities that multiply."""


def read_xml(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document; text that is not well-formed XML is kept exactly as it is, with a note.

    Its title: the first ``title`` (``article-title`` …) that is not a section's, else the first top heading, else the
    file name. Entities of the file are expanded within limits, external ones are never fetched.

    Raises:
        DamagedFile: entities that are made of entities, or that give more text than they should.
    """
    text, notes = decode_file(source)
    try:
        survey = _Survey(text)
        page = _Page(text, survey.mixed)
    except _Bomb as error:
        raise DamagedFile(
            f"{source.uri}: {error}. It may be made to exhaust who reads it. Expand its entities with a tool that you "
            "trust, or leave it out."
        ) from error
    except expat.ExpatError as error:
        note = f"it is not well-formed XML ({error}): its text is kept as it is"
        yield build(source, (text, (*notes, note)), headings=())
        return
    if page.skipped:
        notes = (
            *notes,
            "entities that the file does not declare, or only as external files, kept as they are written: "
            f"{', '.join(sorted(page.skipped)[:20])}",
        )
    if not page.text:
        notes = (*notes, "its elements hold no text")
    top = next((heading.title for heading in page.headings if heading.level == 1), "")
    yield make_document(
        source.uri,
        page.text,
        title=page.title or top or source.name,
        hash=source.hash,
        headings=tuple(page.headings),
        notes=notes,
    )


class _Parsing:
    """A run of expat over a text, with what guards against entities; subclasses take the events."""

    def __init__(self, text: str) -> None:
        self.skipped: set[str] = set()
        self._left = len(text) + _SURPLUS
        # The text is decoded already, so what it declares as its encoding is passed over.
        parser = expat.ParserCreate("utf-8", namespace_separator="}")
        parser.buffer_text = True
        parser.EntityDeclHandler = self._declared
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.SkippedEntityHandler = self._skip
        parser.ExternalEntityRefHandler = self._external
        # In pieces: expat copies what it is given, and a bomb is seen early.
        for start in range(0, len(text), 1_000_000):
            parser.Parse(text[start : start + 1_000_000].encode("utf-8", "replace"), False)
        parser.Parse(b"", True)

    def start(self, name: str, attributes: dict[str, str]) -> None: ...
    def end(self, name: str) -> None: ...
    def characters(self, data: str) -> None: ...

    def _declared(self, name: str, is_parameter: bool, value: str | None, *_: object) -> None:
        if value is not None and (_REFERENCE.search(value) or (is_parameter and "%" in value)):
            raise _Bomb(f"its entity {name[:50]} is made of other entities")

    def _take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise _Bomb("its entities give far more text than the file has")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._take(1)
        self.start(name.rpartition("}")[2].lower(), attributes)

    def _end(self, name: str) -> None:
        self.end(name.rpartition("}")[2].lower())

    def _characters(self, data: str) -> None:
        self._take(len(data))
        self.characters(data)

    def _skip(self, name: str, is_parameter: bool) -> None:
        """A name that only the DTD outside declares: HTML's meaning of it, which DTDs share."""
        if is_parameter:
            return
        if character := html.entities.html5.get(f"{name};"):
            self._characters(character)
        else:
            self.skipped.add(name[:50])
            self._characters(f"&{name};")

    def _external(self, context: str | None, *_: object) -> int:
        if context:
            self._skip(context.split("\f")[-1], False)
        return 1


class _Survey(_Parsing):
    """Which elements, in order of their start, have text directly in them."""

    def __init__(self, text: str) -> None:
        self.mixed = bytearray()
        self._open: list[int] = []
        super().__init__(text)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._open.append(len(self.mixed))
        self.mixed.append(0)

    def end(self, name: str) -> None:
        self._open.pop()

    def characters(self, data: str) -> None:
        if self._open and not self.mixed[self._open[-1]] and not data.isspace():
            self.mixed[self._open[-1]] = 1


class _Page(_Parsing):
    """Text under construction. Separators wait in ``_pending`` until the next text, so none is doubled or dangles."""

    def __init__(self, text: str, mixed: bytearray) -> None:
        self.headings: list[Heading] = []
        self.title = ""
        self._mixed = mixed
        self._seen = 0
        self._parts: list[str] = []
        self._length = 0
        self._pending = ""
        self._open: list[tuple[str, bool, bool]] = []  # name, whether it holds text itself, whether it is a block
        self._flat = self._formulas = self._preformatted = self._sections = self._of_others = 0
        self._heading: tuple[int, int, int] | None = None  # level (0: the title), depth, index of its first part
        self._heading_start = -1
        self._labelled = False  # whether a label has just ended: "1" of "1 Introduction"
        self._in_row = False  # whether the open row has a cell already
        super().__init__(text)

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        mixed = bool(self._mixed[self._seen])
        self._seen += 1
        parent, within_text, _ = self._open[-1] if self._open else ("", False, False)
        is_block = name in _BLOCKS or not (within_text or name in _WITHIN_LINES)
        if name in _CELLS and not self._formulas:
            self._separate("\t" if parent in ("tr", "row") and self._in_row else "\n")
            self._in_row = True
        elif is_block:
            self._separate(" ") if self._labelled else self._break(name)
        self._labelled = False
        if name in ("tr", "row"):
            self._in_row = False
        if name in _LINE_ENDS:
            self._break(name)
        self._open.append((name, mixed, is_block))
        self._count(name, 1)
        if self._heading is None and not self._formulas:
            self._heading = self._heading_of(name, parent, attributes)
            self._heading_start = -1

    def _heading_of(self, name: str, parent: str, attributes: dict[str, str]) -> tuple[int, int, int] | None:
        depth, first = len(self._open), len(self._parts)
        if name in _SECTION_TITLES and parent in _SECTIONS:
            return self._sections, depth, first
        if name == "heading" and not self._of_others:  # of patents
            level = attributes.get("level", attributes.get("lvl", "1"))
            return (int(level) if level.isdecimal() and 0 < int(level) < 10 else 1), depth, first
        if name in _TITLES and not self.title and not self._sections and not self._of_others:
            return 0, depth, first
        return None

    def end(self, name: str) -> None:
        if self._heading and self._heading[1] == len(self._open):
            level, _, first = self._heading
            title = " ".join("".join(self._parts[first:]).split())
            if title and level:
                self.headings.append(Heading(self._heading_start, level, title))
            elif title:
                self.title = title
            self._heading = None
        _, _, is_block = self._open.pop()
        self._labelled = name == "label"
        self._count(name, -1)
        if is_block and name not in _CELLS:
            self._break(name)

    def characters(self, data: str) -> None:
        if self._preformatted and not self._flat:
            if data.strip() or self._open[-1][1]:
                self._write(data)
            return
        core = _SPACE.sub(" ", data)
        if core.startswith(" ") and not self._formulas:
            self._separate(" ")
        if stripped := core.strip(" "):
            self._write(stripped)
            if core.endswith(" "):
                self._separate(" ")

    def _count(self, name: str, step: int) -> None:
        self._flat += step * (name in _FLAT or name.startswith("classification"))
        self._formulas += step * (name in _FORMULAS)
        self._preformatted += step * (name in _PREFORMATTED)
        self._sections += step * (name in _SECTIONS)
        self._of_others += step * (name in _OF_OTHERS)

    def _break(self, name: str) -> None:
        if self._formulas:
            return
        self._separate(" " if self._flat or name == "label" else "\n")

    def _separate(self, separator: str) -> None:
        """Let ``separator`` come before the next text, unless a stronger one does already. Tabs add up: empty cells."""
        if separator == "\t":
            self._pending = self._pending.rstrip(" ") + "\t"
        elif (separator == "\n" and self._pending in ("", " ")) or not self._pending:
            self._pending = separator
        elif separator == "\n" and "\t" in self._pending:  # a row that ended with empty cells
            self._pending = "\n"

    def _write(self, text: str) -> None:
        if self._pending and self._parts:
            self._parts.append(self._pending)
            self._length += len(self._pending)
        self._pending = ""
        if self._heading and self._heading_start < 0:
            self._heading_start = self._length
        self._parts.append(text)
        self._length += len(text)
