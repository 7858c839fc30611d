"""Text files that are kept as they are: a span of ``document.text`` is a place in the file.

Markdown and reStructuredText have their headings found (:mod:`.markdown`, :mod:`.restructured`); everything
else that is text, source code included, has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from embedsvc.readers.decoding import decode
from embedsvc.readers.items import FieldChoice
from embedsvc.records import Document, Heading, Source, make_document

_DECLARED = re.compile(
    rb"""\A<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]+)  # XML's own declaration
    | \A(?:[^\n]*\n)?[ \t]*\#[^\n]*?coding[:=][ \t]*([-\w.]+)  # Python's (PEP 263)""",
    re.VERBOSE,
)
_HEADER = re.compile(r"(?:[A-Z][\w-]*:(?:[ \t].*)?\r?\n(?:[ \t]+\S.*\r?\n)*)+", re.MULTILINE)
_HEADER_TITLE = re.compile(r"^Title:[ \t]*(\S.*(?:\r?\n[ \t]+\S.*)*)", re.MULTILINE)


def read_plain(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """Any text: its title is that of a mail-like header (as in PEPs and RFCs), else the file name."""
    yield build(source, decode_file(source), headings=())


def decode_file(source: Source) -> tuple[str, tuple[str, ...]]:
    declaration = _DECLARED.search(source.data, 0, 1024)
    declared = (declaration[1] or declaration[2]).decode("ascii") if declaration else None
    decoded = decode(source.data, source.uri, declared=declared)
    return decoded.text, decoded.notes


def build(
    source: Source, decoded: tuple[str, tuple[str, ...]], *, headings: Sequence[Heading], title: str = ""
) -> Document:
    """The Document of a text file. Its title: ``title``, else its header's, else its first top heading."""
    text, notes = decoded
    title = title or header_title(text) or next((heading.title for heading in headings if heading.level == 1), "")
    return make_document(
        source.uri, text, title=title or source.name, hash=source.hash, headings=tuple(headings), notes=notes
    )


def header_title(text: str) -> str:
    """The ``Title:`` of a block of ``Key: value`` lines at the very beginning of ``text``, or ""."""
    header = _HEADER.match(text, 0, 8192)
    title = _HEADER_TITLE.search(header[0]) if header else None
    return " ".join(title[1].split()) if title else ""
