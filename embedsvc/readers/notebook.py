"""Jupyter notebooks: Markdown and code cells in order, what a cell printed after it. Nothing is run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from embedsvc.errors import DamagedFile
from embedsvc.readers.decoding import decode
from embedsvc.readers.items import FieldChoice
from embedsvc.readers.jsonl import loads
from embedsvc.readers.markdown import headings_of
from embedsvc.records import Document, Heading, Source, make_document

_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
"""Colours in what was printed."""


def read_notebook(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: the first heading of its Markdown cells, else the file name.

    Raises:
        DamagedFile: it is no notebook.
    """
    decoded = decode(source.data, source.uri)
    try:
        notebook = loads(decoded.text)
    except (ValueError, RecursionError) as error:
        raise _damaged(source, f"it is not JSON ({error})") from error
    cells = _cells(notebook)
    if cells is None:
        raise _damaged(source, "it has no list of cells")
    parts: list[str] = []
    headings: list[Heading] = []
    length = 0
    for cell in cells:
        for text, is_markdown in _texts(cell):
            if not text.strip():
                continue
            text = text.strip("\n")
            if is_markdown:
                headings += (
                    Heading(length + heading.start, heading.level, heading.title) for heading in headings_of(text)
                )
            parts.append(text)
            length += len(text) + 2
    language = _language(notebook)
    yield make_document(
        source.uri,
        "\n\n".join(parts),
        title=headings[0].title if headings else source.name,
        hash=source.hash,
        headings=tuple(headings),
        metadata={"language": language} if language else {},
        notes=decoded.notes,
    )


def _damaged(source: Source, why: str) -> DamagedFile:
    return DamagedFile(f"{source.uri}: this notebook is damaged: {why}. Open it in Jupyter and save it anew.")


def _cells(notebook: Any) -> list[Any] | None:
    """Of format 4, or of format 3, whose cells are in worksheets."""
    if not isinstance(notebook, dict):
        return None
    if isinstance(cells := notebook.get("cells"), list):
        return cells
    if isinstance(sheets := notebook.get("worksheets"), list):
        lists = (sheet.get("cells") for sheet in sheets if isinstance(sheet, dict))
        return [cell for cells in lists if isinstance(cells, list) for cell in cells]
    return None


def _texts(cell: Any) -> Iterator[tuple[str, bool]]:
    """The cell's own text and that of its outputs, each with whether it is Markdown."""
    if not isinstance(cell, dict):
        return
    kind = cell.get("cell_type")
    text = _joined(cell.get("source", cell.get("input")))
    if kind == "heading":  # of format 3
        level = cell.get("level")
        yield f"{'#' * (level if isinstance(level, int) and 1 <= level <= 6 else 1)} {' '.join(text.split())}", True
        return
    yield text, kind == "markdown"
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        if isinstance(output, dict):
            yield _TERMINAL.sub("", _output(output)), False


def _output(output: Mapping[str, Any]) -> str:
    """What it says in plain text; pictures have a line such as ``<Figure size 640x480>`` for that."""
    if output.get("output_type") in ("error", "pyerr"):
        return f"{_joined(output.get('ename'))}: {_joined(output.get('evalue'))}"
    data = output.get("data")
    return _joined(data.get("text/plain")) if isinstance(data, dict) else _joined(output.get("text"))


def _joined(value: Any) -> str:
    """The format has texts as a string or as a list of lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _language(notebook: Mapping[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for part, key in (("language_info", "name"), ("kernelspec", "language")):
        section = metadata.get(part) if isinstance(metadata, dict) else None
        if isinstance(section, dict) and isinstance(section.get(key), str):
            return str(section[key])
    return ""
