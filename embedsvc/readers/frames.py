"""What passes between the process that has files read (:mod:`.sandbox`) and the one that reads them (:mod:`.worker`).

A message is a JSON object and bytes, each behind its length. A source's data and a document's text go as bytes, a long
text in parts, so that the worker never has it twice. What the worker sends is not trusted: it may be in the hands of
the file that it read. So nothing is unpickled, and a Document is built anew, after a look at all that it consists of.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

from embedsvc import errors
from embedsvc.errors import ReadError
from embedsvc.readers.items import FieldChoice, Rejected
from embedsvc.records import Document, Heading, Source, document_id, without_surrogates

_HEAD = struct.Struct(">IQ")
_LARGEST_JSON = 1 << 30
_PART = 1 << 20
"""Characters of a text that are sent at once."""
_LONGEST_MESSAGE = 100_000
_BEHIND_URI = ("#", "!", "/", "?")
"""What may follow a file's uri in that of a document out of it."""
_ERRORS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ReadError)}

About = dict[str, Any]


class Malformed(Exception):
    """The other end sent what it never should."""


def pack(about: About, body: bytes = b"") -> bytes:
    """A message."""
    return _head(about, len(body)) + body


def _head(about: About, size: int) -> bytes:
    # Not as ASCII: two lone surrogates side by side would come back as one character.
    text = json.dumps(about, ensure_ascii=False).encode("utf-8", "surrogatepass") if about else b""
    return _HEAD.pack(len(text), size) + text


def receive(read: Callable[[int], bytes]) -> tuple[About, bytes]:
    """The next message; ``read(n)`` gives exactly n bytes. An empty object is a part of a text."""
    length, size = _HEAD.unpack(read(_HEAD.size))
    if length > _LARGEST_JSON:
        raise Malformed(f"a message of {length} bytes")
    try:
        # NaN is no JSON: the store could not read it.
        text = read(length).decode("utf-8", "surrogatepass")
        about = json.loads(text, parse_constant=lambda _: None) if length else {}
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no JSON: {error}") from None
    return _typed(about, dict), read(size)


# -- a request ------------------------------------------------------------------------------------------------------


def request(source: Source, fields: FieldChoice) -> tuple[bytes, bytes]:
    """What asks for ``source`` to be read: the beginning of the message, and its data, which is not copied."""
    choice = {"text": fields.text, "title": fields.title, "id": fields.id, "metadata": fields.metadata}
    return _head({"uri": source.uri, "name": source.name, "fields": choice}, len(source.data)), source.data


def requested(about: About, data: bytes) -> tuple[Source, FieldChoice]:
    fields = about["fields"]
    metadata = fields["metadata"]
    choice = FieldChoice(
        tuple(fields["text"]), fields["title"], fields["id"], None if metadata is None else tuple(metadata)
    )
    return Source(about["uri"], about["name"], data), choice


# -- items ----------------------------------------------------------------------------------------------------------


def item_messages(item: Document | Rejected, share: float) -> Iterator[bytes]:
    """The messages that carry ``item``, with which that ``share`` of the source is read."""
    if isinstance(item, Rejected):
        about = {"kind": "rejected", "uri": item.uri, "placed": item.placed, "share": share}
        yield pack(about | error_about(item.error))
        return
    text = item.text
    starts = range(0, len(text), _PART) or range(1)
    about = {
        "kind": "document",
        "id": item.id,
        "uri": item.uri,
        "title": item.title,
        "hash": item.hash,
        "page_starts": item.page_starts,
        "headings": [(heading.start, heading.level, heading.title) for heading in item.headings],
        "metadata": item.metadata,
        "notes": item.notes,
        "parts": len(starts),
        "share": share,
    }
    for start in starts:
        yield pack(about, text[start : start + _PART].encode("utf-8", "surrogatepass"))
        about = {}


def error_about(error: ReadError) -> About:
    # Readers have subclasses of their own, of which the other side does not know.
    name = next(kind.__name__ for kind in type(error).__mro__ if _ERRORS.get(kind.__name__) is kind)
    return {"class": name, "message": str(error)}


def error_from(about: About) -> ReadError:
    """The error that ``about`` tells of, of a class of our own tree."""
    kind = _ERRORS.get(_text(about.get("class")), ReadError)
    return kind(_text(about.get("message"))[:_LONGEST_MESSAGE])


def rejected_from(about: About, source: Source) -> Rejected:
    return Rejected(_own(_text(about.get("uri")), source), error_from(about), _typed(about.get("placed"), bool))


def share_from(about: About) -> float:
    """What share of the source is read with the item that ``about`` tells of."""
    share = _typed(about.get("share"), float)
    if not 0 <= share <= 1:
        raise Malformed("no share of the source")
    return float(share)


def document_from(about: About, text: str, source: Source) -> Document:
    """The Document of ``source`` that ``about`` and ``text`` describe.

    Raises:
        Malformed: it is none, or one that ``source`` has no say over.
    """
    uri = _own(_storable(about.get("uri")), source)
    if about.get("id") != document_id(uri):
        raise Malformed("a document's id that is not of its uri")
    return Document(
        id=document_id(uri),
        uri=uri,
        text=text,
        title=_storable(about.get("title")),
        hash=_storable(about.get("hash")),
        page_starts=tuple(_offset(start, text) for start in _typed(about.get("page_starts"), list)),
        headings=tuple(_heading(heading, text) for heading in _typed(about.get("headings"), list)),
        metadata=_metadata(about.get("metadata")),
        notes=tuple(_text(note)[:_LONGEST_MESSAGE] for note in _typed(about.get("notes"), list)),
        source=source.uri,
    )


def part_of_text(body: bytes) -> str:
    try:
        return body.decode("utf-8")  # no lone surrogate: the store cannot carry it
    except UnicodeDecodeError as error:
        raise Malformed(f"a text that is not UTF-8: {error}") from None


def _own(uri: str, source: Source) -> str:
    """``uri``, which must be that of ``source`` or lie within: no file speaks for another."""
    for base in {source.uri, without_surrogates(source.uri)}:
        if uri == base or uri.startswith(tuple(base + mark for mark in _BEHIND_URI)):
            return uri
    raise Malformed("the uri of another input")


def _heading(value: object, text: str) -> Heading:
    parts = _typed(value, list)
    if len(parts) != 3:
        raise Malformed("a heading without its three parts")
    start, level, title = parts
    if type(level) is not int:
        raise Malformed("a heading's level that is no number")
    return Heading(_offset(start, text), level, _storable(title))


def _metadata(value: object) -> About:
    metadata: About = _typed(value, dict)
    if metadata:
        _storable(json.dumps(metadata, ensure_ascii=False))
    return metadata


def _offset(value: object, text: str) -> int:
    if type(value) is not int or not 0 <= value <= len(text):
        raise Malformed("a place outside the text")
    return value


def _storable(value: object) -> str:
    text = _text(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Malformed("a lone surrogate, which the store cannot carry") from None
    return text


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Malformed(f"{type(value).__name__} in the place of a text")
    return value


def _typed(value: object, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise Malformed(f"{type(value).__name__} in the place of {kind.__name__}")
    return value
