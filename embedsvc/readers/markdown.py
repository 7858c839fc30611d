"""Markdown: the text as it is, with its headings as CommonMark sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from embedsvc.readers.items import FieldChoice
from embedsvc.readers.plain import build, decode_file
from embedsvc.records import Document, Heading, Source

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)")
_FRONT_TITLE = re.compile(r"^title[ \t]*:[ \t]*(\S.*?)[ \t\r]*$", re.MULTILINE)
_ATTRIBUTES = re.compile(r"\s*\{[ \t]*[#.:][^{}]*\}\s*$")
"""``# Heading { #anchor .class }``, as MkDocs, Pandoc and kramdown write it."""
_LINE_END = re.compile(r"\r\n?|\n")
"""What the parser takes for the end of a line."""
_INDENT = re.compile(r"[ \t]*")


def read_markdown(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: that of the front matter, else the first top heading, else the file name."""
    text, notes = decode_file(source)
    front = _FRONT_MATTER.match(text)
    body = front.end() if front else 0
    title = _FRONT_TITLE.search(front[0]) if front else None
    yield build(
        source, (text, notes), headings=headings_of(text, body), title=title[1].strip("\"'").strip() if title else ""
    )


def headings_of(text: str, body: int = 0) -> list[Heading]:
    """Headings of ``text[body:]`` that are not inside a quotation or a list item: those structure no document."""
    parser = _parser()
    starts = [body, *(end.end() for end in _LINE_END.finditer(text, body))]
    tokens = parser.parse(text[body:])
    headings = []
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open" and opening.level == 0 and opening.map:
            line = _INDENT.match(text, starts[opening.map[0]])
            if title := _plain(parser, _ATTRIBUTES.sub("", inline.content)):
                headings.append(Heading(line.end() if line else 0, int(opening.tag[1]), title))
    return headings


def _plain(parser: MarkdownIt, content: str) -> str:
    """A heading's content without its markup: ``*Using* [`x`](y)`` is "Using x"."""
    words = []
    tokens: list[Token] = []
    parser.inline.parse(content, parser, {}, tokens)
    for token in tokens:
        if token.type in ("text", "code_inline"):
            words.append(token.content)
        elif token.type == "image":
            words += [child.content for child in token.children or ()]
        elif token.type in ("softbreak", "hardbreak"):
            words.append(" ")
    return " ".join("".join(words).split())


@cache
def _parser() -> MarkdownIt:
    """CommonMark's blocks. The inline pass over the whole text is left out: only headings are looked into."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").disable("inline")
