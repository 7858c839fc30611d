"""reStructuredText: the text as it is, with its section titles.

A scan of lines after the rules of docutils: docutils itself gives no offsets, follows ``include`` directives
into other files, and takes many times as long (docs/formats.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from embedsvc.readers.items import FieldChoice
from embedsvc.readers.plain import build, decode_file
from embedsvc.records import Document, Heading, Source

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n|\Z)")
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*\Z")
_NO_TITLE = re.compile(r"\s|[-*+•‣⁃](?:\s|\Z)|:[^:\s][^:]*:(?:\s|\Z)|>>>(?:\s|\Z)|\|\s|\.\.(?:\s|\Z)|__(?:\s|\Z)")
"""Beginnings of a line that docutils takes for another element before it thinks of a title."""
_ROLE = re.compile(r":[\w:+.-]+:`([^`]*?)(?:\s*<[^`<>]*>)?`")
_MARKUP = re.compile(r"``(.+?)``|`([^`]+?)(?:\s*<[^`<>]*>)?`_{0,2}|\*\*(.+?)\*\*|\*(.+?)\*")
_SHORTEST = 4
"""An adornment shorter than its title is one all the same from this length on, as in docutils."""


def read_restructured(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: that of a PEP-like header, else the first top section, else the file name."""
    text, notes = decode_file(source)
    yield build(source, (text, notes), headings=_headings(text))


def _headings(text: str) -> list[Heading]:
    lines = [(match.start(), match[0].rstrip()) for match in _LINE.finditer(text)]
    levels: dict[str, int] = {}  # adornment style ("=" underlined, "==" also overlined) to level, by appearance
    headings: list[Heading] = []
    index, after_blank = 0, True
    while index < len(lines):
        (start, line), taken, style = lines[index], 0, ""
        if after_blank and _is_adornment(line) and index + 2 < len(lines):
            title = lines[index + 1][1]
            if title.strip() and lines[index + 2][1] == line and _fits(line, title) and not _is_adornment(title):
                taken, style = 3, line[0] * 2
        elif after_blank and line and not _NO_TITLE.match(line) and index + 1 < len(lines):
            title, underline = line, lines[index + 1][1]
            if _is_adornment(underline) and _fits(underline, title):
                taken, style = 2, underline[0]
        if taken:
            headings.append(Heading(start, levels.setdefault(style, len(levels) + 1), _plain(title)))
            index, after_blank = index + taken, True
        else:
            after_blank = not line
            index += 1
    return headings


def _is_adornment(line: str) -> bool:
    return _ADORNMENT.match(line) is not None


def _fits(adornment: str, title: str) -> bool:
    return len(adornment) >= min(len(title), _SHORTEST)


def _plain(title: str) -> str:
    """``title`` without inline markup."""
    return _MARKUP.sub(lambda match: next(filter(None, match.groups())), _ROLE.sub(r"\1", title)).strip()
