"""Parquet, Arrow and Feather: one Document per row, read a batch of rows at a time."""

from __future__ import annotations

import datetime
import decimal
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from embedsvc.errors import DamagedFile, FileTooLarge, LockedFile, UnsupportedFormat
from embedsvc.readers.delimited import check_columns, unique_names
from embedsvc.readers.items import FieldChoice, Means, Rejected
from embedsvc.readers.rows import Record, documents
from embedsvc.records import Document, Source

_BATCH_ROWS = 1_000
_MOST_BATCH_BYTES = 1_000_000_000
_ROWS_PER_BYTE = 100
"""Of a file with more rows per byte, run lengths say them, not data: a bomb. Real ones need a byte for a few rows."""
_WITHOUT_VALUES = re.compile(r"\b(month|day_time)_interval\b")
"""Types of Arrow that Python has no values for, by their names, also within others."""
_INDEX_OF_PANDAS = re.compile(r"__index_level_\d+__\Z")


def read_columnar(source: Source, fields: FieldChoice, means: Means) -> Iterator[Document | Rejected]:
    """A Document per row; which column is what: as for CSV. Columns of binary values or intervals are left out, with a
    note.

    Raises:
        MissingField: a chosen column is not there.
        LockedFile: Parquet with an encrypted footer or encrypted columns.
        DamagedFile: it cannot be read.
        FileTooLarge: its rows unpack to more than can be held.
    """
    import pyarrow as pa

    try:
        yield from documents(source, _records(source, fields, means), fields, whole_record=True, unit="row")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # ArrowIOError is OSError
        if source.data.startswith(b"PARE") or "crypt" in str(error).lower():
            raise LockedFile(f"{source.uri}: it is encrypted. Save a copy without encryption.") from error
        why = " ".join(str(error).split())[:300]
        raise DamagedFile(f"{source.uri}: it cannot be read ({why}). Write it anew, or get it again.") from error


def _records(source: Source, fields: FieldChoice, means: Means) -> Iterator[tuple[int, Record, tuple[str, ...]]]:
    schema, batches = _open(source)
    names = unique_names(schema.names)
    binary = [index for index, field in enumerate(schema) if _is_binary(field.type)]
    intervals = [index for index, field in enumerate(schema) if _WITHOUT_VALUES.search(str(field.type))]
    hidden = {*binary, *intervals, *(index for index, name in enumerate(names) if _INDEX_OF_PANDAS.match(name))}
    kept = [index for index in range(len(names)) if index not in hidden]
    check_columns(source, [names[index] for index in kept], fields)
    notes = tuple(
        f"{what} column(s) left out: {', '.join(names[index] for index in dropped)}"
        for what, dropped in (("binary", binary), ("interval", intervals))
        if dropped
    )
    number = 0
    for batch, start, end in batches:
        _check_rows(source, number + batch.num_rows)
        if batch.nbytes > _MOST_BATCH_BYTES:
            raise _too_large(source)
        if batch.num_columns != len(names):
            raise DamagedFile(f"{source.uri}: some of its columns are missing from its rows. Get it again.")
        columns = [_values(batch.column(index)) for index in kept]
        for row in range(batch.num_rows):
            number += 1
            means.reached(start + (end - start) * (row + 1) / batch.num_rows)
            lost: set[str] = set()
            record = {names[index]: _plain(column[row], lost) for index, column in zip(kept, columns, strict=True)}
            yield number, record, (*notes, *(f"{what} became null" for what in sorted(lost)))


def _open(source: Source) -> tuple[Any, Iterator[tuple[Any, float, float]]]:
    """Schema and batches of rows, each with the shares of the file that are read before it, and with it. What it is, is
    told by its first bytes: the suffixes are used for one another."""
    import pyarrow as pa

    buffer = pa.py_buffer(source.data)
    if source.data.startswith((b"PAR1", b"PARE")):
        import pyarrow.parquet as pq

        # Pages are checked against what the header says of them; without that, nonsense may come out as data.
        file = pq.ParquetFile(pa.BufferReader(buffer), page_checksum_verification=True)
        _check_rows(source, file.metadata.num_rows)
        return file.schema_arrow, _counted(file.iter_batches(batch_size=_BATCH_ROWS), file.metadata.num_rows)
    if source.data.startswith(b"FEA1"):
        raise UnsupportedFormat(f"{source.uri}: it is Feather of version 1. Write it anew as version 2, or as Parquet.")
    if source.data.startswith(b"ARROW1"):
        reader = pa.ipc.open_file(pa.BufferReader(buffer))
        count = reader.num_record_batches
        stored: Iterator[tuple[Any, float, float]]
        stored = ((reader.get_batch(index), index / count, (index + 1) / count) for index in range(count))
    else:
        file = pa.BufferReader(buffer)
        reader = pa.ipc.open_stream(file)
        stored = _placed(reader, file, len(source.data))
    return reader.schema, (part for batch, start, end in stored for part in _parts(source, batch, start, end))


def _counted(batches: Iterator[Any], rows: int) -> Iterator[tuple[Any, float, float]]:
    """Of a file that says how many ``rows`` it has."""
    before = 0
    for batch in batches:
        after = before + batch.num_rows
        yield batch, before / max(1, rows), after / max(1, rows)
        before = after


def _placed(batches: Iterator[Any], file: Any, size: int) -> Iterator[tuple[Any, float, float]]:
    """Of a stream of ``size`` bytes, which does not say how many it has: by where in the ``file`` it is."""
    before = 0.0
    for batch in batches:
        after = file.tell() / size
        yield batch, before, after
        before = after


def _check_rows(source: Source, rows: int) -> None:
    if rows > 1_000 + _ROWS_PER_BYTE * len(source.data):
        raise _too_large(source)


def _too_large(source: Source) -> FileTooLarge:
    return FileTooLarge(f"{source.uri}: its rows unpack to far more than the file has. Write its text to JSONL or CSV.")


def _parts(source: Source, batch: Any, start: float, end: float) -> Iterator[tuple[Any, float, float]]:
    _check_rows(source, batch.num_rows)
    batch.validate(full=True)  # offsets of a hostile file may point anywhere
    parts = (batch.slice(first, _BATCH_ROWS) for first in range(0, batch.num_rows, _BATCH_ROWS))
    return (
        (part, start + (end - start) * a, start + (end - start) * b) for part, a, b in _counted(parts, batch.num_rows)
    )


def _is_binary(type: Any) -> bool:
    import pyarrow as pa

    is_binary = pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view
    return any(check(type) for check in is_binary)


def _values(column: Any) -> Sequence[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        # Python's datetime has microseconds.
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    try:
        values: Sequence[Any] = column.to_pylist()
    except OverflowError:
        return [_value(scalar) for scalar in column]
    return values


class _OutOfRange:
    """In the place of a time that Python has no value for: before the year 1, say, or after 9999."""


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except OverflowError:
        return _OutOfRange()


def _plain(value: Any, lost: set[str]) -> Any:
    """``value`` as JSON has it; what of it was dropped is put into ``lost``."""
    if isinstance(value, _OutOfRange):
        lost.add("times out of range")
        return None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return float(value) if value.is_finite() else None
    if isinstance(value, dict):
        return {str(key): _plain(item, lost) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, lost) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        lost.add("binary values within others")
        return None
    return str(value)
