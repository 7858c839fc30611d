"""What mails of all formats have in common, and the documents that come of one: itself, then its attachments."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from embedsvc.errors import ReadError, UnsupportedFormat
from embedsvc.readers.drafts import Draft
from embedsvc.readers.html import read_html
from embedsvc.readers.items import FieldChoice, Means, Rejected
from embedsvc.records import Document, Source

MOST_DEPTH = 4
"""Mails in mails (and in archives) are opened so deep. What lies deeper was put there to be lost in."""
_INTO = "!/"
"""Between the uri of a mail and the name of what is attached to it. Names are percent-encoded, so these count the
depth."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """``name`` may be empty or occur twice. ``message``: a mail that is no file of its own here. ``error``: why it
    cannot be taken out of the mail, if it cannot."""

    name: str
    data: bytes = field(default=b"", repr=False)
    message: Message | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a mail's body."""

    text: str
    is_html: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A mail as read; ``body`` in the order of its pieces."""

    subject: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    body: Sequence[Piece] = ()
    attachments: Sequence[Attachment] = ()
    notes: tuple[str, ...] = ()


def documents(source: Source, message: Message, fields: FieldChoice, means: Means) -> Iterator[Document | Rejected]:
    """The mail under its subject, then each attachment, read as a file of its name would be.

    An attachment that gives no document is an item of its own.
    """
    pieces = 1 + len(message.attachments)
    means.reached(1 / pieces)
    yield _mail(source, message)
    depth = source.uri.count(_INTO)
    taken: dict[str, int] = {}
    for number, attachment in enumerate(message.attachments, start=1):
        start, end = number / pieces, (number + 1) / pieces
        means.reached(end)
        name = _unique(_file_name(attachment.name) or f"attachment-{number}", taken)
        uri = f"{source.uri}{_INTO}{quote(name, safe='')}"
        if attachment.error:
            yield Rejected(uri, ReadError(f"{uri}: {attachment.error}"))
        elif depth >= MOST_DEPTH:
            reason = f"{uri}: mails within mails are read {MOST_DEPTH} deep. Save this one as a file of its own."
            yield Rejected(uri, UnsupportedFormat(reason))
        else:
            part = means.of_part(start, end)
            yield from _attached(Source(uri, name, attachment.data), attachment.message, fields, part)


def _mail(source: Source, message: Message) -> Document:
    draft = Draft(source)
    notes = message.notes
    if subject := " ".join(message.subject.split()):
        draft.add(subject, level=1)
    for piece in message.body:
        if not piece.is_html:
            draft.add(piece.text)
        else:
            (page,) = read_html(Source(source.uri, source.name, piece.text.encode("utf-8", "replace")), FieldChoice())
            draft.extend(page.text, page.headings, level=1 if subject else 0)
            notes += page.notes
    metadata = {key: value for key, value in message.metadata.items() if value}
    # One with attachments has not the hash of its file: a file whose hash is known is not opened again, and its
    # attachments would count as vanished.
    hash = source.hash if source.data and not message.attachments else None
    return draft.document(title=subject, metadata=metadata, notes=notes, hash=hash)


def _attached(
    source: Source, message: Message | None, fields: FieldChoice, means: Means
) -> Iterator[Document | Rejected]:
    from embedsvc.readers.formats import read  # the table of formats knows this module

    try:
        yield from read(source, fields, means) if message is None else documents(source, message, fields, means)
    except ReadError as error:
        yield Rejected(source.uri, error)


def _file_name(name: str) -> str:
    """``name`` without folders, on one line."""
    return " ".join(name.replace("\\", "/").replace("\x00", "").rstrip("/").rpartition("/")[2].split())


def _unique(name: str, taken: dict[str, int]) -> str:
    """``name``, with a number where it is in ``taken``, which counts how often it was."""
    stem, dot, suffix = name.rpartition(".")
    unique, number = name, taken.get(name, 1)
    while unique in taken:
        number += 1
        unique = f"{stem}-{number}.{suffix}" if dot and stem else f"{name}-{number}"
    taken[name] = number
    taken.setdefault(unique, 1)
    return unique


def suffix_of(content_type: str) -> str:
    """The usual suffix of a MIME type, for parts without a name."""
    return (
        {"message/rfc822": ".eml", "text/plain": ".txt"}.get(content_type)
        or mimetypes.guess_extension(content_type)
        or ""
    )
