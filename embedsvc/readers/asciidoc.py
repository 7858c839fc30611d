"""AsciiDoc: the text as it is, with its section titles. Nothing is included or evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterator

from embedsvc.readers.items import FieldChoice
from embedsvc.readers.plain import build, decode_file
from embedsvc.records import Document, Heading, Source

_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n|\Z)")
_TITLE = re.compile(r"(={1,6}|\#{1,6})[ \t]+(\S.*)\Z")
_FENCE = re.compile(r"(?:-{4,}|\.{4,}|\+{4,}|/{4,}|\*{4,}|={4,}|_{4,}|--|[|!,:]={3,}|`{3,}.*)\Z")
"""What opens a block: listing, literal, passthrough, comment, sidebar, example, quotation, open block, table, code."""
_UNDERLINE = re.compile(r"([-=~^+])\1{2,}\Z")
_UNDERLINES = "=-~^+"
_BEFORE_TITLE = re.compile(r"\[.*\]\Z|//|:[\w!-]+:|\.\S|\Z")
"""Lines that may stand right above a title: attributes, comments, a block's name, nothing."""
_PLAIN = re.compile(r"\[\[[^\]]*\]\]|\[#[^\]]*\](?=\S)|(?<!\w)[*_`#]+(?=\S)|(?<=\S)[*_`#]+(?!\w)|[ \t]+=+\Z")


def read_asciidoc(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: the document's, else the first top section's, else the file name."""
    text, notes = decode_file(source)
    headings = _headings(text)
    top = min((heading.level for heading in headings), default=0)
    title = next((heading.title for heading in headings if heading.level == top), "")
    yield build(source, (text, notes), headings=headings, title=title)


def _headings(text: str) -> list[Heading]:
    """Levels: 1 for the document's title (``=``), 2 for its sections (``==``), and so on."""
    lines = [(match.start(), match[0].rstrip()) for match in _LINE.finditer(text)]
    headings: list[Heading] = []
    fence, before, index = "", "", 0
    while index < len(lines):
        start, line = lines[index]
        following = lines[index + 1][1] if index + 1 < len(lines) else ""
        taken = 1
        if fence:
            if line == fence:
                fence, line = "", ""
        elif (title := _TITLE.match(line)) and _BEFORE_TITLE.match(before):
            headings.append(Heading(start, len(title[1]), _plain(title[2])))
            line = ""
        elif _is_underlined(line, following) and _BEFORE_TITLE.match(before):
            headings.append(Heading(start, _UNDERLINES.index(following[0]) + 1, _plain(line)))
            line, taken = "", 2
        elif _FENCE.match(line):
            fence = "```" if line.startswith("```") else line
        before = line
        index += taken
    return headings


def _is_underlined(line: str, following: str) -> bool:
    """A title in the old form: its underline is as long as it, give or take one."""
    return (
        _UNDERLINE.match(following) is not None
        and abs(len(following) - len(line)) <= 1
        and re.match(r"[^\W_]|[\"'(]", line) is not None
    )


def _plain(title: str) -> str:
    return " ".join(_PLAIN.sub("", title).split())
