"""EML: a mail as it is sent (RFC 5322 and MIME), by the standard library's parser."""

from __future__ import annotations

import codecs
import email
import re
from collections.abc import Iterator
from datetime import datetime
from email import policy
from email.errors import MessageError
from email.header import decode_header
from email.message import Message as Part
from email.utils import getaddresses, parsedate_to_datetime
from typing import Any

from embedsvc.errors import DamagedFile, ReadError
from embedsvc.readers.decoding import decode
from embedsvc.readers.items import FieldChoice, Means, Rejected
from embedsvc.readers.messages import Attachment, Message, Piece, documents, suffix_of
from embedsvc.records import Document, Source

_HEADER_LINE = re.compile(rb"\s*(?:>?From [^\n]*\n)?[!-9;-~]+[ \t]*:")
_SEVEN_BITS = re.compile(r"iso-?2022|hz|utf-?7", re.IGNORECASE)
"""Encodings whose bytes look like ASCII."""
_LONGEST_HEADER = 100_000
"""A longer one is kept as it is written: the parsers' time grows with its square."""
_SEALED = frozenset({"multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"})


def read_mail(source: Source, fields: FieldChoice, means: Means) -> Iterator[Document | Rejected]:
    """The mail, its subject as title and heading, then its attachments. Of a text in several forms the plain
    one is read.

    Raises:
        DamagedFile: it does not begin with a header, or its parts are nested hundreds deep.
    """
    if not _HEADER_LINE.match(source.data, 0, 2000):
        raise DamagedFile(f"{source.uri}: this is no mail (it has no header). Save it anew from the mail program.")
    try:
        message = parse(source.data, source.uri)
    except (RecursionError, MessageError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedFile(
            f"{source.uri}: this mail is damaged ({type(error).__name__}: {error}). Save it anew from the mail program."
        ) from error
    yield from documents(source, message, fields, means)


def parse(data: bytes, uri: str) -> Message:
    """The mail in ``data``."""
    part = email.message_from_bytes(data.lstrip(), policy=policy.compat32)
    body = _Body(uri)
    body.add(part)
    metadata = {
        "from": _people(part, "From"),
        "to": _people(part, "To"),
        "cc": _people(part, "Cc"),
        "date": iso_date(_header(part, "Date")),
        "message_id": _header(part, "Message-ID"),
    }
    return Message(
        subject=_header(part, "Subject"),
        metadata=metadata,
        body=body.pieces,
        attachments=body.attachments,
        notes=tuple(dict.fromkeys(body.notes)),
    )


class _Body:
    """The parts of a mail, sorted into what is shown and what is attached."""

    def __init__(self, uri: str) -> None:
        self.pieces: list[Piece] = []
        self.attachments: list[Attachment] = []
        self.notes: list[str] = []
        self._uri = uri

    def add(self, part: Part) -> None:
        kind = part.get_content_type()
        if kind in _SEALED and "signed" not in str(part.get_param("smime-type", "")):
            self.attachments.append(
                Attachment(_name(part) or "encrypted", error="it is encrypted. Save the mail without encryption.")
            )
        elif kind == "multipart/alternative" and part.is_multipart():
            self._add_alternatives(part)
        elif part.is_multipart() and part.get_content_maintype() == "multipart":
            for inner in _parts(part):
                self.add(inner)
        elif part.is_multipart():
            self._attach_mail(part, kind)
        elif kind in ("text/plain", "text/html") and not _is_attached(part):
            try:
                text = self._text(part)
            except ReadError:
                self._attach(part, kind)
            else:
                if text.strip():
                    self.pieces.append(Piece(text, is_html=kind == "text/html"))
        else:
            self._attach(part, kind)

    def _add_alternatives(self, part: Part) -> None:
        """Of several forms of one text that in plain text, else the first that there is."""
        bodies = []
        for inner in _parts(part):
            bodies.append(_Body(self._uri))
            bodies[-1].add(inner)
            self.attachments += bodies[-1].attachments
            self.notes += bodies[-1].notes
        forms = [body.pieces for body in bodies if body.pieces]
        plain = (pieces for pieces in forms if not any(piece.is_html for piece in pieces))
        self.pieces += next(plain, forms[0] if forms else [])

    def _text(self, part: Part) -> str:
        data = part.get_payload(decode=True)
        if not isinstance(data, bytes) or not data:
            return ""
        charset = _charset(part)
        if charset and _SEVEN_BITS.match(charset):
            try:
                return data.decode(charset)
            except (LookupError, UnicodeError):
                pass
        decoded = decode(data, self._uri, declared=charset)
        self.notes += decoded.notes
        return decoded.text.replace("\r\n", "\n")

    def _attach(self, part: Part, kind: str) -> None:
        data = part.get_payload(decode=True)
        if data:
            name = _name(part) or f"part-{len(self.attachments) + 1}{suffix_of(kind)}"
            self.attachments.append(Attachment(name, data if isinstance(data, bytes) else b""))

    def _attach_mail(self, part: Part, kind: str) -> None:
        """A forwarded mail, or a report of the fields of a delivery."""
        for inner in _parts(part):
            name = _name(part) or (
                f"{_header(inner, 'Subject')[:80] or 'message'}.eml" if kind == "message/rfc822" else "report.txt"
            )
            try:
                self.attachments.append(Attachment(name, inner.as_bytes(policy=policy.compat32)))
            except (MessageError, ValueError, LookupError, TypeError, AttributeError) as error:
                self.attachments.append(Attachment(name, error=f"it cannot be taken out of the mail ({error})."))


def _parts(part: Part) -> list[Part]:
    payload = part.get_payload()
    return [inner for inner in payload if isinstance(inner, Part)] if isinstance(payload, list) else []


def _is_attached(part: Part) -> bool:
    return part.get_content_disposition() == "attachment" or bool(_name(part))


def _charset(part: Part) -> str | None:
    charset = part.get_content_charset()
    try:
        return codecs.lookup(charset).name if charset else None
    except (LookupError, ValueError):
        return None


def _name(part: Part) -> str:
    try:
        return _words(part.get_filename() or "")
    except (LookupError, ValueError, TypeError):
        return ""


def _header(part: Part, name: str) -> str:
    return _words(" ".join(_raw(part, name)[:1]))


def _raw(part: Part, name: str) -> list[str]:
    """The values of a header as they are in the file; bytes beyond ASCII as lone surrogates."""
    return [value for key, value in part.raw_items() if key.lower() == name.lower()]


def _words(raw: str) -> str:
    """A header's text: its encoded words decoded, its lines joined, bytes beyond ASCII read as UTF-8 or cp1252."""
    raw = raw.replace("\r", "").replace("\n", "")
    try:
        words = decode_header(raw) if len(raw) <= _LONGEST_HEADER else [(raw, None)]
    except (ValueError, MessageError):
        words = [(raw, None)]
    pieces = (_decoded(piece.encode("utf-8", "surrogateescape") if isinstance(piece, str) else piece, charset)
              for piece, charset in words)  # fmt: skip
    return " ".join("".join(pieces).split())


def _decoded(data: bytes, charset: str | None) -> str:
    for encoding in (charset or "utf-8", "utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except (LookupError, ValueError):
            continue
    return data.decode("latin-1")


def _people(part: Part, name: str) -> list[str] | str:
    values = _raw(part, name)
    if sum(map(len, values)) > _LONGEST_HEADER:
        return _words(" ".join(values))
    people = [shown_person(_words(person), address) for person, address in getaddresses(values)]
    people = [person for person in people if person]
    if not people:
        return _words(" ".join(values))
    return people[0] if len(people) == 1 and name == "From" else people


def shown_person(name: str, address: str) -> str:
    """``Ann Example <ann@example.org>``, or the half of it that there is."""
    if name and address and name != address:
        return f"{name} <{address}>"
    return address or name


def iso_date(raw: str) -> Any:
    """A date of a header in ISO 8601; as it is where it cannot be understood."""
    try:
        moment: datetime = parsedate_to_datetime(raw)
    except (ValueError, TypeError, OverflowError, IndexError):
        return " ".join(raw.split())
    return moment.isoformat()
