"""Text in pictures, recognised by the program tesseract, where it is installed. What a reader starts is held by what
holds the process that reads files (:mod:`.confinement`): memory, time, no network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from embedsvc.config import usable_cores
from embedsvc.errors import NeedsOcr

_SECONDS = 60.0
"""For one page; most take one to three."""
_MOST_AT_ONCE = 8
"""Pages: each takes a process of about 100 MB."""
_LEAST_SURE = 50.0
"""Per cent that tesseract is to be sure of the words of a page, on average. Of what it sees in photographs and diagrams
it is not."""
_NOT_LOADED = re.compile(rb"Failed loading language '([^'\s]+)'")
_WORD = "5"
"""The level of a line of its table that tells of a word."""


def program() -> str | None:
    """Where tesseract is; None where it is not."""
    return shutil.which("tesseract")


def page_texts(picture: bytes, languages: str, *, dpi: int | None = None, seconds: float | None = None) -> list[str]:
    """The text of each page of a picture, "" where there is none; empty: tesseract cannot read it, or not in time.

    ``picture``: a file of any format that tesseract knows; of those only TIFF has several pages. ``dpi`` None: as the
    picture says, else estimated.

    Raises:
        NeedsOcr: tesseract or its data of a language is not there. The message ends a sentence.
    """
    command = program()
    if command is None:
        raise NeedsOcr(
            "tesseract, which recognises text in pictures, is not there. Install it (on Debian and Ubuntu the package "
            "tesseract-ocr; it must be on the PATH), then index again."
        )
    arguments = ["stdin", "stdout", "-l", languages, "-c", "tessedit_create_tsv=1"]
    if dpi:
        arguments += ["--dpi", str(dpi)]
    try:
        # Its threads cost more than they give; several pages at once do not.
        done = subprocess.run(
            [command, *arguments],
            input=picture,
            capture_output=True,
            timeout=seconds,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return []
    if missing := _NOT_LOADED.search(done.stderr):
        language = missing[1].decode("utf-8", "replace")
        raise NeedsOcr(
            f"tesseract has no data of the language {language!r} (setting ocr_languages). Install it (on Debian and "
            f"Ubuntu the package tesseract-ocr-{language.replace('_', '-')}), then index again."
        )
    return [] if done.returncode else _texts(done.stdout.decode("utf-8", "replace"))


def pictured_pages(pictures: Iterable[bytes], languages: str, dpi: int) -> Iterator[str | None]:
    """The text of each of ``pictures``, which are one page each; None: it could not be looked at. Several at once, of
    which no more are taken from ``pictures`` than are worked on.

    Raises:
        NeedsOcr: as :func:`page_texts`.
    """
    at_once = min(_MOST_AT_ONCE, usable_cores())
    under_way: deque[Future[list[str]]] = deque()
    with ThreadPoolExecutor(at_once, thread_name_prefix="ocr") as threads:
        for picture in pictures:
            under_way.append(threads.submit(page_texts, picture, languages, dpi=dpi, seconds=_SECONDS))
            if len(under_way) == at_once:
                yield next(iter(under_way.popleft().result()), None)
        while under_way:
            yield next(iter(under_way.popleft().result()), None)


def _texts(table: str) -> list[str]:
    """The text of each page of tesseract's table of words: lines as they are in the picture, blocks apart."""
    pages: list[list[tuple[list[str], float, str]]] = []
    for row in table.split("\n")[1:]:
        cells = row.split("\t", 11)
        if len(cells) < 12:
            continue
        level, page, block, paragraph, line = cells[:5]
        while len(pages) < int(page):
            pages.append([])
        if level == _WORD and cells[11].strip():
            pages[-1].append(([block, paragraph, line], float(cells[10]), cells[11].strip()))
    return [_text(words) for words in pages]


def _text(words: list[tuple[list[str], float, str]]) -> str:
    if not words or sum(sure for _, sure, _ in words) / len(words) < _LEAST_SURE:
        return ""
    pieces: list[str] = []
    last = words[0][0]
    for place, _, word in words:
        if pieces:
            pieces.append(" " if place == last else "\n" if place[:2] == last[:2] else "\n\n")
        pieces.append(word)
        last = place
    return "".join(pieces)
