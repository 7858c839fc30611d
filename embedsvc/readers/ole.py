"""OLE containers: the small file system inside old Office files and Outlook's messages."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

from embedsvc.readers.packages import damaged
from embedsvc.records import Source

if TYPE_CHECKING:
    from olefile import OleFileIO

MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_KINDS = {
    "__properties_version1.0": "msg",
    "worddocument": "doc",
    "powerpoint document": "ppt",
    "workbook": "xls",
    "book": "xls",
    "encryptedpackage": "encrypted",
}
"""What a file is, by a stream at its top."""
_TABLES, _SECTOR = (44, 64, 72), 512
"""Where the header tells the lengths of its three tables, and what they count in, in bytes: 512, or more."""
_CODE_PAGE, _TITLE, _SHORT, _STRING = 1, 2, 2, 30
"""Ids of properties, and kinds of their values."""
ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, struct.error)
"""How parsers of binary records fail on records that lie."""


@contextmanager
def opened(source: Source, kind: str) -> Iterator[OleFileIO]:
    """The container that ``source`` is. What goes wrong in the block leaves it as a ReadError.

    Raises:
        DamagedFile: not such a container, or a stream of it cannot be read.
    """
    try:
        with container_of(source.data) as container:
            yield container
    except ERRORS as error:
        raise damaged(source, kind, error) from error


def kind_of(source: Source) -> str | None:
    """One of "msg", "doc", "ppt", "xls" or "encrypted" (a document of today with a password), if it can be told."""
    try:
        with container_of(source.data) as container:
            names = {path[0].lower() for path in container.listdir()}
    except ERRORS:
        return None
    return next((kind for name, kind in _KINDS.items() if name in names), None)


def container_of(data: bytes) -> OleFileIO:
    """olefile believes what is claimed: where a chain of sectors comes back to itself, it reads on for as long as that.

    Raises:
        ValueError: more is claimed than there is.
    """
    import olefile

    tables = (struct.unpack_from("<I", data, place)[0] for place in _TABLES)
    if max(tables) * _SECTOR > len(data):
        raise ValueError("its tables claim to be larger than the file")
    container = olefile.OleFileIO(BytesIO(data))
    streams = (entry.size for entry in container.direntries if entry and entry.entry_type == olefile.STGTY_STREAM)
    if max(container.root.size, *streams, 0) > len(data):
        container.close()
        raise ValueError("a stream in it claims to be larger than the file")
    return container


def stream(container: OleFileIO, *path: str) -> bytes | None:
    """The bytes of a stream; None where there is none."""
    if not container.exists(list(path)):
        return None
    with container.openstream(list(path)) as file:
        data: bytes = file.read()
    return data


def summary(container: OleFileIO) -> tuple[int, bytes]:
    """Of the container's properties, the code page (0: not told) and the title in it.

    Read here because olefile reads all of them, and takes hours for a list that claims four thousand million entries.
    """
    data = stream(container, "\x05SummaryInformation") or b""
    code_page, title = 0, b""
    try:
        start = struct.unpack_from("<I", data, 44)[0]
        table = data[start + 8 : start + 8 + 8 * struct.unpack_from("<I", data, start + 4)[0]]
        for id, offset in struct.iter_unpack("<II", table[: len(table) // 8 * 8]):
            kind, value = struct.unpack_from("<II", data, start + offset)
            if (id, kind) == (_CODE_PAGE, _SHORT):
                code_page = value & 0xFFFF
            elif (id, kind) == (_TITLE, _STRING):
                title = data[start + offset + 8 : start + offset + 8 + value].replace(b"\0", b"")
    except struct.error:
        pass  # it ends too early: what came before
    return code_page, title
