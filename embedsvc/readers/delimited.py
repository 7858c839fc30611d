"""CSV and TSV: one Document per row, the first row names the columns."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from embedsvc.errors import MissingField
from embedsvc.readers.decoding import decode
from embedsvc.readers.items import FieldChoice, Means, Rejected
from embedsvc.readers.rows import Record, documents
from embedsvc.records import Document, Source


class _Rows(Protocol):
    """What :func:`csv.reader` returns."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...


_DELIMITERS = ",;\t|"
_SAMPLE_ROWS = 100
_SAMPLE = 262_144
_LARGEST_CELL = 2**31 - 1
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})\Z", re.ASCII)
"""Longer ones are identifiers, and no 64-bit integer."""
_FLOAT = re.compile(r"-?(?:0|[1-9]\d{0,17})\.\d{1,17}(?:[eE][+-]?\d{1,2})?\Z", re.ASCII)


def read_delimited(source: Source, fields: FieldChoice, means: Means) -> Iterator[Document | Rejected]:
    """A Document per row that is not blank.

    Without a text column, chosen or known by name, the text is every column as a "name: value" line. A row of another
    width than the header is kept, with a note. Cells that are numbers become numbers; "007" stays text.

    Raises:
        MissingField: a chosen column is not in the header.
    """
    decoded = decode(source.data, source.uri)
    # The limit is the process's. The default of 128 kB refuses long texts; the file itself is bounded already.
    csv.field_size_limit(_LARGEST_CELL)
    file = io.StringIO(decoded.text, newline="")
    reader = csv.reader(file, delimiter=delimiter(decoded.text))
    header = next((row for row in reader if any(row)), None)
    if header is None:
        return
    names = unique_names(header)
    check_columns(source, names, fields)
    literal = {*fields.text, fields.title, fields.id}
    records = _records(reader, names, literal, decoded.notes)
    yield from documents(source, _followed(records, file, len(decoded.text), means), fields, whole_record=True)


def delimiter(text: str) -> str:
    """The delimiter with which most rows of the beginning of ``text`` have as many cells as its first row."""
    best, best_score = ",", (0.0, 0)
    for candidate in _DELIMITERS:
        reader = csv.reader(io.StringIO(text[:_SAMPLE], newline=""), delimiter=candidate)
        widths = [len(row) for row in itertools.islice(reader, _SAMPLE_ROWS) if row]
        if widths and widths[0] > 1:
            usual, count = Counter(widths).most_common(1)[0]
            score = (count / len(widths) if usual > 1 else 0.0, widths[0])
            if score > best_score:
                best, best_score = candidate, score
    return best


def unique_names(header: Sequence[str]) -> list[str]:
    """The column names, made unique: ``column_3`` for a nameless one, ``year_2`` for a second ``year``."""
    names: dict[str, None] = {}
    copies: Counter[str] = Counter()
    for number, cell in enumerate(header, start=1):
        name = base = cell.strip() or f"column_{number}"
        while name in names:
            copies[base] += 1
            name = f"{base}_{copies[base] + 1}"
        names[name] = None
    return list(names)


def check_columns(source: Source, names: Sequence[str], fields: FieldChoice) -> None:
    """Raises MissingField where a chosen column is none of ``names``."""
    chosen = (*fields.text, *filter(None, (fields.title, fields.id)), *(fields.metadata or ()))
    if absent := [name for name in chosen if name not in names]:
        raise MissingField(
            f"{source.uri}: it has no column {', '.join(map(repr, absent))}; its columns are {', '.join(names[:50])}. "
            "Choose among these."
        )


def _records(
    rows: _Rows, names: Sequence[str], literal: Collection[str | None], notes: tuple[str, ...]
) -> Iterator[tuple[int, Record, tuple[str, ...]]]:
    for row in rows:
        if not any(row):
            continue
        wide = [*names, *(f"column_{number}" for number in range(len(names) + 1, len(row) + 1))]
        record = {name: cell if name in literal else _typed(cell) for name, cell in zip(wide, row, strict=False)}
        ragged = (f"it has {len(row)} cells where the header has {len(names)}",) if len(row) != len(names) else ()
        yield rows.line_num, record, (*notes, *ragged)


def _followed(
    records: Iterator[tuple[int, Record, tuple[str, ...]]], file: io.StringIO, size: int, means: Means
) -> Iterator[tuple[int, Record, tuple[str, ...]]]:
    """``records``, with a word to ``means`` of how much of the ``file`` they take."""
    for record in records:
        means.reached(file.tell() / size)
        yield record


def _typed(cell: str) -> str | int | float | None:
    """``cell`` as the number it is written as; None for an empty one."""
    stripped = cell.strip()
    if _INTEGER.match(stripped):
        return int(stripped)
    if _FLOAT.match(stripped):
        return float(stripped)
    return cell if stripped else None
