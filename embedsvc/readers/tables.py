"""Rows of a sheet to lines that can be read alone: each value with the name of its column, where it has one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_LONGEST_NAME = 80
"""A longer cell is prose, not the name of a column."""
_MOST_GAPS = 8
"""Empty cells per full one, up to which a table without a header is laid out by columns."""


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    is_text: bool = True
    """Not a number, date or truth value."""


Row = Mapping[int, Cell]
"""The cells that are not empty, by column."""


def lines(rows: Iterable[tuple[int, Row]]) -> Iterator[str]:
    """``rows`` (with their numbers, none empty) as lines. Rows that follow each other without a gap are one table."""
    block: list[Row] = []
    last = 0
    for number, row in rows:
        if block and number != last + 1:
            yield from _table(block)
            block = []
        block.append(row)
        last = number
    yield from _table(block)


def _table(block: list[Row]) -> Iterator[str]:
    # Lines of a single cell above a table are its title.
    while len(block) > 1 and len(block[0]) == 1 and any(len(row) > 1 for row in block):
        yield from (cell.text for cell in block[0].values())
        block = block[1:]
    if not _has_header(block):
        yield from _plain(block)
        return
    names = {column: " ".join(cell.text.split()) for column, cell in block[0].items()}
    yield " | ".join(names[column] for column in sorted(names))
    names = {column: name.rstrip(": ") or name for column, name in names.items()}
    for row in block[1:]:
        yield " | ".join(f"{names[column]}: {_flat(row[column])}" for column in sorted(row))


def _has_header(block: list[Row]) -> bool:
    """Whether the first row names the columns: it is all short, different texts, names every column that is used,
    and what is below is of other kinds, or long enough to be a list."""
    if len(block) < 2 or len(block[0]) < 2:
        return False
    header = block[0]
    names = [cell.text.strip() for cell in header.values()]
    if len(set(names)) < len(names) or any(len(name) > _LONGEST_NAME for name in names):
        return False
    if not all(cell.is_text for cell in header.values()):
        return False
    if any(column not in header for row in block[1:] for column in row):
        return False
    return len(block) > 2 or any(not cell.is_text for row in block[1:] for cell in row.values())


def _plain(block: list[Row]) -> Iterator[str]:
    columns = sorted({column for row in block for column in row})
    full = sum(map(len, block))
    is_dense = len(columns) * len(block) <= _MOST_GAPS * full + 1000
    for row in block:
        cells = (_flat(row[c]) if c in row else "" for c in (columns if is_dense else sorted(row)))
        yield "\t".join(cells).rstrip("\t")


def _flat(cell: Cell) -> str:
    return " ".join(cell.text.split())
