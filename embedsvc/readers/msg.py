"""MSG: a mail as Outlook keeps it, an OLE container with a stream per property ([MS-OXMSG])."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from embedsvc.readers.decoding import decode
from embedsvc.readers.items import FieldChoice, Means, Rejected
from embedsvc.readers.mail import parse, shown_person
from embedsvc.readers.messages import MOST_DEPTH, Attachment, Message, Piece, documents
from embedsvc.readers.ole import opened, stream
from embedsvc.readers.rtf import text_of_rtf
from embedsvc.records import Document, Source

if TYPE_CHECKING:
    from olefile import OleFileIO

_SUBJECT, _BODY, _HTML, _RTF, _HEADERS, _MESSAGE_ID = "0037", "1000", "1013", "1009", "007D", "1035"
_SENDER_NAME, _SENDER_SMTP, _SENDER_ADDRESS = "0C1A", "5D01", "0C1F"
_NAME, _SMTP, _ADDRESS, _KIND = "3001", "39FE", "3003", 0x0C15
_LONG_NAME, _SHORT_NAME, _DATA = "3707", "3704", "3701"
_SENT, _RECEIVED, _CODE_PAGE, _BODY_PAGE = 0x0039, 0x0E06, 0x3FFD, 0x3FDE
_KINDS = {1: "to", 2: "cc", 3: "bcc"}
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)
_PAGES = {20127: "ascii", 28591: "latin-1", 65000: "utf-7", 65001: "utf-8", 50220: "iso-2022-jp", 51932: "euc-jp",
          20866: "koi8-r", 21866: "koi8-u", 51949: "euc-kr", 54936: "gb18030", 1200: "utf-16-le"}  # fmt: skip
_MOST_RTF = 100_000_000
_DICTIONARY = (
    rb"{\rtf1\ansi\mac\deff0\deftab720{\fonttbl;}{\f0\fnil \froman \fswiss \fmodern \fscript \fdecor "
    rb"MS Sans SerifSymbolArialTimes New RomanCourier{\colortbl\red0\green0\blue0"
    b"\r\n"
    rb"\par \pard\plain\f0\fs20\b\i\u\tab\tx"
)
"""What the compression of RTF takes as written before the text."""


def read_msg(source: Source, fields: FieldChoice, means: Means) -> Iterator[Document | Rejected]:
    """The mail, its subject as title and heading, then its attachments, as of an EML.

    Raises:
        DamagedFile: no such file, or cut short.
    """
    with opened(source, "Outlook message") as container:
        if stream(container, "__properties_version1.0") is None:
            raise ValueError("it has no properties")
        message = _message(container, (), source)
    yield from documents(source, message, fields, means)


def _message(container: OleFileIO, place: tuple[str, ...], source: Source) -> Message:
    """The message in the storage ``place``."""
    fixed = _fixed(container, place, 24 if place else 32)
    page = _page(fixed.get(_CODE_PAGE, 0), "cp1252")

    def text(tag: str, folder: tuple[str, ...] = ()) -> str:
        return _text(container, (*place, *folder), tag, page).strip("\x00")

    headers = parse(text(_HEADERS).encode("utf-8", "replace"), source.uri).metadata if text(_HEADERS) else {}
    folders = _folders(container, place)
    people: dict[str, list[str]] = {}
    attachments = []
    for folder in folders:
        if folder.startswith("__recip_version1.0"):
            kind = _KINDS.get(_fixed(container, (*place, folder), 8).get(_KIND, 1), "to")
            address = text(_SMTP, (folder,)) or text(_ADDRESS, (folder,))
            people.setdefault(kind, []).append(_person(text(_NAME, (folder,)), address))
        elif folder.startswith("__attach_version1.0"):
            name = text(_LONG_NAME, (folder,)) or text(_SHORT_NAME, (folder,)) or text(_NAME, (folder,))
            attachments.append(_attachment(container, (*place, folder), name, source))
    sent = fixed.get(_SENT) or fixed.get(_RECEIVED)
    body, html = text(_BODY), ""
    if not body.strip():
        html = text(_HTML) or _html(container, place, _page(fixed.get(_BODY_PAGE, 0), page), source)
    if not body.strip() and not html.strip() and (packed := stream(container, *place, f"__substg1.0_{_RTF}0102")):
        body = text_of_rtf(_unpacked(packed))
    sender = _person(text(_SENDER_NAME), text(_SENDER_SMTP) or text(_SENDER_ADDRESS))
    metadata = {
        "from": sender or headers.get("from"),
        "to": people.get("to") or headers.get("to"),
        "cc": people.get("cc") or headers.get("cc"),
        "date": _moment(sent) if sent else headers.get("date"),
        "message_id": text(_MESSAGE_ID) or headers.get("message_id"),
    }
    piece = Piece(body.replace("\r\n", "\n")) if body.strip() else Piece(html, is_html=True)
    return Message(text(_SUBJECT), metadata, [piece] if piece.text.strip() else [], attachments)


def _attachment(container: OleFileIO, place: tuple[str, ...], name: str, source: Source) -> Attachment:
    data = stream(container, *place, f"__substg1.0_{_DATA}0102")
    if data is not None:
        return Attachment(name, data)
    inner = (*place, f"__substg1.0_{_DATA}000D")
    if stream(container, *inner, "__properties_version1.0") is None:
        return Attachment(name, error="it is a link or an object without data of its own. Save it as a file.")
    if len(inner) > 2 * MOST_DEPTH:
        return Attachment(name, error=f"mails within mails are read {MOST_DEPTH} deep. Save it as a file of its own.")
    message = _message(container, inner, source)
    name = name or message.subject[:80] or "message"
    return Attachment(name if name.lower().endswith(".msg") else f"{name}.msg", message=message)


def _folders(container: OleFileIO, place: tuple[str, ...]) -> list[str]:
    depth = len(place)
    paths = container.listdir(streams=False, storages=True)
    return sorted({path[depth] for path in paths if len(path) == depth + 1 and tuple(path[:depth]) == place})


def _fixed(container: OleFileIO, place: tuple[str, ...], head: int) -> dict[int, int]:
    """The numbers and dates of a storage, by property."""
    data = stream(container, *place, "__properties_version1.0") or b""
    entries = (struct.unpack_from("<HHIQ", data, offset) for offset in range(head, len(data) - 15, 16))
    return {tag: value & 0xFFFFFFFF if kind == 3 else value for kind, tag, _, value in entries if kind in (3, 64)}


def _text(container: OleFileIO, place: tuple[str, ...], tag: str, page: str) -> str:
    wide = stream(container, *place, f"__substg1.0_{tag}001F")
    if wide is not None:
        return wide.decode("utf-16-le", "replace")
    narrow = stream(container, *place, f"__substg1.0_{tag}001E")
    return "" if narrow is None else narrow.decode(page, "replace")


def _html(container: OleFileIO, place: tuple[str, ...], page: str, source: Source) -> str:
    data = stream(container, *place, f"__substg1.0_{_HTML}0102")
    return decode(data, source.uri, declared=page).text if data else ""


def _page(number: int, otherwise: str) -> str:
    name = _PAGES.get(number, f"cp{number}")
    try:
        return codecs.lookup(name).name
    except LookupError:
        return otherwise


def _person(name: str, address: str) -> str:
    # Within one organisation an address is a path in its directory, of no use to anybody else.
    return shown_person(name, "" if name and address.upper().startswith("/O=") else address)


def _moment(ticks: int) -> str | None:
    """Tenths of microseconds since 1601, in ISO 8601."""
    try:
        return (_EPOCH + timedelta(microseconds=ticks // 10)).isoformat()
    except OverflowError:
        return None


def _unpacked(data: bytes) -> bytes:
    """RTF as Outlook packs it ([MS-OXRTFCP])."""
    packed, size, kind, _ = struct.unpack_from("<IIII", data)
    if kind == 0x414C454D:
        return data[16 : 16 + size]
    window = bytearray(_DICTIONARY.ljust(4096, b"\x00"))
    place, found, position = len(_DICTIONARY), bytearray(), 16
    end = min(len(data), packed + 4)
    while position < end and len(found) < min(size, _MOST_RTF):
        control, position = data[position], position + 1
        for bit in range(8):
            if position >= end:
                break
            if not control >> bit & 1:
                piece, position = data[position : position + 1], position + 1
            else:
                reference = int.from_bytes(data[position : position + 2], "big")
                position += 2
                offset, length = reference >> 4, (reference & 15) + 2
                if offset == place:
                    return bytes(found)
                piece = b""
                for step in range(length):
                    byte = window[(offset + step) % 4096]
                    window[(place + step) % 4096] = byte
                    piece += bytes([byte])
            for step, byte in enumerate(piece):
                window[(place + step) % 4096] = byte
            place = (place + len(piece)) % 4096
            found += piece
    return bytes(found)
