"""MBOX: many mails in one file, each begun by a line "From …" with the time of its arrival."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, pairwise

from embedsvc.errors import DamagedFile, ReadError
from embedsvc.readers.items import FieldChoice, Means, Rejected
from embedsvc.readers.mail import read_mail
from embedsvc.records import Document, Source

_LINE = rb"[^\r\n]*\d:\d\d[^\r\n]*\r?\n"
_FIRST = re.compile(rb"\s*From " + _LINE)
_NEXT = re.compile(rb"From (?:(?<=\n\nFrom )|(?<=\n\r\nFrom ))" + _LINE)
"""Its beginning is searched for as it is, without a look at every byte: a second for 400 MB, not minutes."""
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)
"""How a line of a mail that begins so is kept apart from one that begins a mail."""


def read_mbox(source: Source, fields: FieldChoice, means: Means) -> Iterator[Document | Rejected]:
    """A Document per mail, under ``{uri}#{number}``, each followed by its attachments. The number, not the Message-ID,
    names it: copies of one mail in several folders have the same. A mail that cannot be read costs itself only.

    Raises:
        DamagedFile: it does not begin with a mail.
    """
    first = _FIRST.match(source.data)
    if first is None:
        raise DamagedFile(
            f'{source.uri}: this is no mailbox (it does not begin with a line "From …"). '
            "Export it anew from the mail program."
        )
    size = len(source.data)
    starts = chain([first], _NEXT.finditer(source.data, first.end()))
    for number, (start, following) in enumerate(pairwise(chain(starts, [None])), start=1):
        assert start is not None
        end = size if following is None else following.start()
        data = _QUOTED.sub(rb"\1", source.data[start.end() : end])
        mail = Source(f"{source.uri}#{number}", f"{source.name}#{number}", data)
        means.reached(end / size)
        try:
            yield from read_mail(mail, fields, means.of_part(start.start() / size, end / size))
        except ReadError as error:
            yield Rejected(mail.uri, error)
