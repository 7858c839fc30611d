"""MBOX: many mails in one file, each begun by a line "From …" with the time of its arrival."""

from __future__ import annotations

import re
from collections.abc import Iterator

from embedsvc.errors import DamagedFile, ReadError
from embedsvc.readers.items import FieldChoice, Means, Rejected
from embedsvc.readers.mail import read_mail
from embedsvc.records import Document, Source

_START = re.compile(rb"(?:\A\s*|(?<=\n\n)|(?<=\n\r\n))From [^\r\n]*\d:\d\d[^\r\n]*\r?\n")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)
"""How a line of a mail that begins so is kept apart from one that begins a mail."""


def read_mbox(source: Source, fields: FieldChoice, means: Means) -> Iterator[Document | Rejected]:
    """A Document per mail, under ``{uri}#{number}``, each followed by its attachments. The number, not the Message-ID,
    names it: copies of one mail in several folders have the same. A mail that cannot be read costs itself only.

    Raises:
        DamagedFile: it does not begin with a mail.
    """
    starts = list(_START.finditer(source.data))
    if not starts or source.data[: starts[0].start()].strip():
        raise DamagedFile(
            f'{source.uri}: this is no mailbox (it does not begin with a line "From …"). '
            "Export it anew from the mail program."
        )
    ends = [start.start() for start in starts[1:]] + [len(source.data)]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        data = _QUOTED.sub(rb"\1", source.data[start.end() : end])
        mail = Source(f"{source.uri}#{number}", f"{source.name}#{number}", data)
        try:
            yield from read_mail(mail, fields, means)
        except ReadError as error:
            yield Rejected(mail.uri, error)
