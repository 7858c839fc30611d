"""Documents of frameworks, which have no report of what became of each: all that is not taken is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embedsvc.api.options import NewDocument
from embedsvc.errors import UsageError
from embedsvc.outcomes import Report

_MOST = 4096
"""Characters of a uri or title."""


def new_document(id: str, text: str, metadata: Mapping[str, Any]) -> NewDocument:
    """A document to be added. What loaders call ``source`` and ``title`` is what it is cited by."""
    document = NewDocument(id=id, text=text, metadata=metadata)
    if uri := _text_of(metadata, "source"):
        document["uri"] = uri
    if title := _text_of(metadata, "title"):
        document["title"] = title
    return document


def _text_of(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) and 0 < len(value) <= _MOST else None


def check_new(documents: Sequence[NewDocument]) -> None:
    """Raises UsageError where one of them has no text, or the id of another: before anything is put in."""
    places: dict[str, int] = {}
    for place, document in enumerate(documents):
        if not isinstance(document["text"], str) or not document["text"].strip():
            raise UsageError(f"Document {place} (id {document['id']!r}) has no text, so none was put in. Leave it out.")
        first = places.setdefault(document["id"], place)
        if first != place:
            raise UsageError(
                f"Documents {first} and {place} both have the id {document['id']!r}, so none was put in. "
                "Give each its own."
            )


def check_report(report: Report) -> None:
    """Raises UsageError where something was not taken."""
    if report.failed:
        first = report.failed[0]
        raise UsageError(
            f"{len(report.failed)} of {len(report.outcomes)} documents were not taken, the others were. "
            f"{first.uri}: {first.reason or first.status}."
        )
