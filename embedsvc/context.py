"""What is put in front of a passage's text when it is encoded: where it stands. It is part of what is embedded and of
nothing else: not of the passage's text, its span or its citation."""

from __future__ import annotations

import re
from urllib.parse import unquote

from embedsvc.records import HEADING_PARTED_BY, ChunkContext

_BESIDE_NAME = re.compile("[:#?]")
"""Between a name and a scheme without slashes (``stdin:a.txt``), a record's number, what a page was asked with."""
_WORD = re.compile(r"\w+")
_BEGINNING = 100
"""Characters, beside those of a name itself, in which a text that begins with it has it: ``## ``, ``Title: ``, ``def ``
and the line above may come first."""


def context_of(text: str, *, uri: str, title: str, heading: str | None, shown: ChunkContext) -> str:
    """The title and the headings over ``text``, topmost first, as far as they are ``shown``: ``"Guide > Install"``.

    Left out is what would say nothing: a title that is only the file's name, so that a file may be renamed without
    being encoded anew; a name that comes twice in a row; and names with which the text begins itself.
    ``heading``: the path of headings, as :meth:`Document.heading_at` gives it.
    """
    title = " ".join(title.split())
    names: list[str] = []
    if "title" in shown and not is_file_name(title, uri):
        names.append(title)
    if "headings" in shown and heading:
        names += heading.split(HEADING_PARTED_BY)
    said: list[str] = []
    for name in names:
        if name and name not in said[-1:] and not _begins_with(text, name):
            said.append(name)
    return HEADING_PARTED_BY.join(said)


def is_file_name(title: str, uri: str) -> bool:
    """Whether ``title`` is what ``uri`` ends with, with or without a suffix."""
    last = uri.rstrip("/").rpartition("/")[2]
    names = {unquote(name) for name in (last, *_BESIDE_NAME.split(last))}
    return bool(names & {title, _stem(title)}) or title in map(_stem, names)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _begins_with(text: str, name: str) -> bool:
    """By words, whatever marks are between them."""
    words, beginning = _words(name), _words(text[: len(name) + _BEGINNING])
    return f" {words} " in f" {beginning} "


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))
