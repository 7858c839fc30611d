"""HTML: the text that a browser would show, without navigation, with block elements on lines of their own.

The tree comes from lexbor, which repairs broken markup as browsers do; what is kept is decided here, because
main-content extractors lose tables, lists and short pages (docs/formats.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from embedsvc.errors import DamagedFile
from embedsvc.readers.decoding import decode
from embedsvc.readers.items import FieldChoice
from embedsvc.records import Document, Heading, Source, make_document

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CHARSET = re.compile(
    rb"""<meta[^>]{0,300}?charset\s*=\s*["']?\s*([\w.:-]+)|<\?xml[^>]{0,200}?encoding=["']([\w.:-]+)""", re.I
)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)[^<>]*?(/?)>")
_SELF_CLOSED = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr|svg|math)\b)"
    r"([a-zA-Z][a-zA-Z0-9]*)((?:\s[^<>]*)?)/>"
)
"""What only XML closes so: to a parser of HTML ``<title/>`` begins a title that ends with the file."""
_CLOSED_BY_OTHERS = _words(
    "area base br col embed hr img input link meta param source track wbr p li dt dd td th tr tbody thead "
    "tfoot option optgroup colgroup html body head"
)
_MOST_DEPTH = 5000
"""Nesting beyond this is no page, and the parser's time grows with its square."""

