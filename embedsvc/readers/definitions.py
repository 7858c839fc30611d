"""Definitions in source code of many languages, found by scanning: no grammar, no guarantee.

Languages with braces: strings and comments are passed over, and what stands before a brace says whether it opens a
class, a function or something else; nothing is looked for within a function. Others: lines that begin a definition,
nested by their indentation. Unbalanced braces (macros, an unusual literal) cost headings from there on, never text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from embedsvc.records import Heading

_LONGEST_TITLE = 80
_LONGEST_HEADER = 2_000
_WORDS_OF_TYPES = "class|interface|trait|impl|namespace|object|extension|protocol|record|mod|module|package|actor|mixin"
_TYPE = re.compile(rf"^[^(=]*?\b(?:{_WORDS_OF_TYPES})\b")
_PLAIN_TYPE = re.compile(r"^[^(=]*?\b(?:struct|enum|union)\b[^(=]*$|^extern\s*\"[^\"]*\"\s*$|^[^(=]*?\benum class\b")
_FUNCTION_WORD = re.compile(r"^[^(={]*?\b(?:function|func|fn|fun|def|sub|init|deinit|operator)\b")
_CONTROL = re.compile(
    r"^(?:@\w+\s+)*(?:if|else|for|foreach|while|switch|catch|try|do|return|with|match|when|using|lock|select|loop|case|"
    r"finally|unsafe|default|await|throw|new|synchronized|guard|defer|repeat)\b"
)
_CONTINUED = re.compile(r"\s*(?:where|throws|extends|implements|with|const|noexcept|override|->|=>|[:,)>&|.?])")
_NO_LINE_END = re.compile(r"[^\n]")
_NAMED = re.compile(r"[\w$>~\])\"'`]\s*\(")
_TAIL = re.compile(r"\)[\s\w:<>&*,.?\[\]|'$@\\-]*\Z")


@dataclass(frozen=True)
class Braces:
    """How a language with braces writes what is to be passed over."""

    hash_lines: bool = False
    """Lines that begin with ``#`` are no code: preprocessor, attributes, comments."""
    single_quoted: bool = False
    """``'…'`` is a string of any length, not one character."""
    backticks: bool = False
    triple_quoted: bool = False
    regexes: bool = False

    @cached_property
    def token(self) -> re.Pattern[str]:
        parts = [r"//[^\n]*", r"/\*.*?(?:\*/|\Z)"]
        if self.hash_lines:
            parts.append(r"(?m:^)[ \t]*\#(?:[^\n\\]|\\.)*")
        if self.triple_quoted:
            parts.append(r'"""(?:\\.|(?!""")[^\\])*+(?:"""|\Z)')
        parts += [
            r'\b(?:u8|[uUL])?R"(?P<tag>[^()\\\s]{0,16})\(.*?(?:\)(?P=tag)"|\Z)',  # C++
            r'\br(?P<fence>\#{1,9})".*?(?:"(?P=fence)|\Z)',  # Rust
            r'@"(?:[^"]|"")*+"?',  # C#
            r'"(?:\\.|[^"\\\n])*+"?',
        ]
        parts.append(r"'(?:\\.|[^'\\\n])*+'?" if self.single_quoted else r"'(?:\\[^\n]{1,10}?|[^'\\\n])'")
        if self.backticks:
            parts.append(r"`(?:\\.|[^`\\])*+`?")
        if self.regexes:
            parts.append(
                r"(?:(?<=[(,=:!&|?\[])|(?<=\breturn))[ \t]*/(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*+\]|[^/\\\n\[])++/"
            )
        return re.compile(f"(?P<skip>{'|'.join(parts)})|[{{}};]", re.DOTALL)


_C = Braces(hash_lines=True)
_JAVA = Braces(triple_quoted=True)
_SCRIPT = Braces(single_quoted=True, backticks=True, regexes=True)
_PHP = Braces(hash_lines=True, single_quoted=True)
_DART = Braces(single_quoted=True, triple_quoted=True)
_FAMILIES = (
    ("c h cc cpp cxx hpp hh hxx cu cuh cs rs", _C),
    ("java kt kts scala swift", _JAVA),
    ("js mjs cjs jsx ts mts cts tsx", _SCRIPT),
    ("go", Braces(backticks=True)),
    ("php", _PHP),
    ("dart groovy", _DART),
)
BRACES = {suffix: family for suffixes, family in _FAMILIES for suffix in suffixes.split()}

