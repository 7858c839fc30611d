"""Records (JSONL lines, CSV rows) to Documents: which field is what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from embedsvc.errors import DamagedFile, MissingField
from embedsvc.readers.items import FieldChoice, Rejected
from embedsvc.records import Document, Source, make_document

TEXT_NAMES = ("text", "content", "body", "passage", "abstract", "description")
_TITLE_NAMES = ("title", "name", "headline")
_ID_NAMES = ("_id", "id", "doc_id", "docid", "uuid")

Record = Mapping[str, Any]


def documents(
    source: Source,
    records: Iterator[tuple[int, Record, tuple[str, ...]] | Rejected],
    fields: FieldChoice,
    *,
    whole_record: bool = False,
    unit: str = "line",
) -> Iterator[Document | Rejected]:
    """A Document per record (its line in the file, its fields, notes on it), its uri ``{file uri}#{record id}``.

    A record that gives none comes out as Rejected: without the text field, or with the id of an earlier one.
    ``whole_record``: where no text field is chosen or known by name, the text is all fields as "name: value" lines.
    ``unit``: what messages call the place of a record, where it is no line of the file.
    """
    seen: set[str] = set()
    number = 0
    for item in records:
        number += 1
        if isinstance(item, Rejected):
            yield item
            continue
        line, record, notes = item
        id_field = fields.id if fields.id is not None else first_field(record, _ID_NAMES)
        identity = str(number) if id_field is None or record.get(id_field) is None else _text(record[id_field])
        uri = f"{source.uri}#{quote(identity, safe='', errors='replace')}"
        if identity in seen:
            yield Rejected(
                f"{source.uri}#{unit}-{line}",
                DamagedFile(
                    f"{source.uri}, {unit} {line}: its id {identity!r} is that of an earlier record. Make ids unique, "
                    "or choose another field as the id."
                ),
            )
            continue
        seen.add(identity)
        try:
            yield _document(uri, record, notes, fields, id_field, whole_record, where=f"{source.uri}, {unit} {line}")
        except MissingField as error:
            yield Rejected(uri, error)
        except RecursionError:
            yield Rejected(
                uri, DamagedFile(f"{source.uri}, {unit} {line}: its values are nested too deep. Flatten them.")
            )


def _document(
    uri: str,
    record: Record,
    notes: tuple[str, ...],
    fields: FieldChoice,
    id_field: str | None,
    whole_record: bool,
    *,
    where: str,
) -> Document:
    default = first_field(record, TEXT_NAMES)
    text_fields = fields.text or ((default,) if default is not None else ())
    present = [name for name in text_fields if record.get(name) is not None]
    if present:
        text = "\n".join(_text(record[name]) for name in present)
    elif whole_record and not text_fields:
        text = "\n".join(f"{name}: {_text(value)}" for name, value in record.items() if value is not None)
    else:
        raise _missing(where, record, text_fields)
    title_field = fields.title if fields.title is not None else first_field(record, _TITLE_NAMES)
    if title_field in text_fields and fields.title is None:
        title_field = None
    title = record.get(title_field) if title_field is not None else None
    used = {*text_fields, title_field, id_field}
    names = fields.metadata if fields.metadata is not None else [name for name in record if name not in used]
    return make_document(
        uri,
        text,
        title="" if title is None else " ".join(_text(title).split()),
        metadata={name: record[name] for name in names if name in record},
        notes=notes,
    )


def _missing(where: str, record: Record, wanted: tuple[str, ...]) -> MissingField:
    has = ", ".join(list(record)[:20]) or "none"
    named = f"its text field {', '.join(wanted)} is absent or null" if wanted else "it has no field known to hold text"
    return MissingField(f"{where}: {named}; its fields are: {has}. Choose one of them as the text field.")


def first_field(record: Record, names: tuple[str, ...]) -> str | None:
    """The field called like the first of ``names`` that is there, in any case."""
    by_lower = {name.lower(): name for name in reversed(list(record))}
    return next((by_lower[name] for name in names if name in by_lower), None)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_text(item) for item in value)
    return json.dumps(value, ensure_ascii=False)
