"""LaTeX: the text as it is, with its sectioning commands as headings. Nothing is expanded or included."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from embedsvc.readers.decoding import decode
from embedsvc.readers.items import FieldChoice
from embedsvc.readers.plain import build
from embedsvc.records import Document, Heading, Source

_LEVELS = ("part", "chapter", "section", "subsection", "subsubsection", "paragraph", "subparagraph")
_LITERAL = r"verbatim\*?|[BL]?Verbatim\*?|lstlisting|minted|alltt|comment|filecontents\*?"
_TOKEN = re.compile(
    rf"""%[^\r\n]*
    | \\begin[ \t]*\{{({_LITERAL})\}}
    | \\verb\*?([^\sa-zA-Z*])[^\r\n]*?\2
    | \\(title|{"|".join(_LEVELS)})\*?(?![a-zA-Z@])\s*(?:\[[^\[\]]{{0,500}}\]\s*)?(?=\{{)
    | \\.""",
    re.VERBOSE | re.DOTALL,
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_LONGEST = 500
"""Characters of a title. A brace that does not close within them belongs to no title."""
_ENCODING = re.compile(rb"\\usepackage\s*\[([\w-]+)\]\s*\{inputenc\}")
_ENCODINGS = {"latin1": "latin-1", "ansinew": "cp1252", "applemac": "mac-roman", "latin9": "iso8859-15"}
_DROPPED = re.compile(r"\\(?:footnote|label|thanks|index|cite[a-z]*|vspace|hspace)\*?\s*(?:\[[^\]]*\])?\{[^{}]*\}")
_ACCENT = re.compile(r"""\\(["'`^~=.uvHckr])(?:\{\\?([a-zA-Z])\}|(?<=["'`^~=.])\\?([a-zA-Z]))""")
_MARKS = dict(
    zip("\"'`^~=.uvHckr", "\u0308\u0301\u0300\u0302\u0303\u0304\u0307\u0306\u030c\u030b\u0327\u0328\u030a", strict=True)
)
_COMMAND = re.compile(r"\\\\(?:\[[^\]]*\])?|\\[a-zA-Z@]+\*?\s?|(?<!\\)[{}$]|~")


def read_latex(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: that of ``\\title``, else the first top heading, else the file name."""
    named = _ENCODING.search(source.data, 0, 16_384)
    name = named[1].decode("ascii") if named else None
    decoded = decode(source.data, source.uri, declared=_ENCODINGS.get(name or "", name))
    headings, title = _headings(decoded.text)
    yield build(source, (decoded.text, decoded.notes), headings=headings, title=title)


def _headings(text: str) -> tuple[list[Heading], str]:
    """Headings, their levels from 1 on whatever the topmost command is, and the title."""
    found: list[tuple[int, int, str]] = []
    title, position = "", 0
    while token := _TOKEN.search(text, position):
        position = token.end()
        if token[1]:
            end = text.find(f"\\end{{{token[1]}}}", position)
            position = len(text) if end < 0 else end
        elif token[3]:
            argument = _argument(text, position)
            if argument is None:
                continue
            position += len(argument) + 2
            if plain := _plain(argument):
                if token[3] == "title":
                    title = title or plain
                else:
                    found.append((token.start(), _LEVELS.index(token[3]), plain))
    top = min((level for _, level, _ in found), default=0)
    return [Heading(start, level - top + 1, plain) for start, level, plain in found], title


def _argument(text: str, start: int) -> str | None:
    """What stands in the braces that open at ``start``."""
    depth = 0
    for brace in _BRACE.finditer(text, start, start + _LONGEST):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return text[start + 1 : brace.start()]
    return None


def _plain(argument: str) -> str:
    """A title without its commands: ``\\emph{G\\"odel}~\\& co.`` is "Gödel & co."."""
    text = re.sub(r"(?<!\\)%[^\r\n]*", "", argument)
    text = _DROPPED.sub("", text)
    text = _ACCENT.sub(lambda accent: unicodedata.normalize("NFC", (accent[2] or accent[3]) + _MARKS[accent[1]]), text)
    text = re.sub(r"\\texorpdfstring\s*\{[^{}]*\}", "", text).replace("\\ss{}", "ß").replace("\\ss", "ß")
    text = _COMMAND.sub(lambda command: " " if command[0][:2] in ("\\\\", "~") else "", text)
    return " ".join(re.sub(r"\\(.)", r"\1", text).split())
