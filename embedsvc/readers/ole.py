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
ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, struct.error)
"""How parsers of binary records fail on records that lie."""


@contextmanager
def opened(source: Source, kind: str) -> Iterator[OleFileIO]:
    """The container that ``source`` is. What goes wrong in the block leaves it as a ReadError.

    Raises:
        DamagedFile: not such a container, or a stream of it cannot be read.
    """
    import olefile

    try:
        with olefile.OleFileIO(BytesIO(source.data)) as container:
            yield container
    except ERRORS as error:
        raise damaged(source, kind, error) from error


def kind_of(source: Source) -> str | None:
    """One of "msg", "doc", "ppt", "xls" or "encrypted" (a document of today with a password), if it can be told."""
    import olefile

    try:
        with olefile.OleFileIO(BytesIO(source.data)) as container:
            names = {path[0].lower() for path in container.listdir()}
    except ERRORS:
        return None
    return next((kind for name, kind in _KINDS.items() if name in names), None)


def stream(container: OleFileIO, *path: str) -> bytes | None:
    """The bytes of a stream; None where there is none."""
    if not container.exists(list(path)):
        return None
    with container.openstream(list(path)) as file:
        data: bytes = file.read()
    return data