_INVISIBLE = _words("script style noscript template head title svg iframe object audio video datalist")
_BOILERPLATE = frozenset({"nav", "footer"})
_BOILERPLATE_ROLES = frozenset({"navigation", "contentinfo", "search"})
_PARAGRAPHS = _words(
    "p h1 h2 h3 h4 h5 h6 pre blockquote table ul ol dl section article figure main aside header fieldset details"
)
_LINES = _words(
    "div li dt dd tr caption figcaption address form legend summary hr br option optgroup center body "
    "html thead tbody tfoot hgroup menu dialog search nav footer"
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_SPACE = re.compile(r"[ \t\n\r\f]+")
_SHARE_OF_MAIN = 0.5
"""``<main>`` is believed when it holds at least this share of the page's text."""
_SHARE_LEFT = 0.1
"""Where leaving out boilerplate leaves less than this share of the text, the markup lies: everything is kept."""


def read_html(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: ``<title>``, else the first top heading, else the file name.

    Raises:
        BinaryJunk, WrongEncoding: as :func:`~embedsvc.readers.decoding.decode`.
        DamagedFile: elements nested thousands deep.
    """
    from selectolax.lexbor import LexborHTMLParser

    declaration = _CHARSET.search(source.data, 0, 4096)
    declared = (declaration[1] or declaration[2]).decode("ascii") if declaration else None
    decoded = decode(source.data, source.uri, declared=declared)
    text = decoded.text
    if text.lstrip().startswith("<?xml"):
        text = _SELF_CLOSED.sub(r"<\1\2></\1>", text)
    _check_depth(text, source.uri)
    tree = LexborHTMLParser(text)
    whole = _Page()
    if tree.root is not None:
        whole.add(tree.root, skip_boilerplate=False)
    page = _main(tree, whole)
    title_node = tree.css_first("head > title")
    title = " ".join(title_node.text().split()) if title_node is not None else ""
    title = title or next((heading.title for heading in page.headings if heading.level == 1), "")
    yield make_document(
        source.uri,
        page.text,
        title=title or source.name,
        hash=source.hash,
        headings=tuple(page.headings),
        notes=decoded.notes,
    )


def read_chapter(data: bytes, uri: str) -> tuple[str, list[Heading]]:
    """The text and the headings of an XHTML page of a book: all of it, for books have no boilerplate.

    Raises: as :func:`read_html`.
    """
    from selectolax.lexbor import LexborHTMLParser

    declaration = _CHARSET.search(data, 0, 4096)
    declared = (declaration[1] or declaration[2]).decode("ascii") if declaration else None
    text = _SELF_CLOSED.sub(r"<\1\2></\1>", decode(data, uri, declared=declared).text)
    _check_depth(text, uri)
    tree = LexborHTMLParser(text)
    page = _Page()
    if tree.root is not None:
        page.add(tree.root, skip_boilerplate=False)
    return page.text, page.headings


def _check_depth(text: str, uri: str) -> None:
    depth = 0
    for tag in _TAG.finditer(text):
        if tag[2].lower() not in _CLOSED_BY_OTHERS and not tag[3]:
            depth += -1 if tag[1] else 1
            if depth > _MOST_DEPTH:
                raise DamagedFile(
                    f"{uri}: its HTML elements are nested more than {_MOST_DEPTH} deep. "
                    "Save the page anew from a browser, or convert it to text."
                )


def _main(tree: LexborHTMLParser, whole: _Page) -> _Page:
    """What of the page to keep. In doubt, more."""
    root = tree.root
    if root is None:
        return whole
    page = _Page()
    page.add(root, skip_boilerplate=True)
    if page.length < _SHARE_LEFT * whole.length:
        return whole
    node = tree.css_first("main, [role=main]")
    if node is not None:
        main = _Page()
        main.add(node, skip_boilerplate=True)
        has_title = any(heading.level == 1 for heading in main.headings)
        if main.length >= _SHARE_OF_MAIN * page.length and (
            has_title or not page.headings or page.headings[0].level > 1
        ):
            return main
    return page


class _Page:
    """Text under construction. Separators wait in ``_pending`` until the next text, so none is doubled or dangles."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self.length = 0
        self._parts: list[str] = []
        self._pending = ""
        self._marker = ""  # of the list item whose text is still to come
        self._open_headings: list[tuple[int, list[int]]] = []  # level, [offset, index of its first part] once known
        self._lists: list[int | None] = []  # the last number of each open list; None: bullets
        self._rows: list[int] = []  # cells so far in each open row
        self._cells: list[bool] = []  # for each open cell: is it one of a table of data
        self._layouts: list[bool] = []  # for each open table: does it only arrange other tables
        self._preformatted = 0

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def add(self, root: LexborNode, *, skip_boilerplate: bool) -> None:
        """Append what ``root`` shows. Without recursion: pages nest deeper than Python's stack."""
        node: LexborNode | None = root
        path: list[LexborNode] = []
        while node is not None:
            child = None
            if node.is_text_node:
                self._text(node.text_content or "")
            elif node.is_element_node and not _is_skipped(node, skip_boilerplate):
                self._enter(node)
                child = node.first_child
                if child is None:
                    self._leave(node)
            if child is not None:
                path.append(node)
                node = child
                continue
            if not path:
                break
            following = node.next
            while following is None and path:
                parent = path.pop()
                self._leave(parent)
                following = parent.next if path else None
            node = following
        self.headings.sort(key=lambda heading: heading.start)

    def _enter(self, node: LexborNode) -> None:
        tag = node.tag or ""
        self._break(tag)
        if tag in _HEADINGS:
            self._open_headings.append((_HEADINGS[tag], []))
        elif tag == "pre":
            self._preformatted += 1
        elif tag in ("ul", "ol"):
            self._lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            number = self._lists[-1] if self._lists else None
            self._marker = "- "
            if number is not None:
                self._lists[-1] = number + 1
                self._marker = f"{number + 1}. "
        elif tag == "table":
            self._layouts.append(node.css_first("table table") is not None)
        elif tag == "tr":
            self._rows.append(0)
        elif tag in ("td", "th") and self._rows and self._layouts:
            if self._layouts[-1]:
                self._separate("\n")
            elif self._rows[-1]:
                self._separate("\t")
            self._rows[-1] += 1
            self._cells.append(not self._layouts[-1])

    def _leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag in _HEADINGS:
            level, place = self._open_headings.pop()
            if place:
                title = " ".join("".join(self._parts[place[1] :]).split())
                self.headings.append(Heading(place[0], level, title))
        elif tag == "pre":
            self._preformatted -= 1
        elif tag in ("ul", "ol"):
            self._lists.pop()
        elif tag == "li":
            self._marker = ""
        elif tag == "table":
            self._layouts.pop()
        elif tag == "tr":
            self._rows.pop()
        elif tag in ("td", "th") and self._rows and self._layouts:
            self._cells.pop()
        if tag != "br":
            self._break(tag)

    def _break(self, tag: str) -> None:
        in_cell = bool(self._cells) and self._cells[-1]
        if tag in _PARAGRAPHS or (tag == "br" and self._pending == "\n"):
            self._separate(" " if in_cell else "\n\n")
        elif tag in _LINES:
            self._separate(" " if in_cell else "\n")

    def _separate(self, separator: str) -> None:
        """Let ``separator`` come before the next text, unless a stronger one does already. Tabs add up: empty cells."""
        if separator == "\t":
            self._pending = self._pending.rstrip(" ") + "\t"
        elif separator == "\n\n" or (separator == "\n" and not self._pending.startswith("\n\n")) or not self._pending:
            self._pending = separator

    def _text(self, text: str) -> None:
        if not self._preformatted:
            text = _SPACE.sub(" ", text)
            if text.startswith(" "):
                self._separate(" ")
            core = text.strip(" ")
            if core:
                self._write(core)
            if core and text.endswith(" "):
                self._separate(" ")
        elif text:
            self._write(text)

    def _write(self, text: str) -> None:
        before = self._pending if self._parts else ""
        before += self._marker
        self._pending = self._marker = ""
        if before:
            self._parts.append(before)
            self.length += len(before)
        for _, place in self._open_headings:
            if not place:
                place += (self.length, len(self._parts))
        self._parts.append(text)
        self.length += len(text)


def _is_skipped(node: LexborNode, skip_boilerplate: bool) -> bool:
    tag = node.tag or ""
    if tag in _INVISIBLE:
        return True
    return skip_boilerplate and (tag in _BOILERPLATE or node.attributes.get("role") in _BOILERPLATE_ROLES)