_SQL_OBJECTS = "table|view|function|procedure|trigger|index|type|schema"
_LINE_PATTERNS = {
    "py pyi pyw": r"(?P<type>class\s+\w+)|(?:async\s+)?def\s+\w+",
    "rb": r"(?P<type>(?:class|module)\s+[\w:]+)|def\s+[\w.?!=\[\]<>+*/%~-]+",
    "lua": r"(?:local\s+)?function\s+[\w.:]+|(?:local\s+)?[\w.]+\s*=\s*function\b",
    "sh bash zsh": r"function\s+[\w:.-]+|[\w:.-]+\s*\(\)",
    "pl pm": r"package\s+[\w:]+|sub\s+\w+",
    "r": r"[\w.]+\s*(?:<-|=)\s*function\b",
    "sql": rf"(?i:create\s+(?:or\s+replace\s+)?(?:\w+\s+){{0,3}}?(?:{_SQL_OBJECTS})\s+)[\w.\"\[\]`]+",
    "ps1": r"(?i:function\s+[\w:-]+|(?P<type>class\s+\w+))",
    "jl": r"(?P<type>module\s+\w+)|(?:mutable\s+)?struct\s+\w+|(?:function|macro)\s+[\w.!]+",
    "ex exs": r"(?P<type>(?:defmodule|defprotocol|defimpl)\s+[\w.]+)|(?:defp?|defmacrop?)\s+\w+[?!]?",
}  # fmt: skip
LINES = {
    suffix: re.compile(rf"^(?P<indent>[ \t]*)(?P<title>{pattern})(?![\w])?[^\r\n]*", re.MULTILINE)
    for suffixes, pattern in _LINE_PATTERNS.items()
    for suffix in suffixes.split()
}


def scan_braces(text: str, braces: Braces) -> Sequence[Heading]:
    """Headings at types and functions, with the comment right above."""
    headings: list[Heading] = []
    open_kinds: list[str] = []
    opaque = 0  # of the open braces, those within which nothing is looked for
    since = 0  # where the statement at hand begins
    skipped: list[tuple[int, int]] = []  # comments and strings in it
    for token in braces.token.finditer(text):
        if token["skip"] is not None:
            if not opaque:
                skipped.append(token.span())
            continue
        at = token.start()
        if token[0] == "{":
            kind = "other"
            if not opaque:
                start, header = _header(text, since, at, skipped)
                kind = _kind(header)
                if kind != "other":
                    level = open_kinds.count("type") + 1
                    headings.append(Heading(_with_comment(text, since, start), level, _title(header)))
            open_kinds.append(kind)
            opaque += kind != "type"
        elif token[0] == "}" and open_kinds:
            opaque -= open_kinds.pop() != "type"
        since = token.end()
        skipped = []
    return headings


def _header(text: str, since: int, at: int, skipped: Sequence[tuple[int, int]]) -> tuple[int, str]:
    """Where the code before the brace at ``at`` begins, and that code, comments blanked out.

    Only its last statement: of languages without semicolons, others may stand before it. Lines belong to it that
    parentheses, or the way in which a line begins, join to the next.
    """
    parts: list[str] = []
    position = since
    for low, high in skipped:
        is_string = text[low] in "\"'`@RrUuL"
        parts += text[position:low], text[low:high] if is_string else _NO_LINE_END.sub(" ", text[low:high])
        position = high
    code = "".join([*parts, text[position:at]])
    depth, begin, end = 0, len(code), len(code)
    while end > 0:
        start = code.rfind("\n", 0, end) + 1
        line = code[start:end]
        depth += line.count(")") - line.count("(")
        if line.strip():
            begin = start + len(line) - len(line.lstrip())
            if depth <= 0 and not _CONTINUED.match(line):
                break
        if len(code) - start > _LONGEST_HEADER:
            break
        end = start - 1
    return since + begin, " ".join(code[begin:].split())


def _kind(header: str) -> str:
    if not header or len(header) > _LONGEST_HEADER or _CONTROL.match(header):
        return "other"
    if _TYPE.match(header) or _PLAIN_TYPE.match(header):
        return "type"
    if _FUNCTION_WORD.match(header) or header.endswith("=>"):
        return "function"
    before = header.partition("(")[0]
    is_call = "=" in before or header.count("(") != header.count(")")
    return "function" if not is_call and _NAMED.search(header) and _TAIL.search(header) else "other"


def _with_comment(text: str, since: int, start: int) -> int:
    """The beginning of the line that ``start`` is on, or of those right above it, up to a blank line or ``since``."""
    first = text.rfind("\n", since, start) + 1
    if not first:  # on the line where the statement before it ends
        return start if since else 0
    while first > since:
        above = text.rfind("\n", since, first - 1) + 1
        if not above:
            return 0 if not since and text[:first].strip() else first
        if not text[above:first].strip():
            break
        first = above
    return first


def _title(header: str) -> str:
    title = re.sub(r"^(?:@[\w.]+(?:\([^()]*\))?\s+|#\[[^\]]*\]\s*|\[[^\]]*\]\s*)+", "", header) or header
    title = title.removesuffix("=>").strip()
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"


def scan_lines(text: str, pattern: re.Pattern[str]) -> Sequence[Heading]:
    """Headings at the lines that ``pattern`` finds. One that is indented below a function is part of it."""
    headings: list[Heading] = []
    around: list[tuple[int, bool]] = []  # indentation of the definitions that the next line may be in; is it a type
    for match in pattern.finditer(text):
        indent = len(match["indent"].expandtabs())
        while around and around[-1][0] >= indent:
            around.pop()
        if around and not around[-1][1]:
            continue
        headings.append(Heading(match.start(), len(around) + 1, " ".join(match["title"].split())))
        around.append((indent, match.groupdict().get("type") is not None))
    return headings
