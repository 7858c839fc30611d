"""Source code: the text as it is, with its definitions as headings, so that passages begin and end at them.

Python is parsed by its own ``ast`` (nothing is run); other languages are scanned (:mod:`.definitions`).
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence

from embedsvc.readers.definitions import BRACES, LINES, scan_braces, scan_lines
from embedsvc.readers.items import FieldChoice
from embedsvc.readers.plain import build, decode_file
from embedsvc.records import Document, Heading, Source

_PYTHON = frozenset({"py", "pyi", "pyw"})
_LINE_END = re.compile(r"\r\n?|\n")
_LONGEST_PARSED = 5_000_000
"""Characters; a syntax tree takes a hundred times as many bytes. What is longer is data in the form of code."""
_DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_COMPOUND = ast.If | ast.Try | ast.With
_LONGEST_TITLE = 80


def read_code(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document, exactly the file's text. Its title: the file name."""
    text, notes = decode_file(source)
    suffix = source.name.rpartition(".")[2].lower()
    headings: Sequence[Heading]
    if suffix in _PYTHON:
        headings = _of_python(text)
    elif suffix in BRACES:
        headings = scan_braces(text, BRACES[suffix])
    else:
        headings = scan_lines(text, LINES[suffix])
    yield build(source, (text, notes), headings=headings, title=source.name)


def _of_python(text: str) -> Sequence[Heading]:
    """Classes, their methods, functions; nothing within a function. What follows one in the same body, and is none,
    has its first line as its heading: else it would be cited as part of what stands before it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that later Pythons will refuse
            tree = ast.parse(text) if len(text) <= _LONGEST_PARSED else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # another Python, or none; too deeply nested
        tree = None
    if tree is None:
        return scan_lines(text, LINES["py"])
    lines = [0, *(end.end() for end in _LINE_END.finditer(text)), len(text)]
    headings: list[Heading] = []

    def visit(body: Sequence[ast.stmt], level: int, after: bool) -> bool:
        """``after``: whether a definition was the last thing to have a heading."""
        for statement in body:
            if isinstance(statement, _DEFINITION):
                first = min([statement.lineno, *(decorator.lineno for decorator in statement.decorator_list)])
                kind = "class" if isinstance(statement, ast.ClassDef) else "def"
                headings.append(Heading(lines[first - 1], level, f"{kind} {statement.name}"))
                after = True
                if isinstance(statement, ast.ClassDef):
                    visit(statement.body, level + 1, False)
            else:
                if after:
                    start = lines[statement.lineno - 1]
                    if start > headings[-1].start:
                        title = text[start : lines[statement.lineno]].strip().rstrip(":")
                        headings.append(Heading(start, level, title[:_LONGEST_TITLE]))
                    after = False
                if isinstance(statement, _COMPOUND):
                    for part in _bodies(statement):
                        after = visit(part, level, after)
        return after

    try:
        visit(tree.body, 1, False)
    except RecursionError:
        return scan_lines(text, LINES["py"])
    return headings


def _bodies(statement: ast.If | ast.Try | ast.With) -> Iterator[Sequence[ast.stmt]]:
    yield statement.body
    if isinstance(statement, ast.Try):
        yield from (handler.body for handler in statement.handlers)
        yield statement.orelse
        yield statement.finalbody
    elif isinstance(statement, ast.If):
        yield statement.orelse
