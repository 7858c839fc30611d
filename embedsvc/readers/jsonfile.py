"""JSON: a Document per record where the file is a list of records, else one Document of the file's own text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from embedsvc.errors import DamagedFile
from embedsvc.readers.decoding import decode
from embedsvc.readers.items import FieldChoice, Means, Rejected
from embedsvc.readers.jsonl import kind, lines, loads
from embedsvc.readers.rows import TEXT_NAMES, Record, documents, first_field
from embedsvc.records import Document, Source, make_document

_LOOKED_AT = 100
"""Records that are looked into for a field with text."""


def read_jsonfile(source: Source, fields: FieldChoice, means: Means) -> Iterator[Document | Rejected]:
    """An array of objects: a Document per object. An object with one such array, of records that have text: likewise.

    JSON Lines under this suffix are read as such. Anything else is one Document, exactly the file's text, with a note
    where it is no JSON.
    """
    decoded = decode(source.data, source.uri)
    notes = decoded.notes
    try:
        value = loads(decoded.text)
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
        if _is_lines(decoded.text):
            notes = (*notes, "it holds JSON Lines, and is read as such")
            yield from documents(source, lines(decoded.text, notes, source, means), fields)
            return
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        value, notes = None, (*notes, f"it is not JSON ({why}): its text is kept as it is")
    records, left_out = _records(value, fields)
    if records is None:
        yield make_document(source.uri, decoded.text, title=source.name, hash=source.hash, notes=notes)
        return
    if left_out:
        notes = (*notes, f"only its list of records is read, without {', '.join(left_out[:20])}")
    yield from documents(source, _numbered(source, records, notes, means), fields, unit="record")


def _is_lines(text: str) -> bool:
    first, _, rest = text.lstrip().partition("\n")
    try:
        return bool(rest.strip()) and isinstance(loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _records(value: Any, fields: FieldChoice) -> tuple[list[Any] | None, Sequence[str]]:
    """The list of records that ``value`` is or holds, or None; and the names of what is beside it."""
    if isinstance(value, list):
        return (value if _is_list_of_objects(value) else None), ()
    if isinstance(value, dict):
        lists = [name for name, member in value.items() if _is_list_of_objects(member)]
        # A list in a settings file ("contributors") is not what the file is about: its objects have no text.
        if len(lists) == 1 and _has_text(value[lists[0]], fields):
            return value[lists[0]], [name for name in value if name != lists[0]]
    return None, ()


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _has_text(records: list[Any], fields: FieldChoice) -> bool:
    objects = [record for record in records[:_LOOKED_AT] if isinstance(record, dict)]
    if fields.text:
        return any(name in record for record in objects for name in fields.text)
    named = ((record, first_field(record, TEXT_NAMES)) for record in objects)
    return any(name is not None and isinstance(record[name], str) for record, name in named)


def _numbered(
    source: Source, records: list[Any], notes: tuple[str, ...], means: Means
) -> Iterator[tuple[int, Record, tuple[str, ...]] | Rejected]:
    for number, record in enumerate(records, start=1):
        means.reached(number / len(records))
        if isinstance(record, dict):
            yield number, record, notes
        else:
            why = f"{source.uri}, record {number}: it is a JSON {kind(record)}, not an object. Correct that record."
            yield Rejected(f"{source.uri}#record-{number}", DamagedFile(why), placed=True)
