"""WebVTT and SRT: what is said, a line or more per cue, with the time as a heading about once a minute.

A cue's time is no text, but must be citable: a hit says "00:12:30" where one in a report says its section. A heading
per cue would cut speech into pieces of a few words, since passages prefer to begin at headings.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from embedsvc.readers.decoding import decode
from embedsvc.readers.items import FieldChoice
from embedsvc.records import Document, Heading, Source, make_document

_TIMING = re.compile(
    r"[ \t]*(?:(\d{1,5}):)?(\d{1,2}):(\d{1,2})(?:[.,]\d{1,6})?[ \t]*-->[ \t]*[\d:.,]+(?:[ \t].*)?\Z", re.A
)
_LINE_END = re.compile(r"\r\n?|\n")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?[ \t]+([^<>]*)>")
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
"""Elements, times within a cue (karaoke), and the commands of SubStation that SRT files carry."""
_NOT_SPOKEN = re.compile(r"(?:NOTE(?:[ \t].*)?|STYLE[ \t]*|REGION[ \t]*)\Z")
_APART = 60
"""Seconds from one heading to the next, at least."""


def read_subtitles(source: Source, fields: FieldChoice) -> Iterator[Document]:
    """One Document. Its title: what stands behind ``WEBVTT``, else the file name."""
    decoded = decode(source.data, source.uri)
    lines = _LINE_END.split(decoded.text)
    title, first = "", 0
    is_vtt = lines[0].startswith("WEBVTT")
    if is_vtt:
        title = lines[0].removeprefix("WEBVTT").strip(" \t-–")
        while first < len(lines) and lines[first].strip() and not _TIMING.match(lines[first]):
            first += 1
    parts: list[str] = []
    headings: list[Heading] = []
    length = 0
    last = 0
    for seconds, text in _cues(lines[first:], is_vtt=is_vtt):
        if seconds is not None and (not headings or seconds < last or seconds >= last + _APART):
            headings.append(Heading(length, 1, _clock(seconds)))
            last = seconds
        parts.append(text)
        length += len(text) + 1
    notes = decoded.notes if headings else (*decoded.notes, "it has no cue with a time")
    yield make_document(
        source.uri,
        "\n".join(parts),
        title=title or source.name,
        hash=source.hash,
        headings=tuple(headings),
        notes=notes,
    )


def _cues(lines: list[str], *, is_vtt: bool) -> Iterator[tuple[int | None, str]]:
    """When each cue with text starts, in seconds (None: text outside of any), and its text."""
    seconds: int | None = None
    payload: list[str] = []
    index, after_blank = 0, True
    while index < len(lines):
        line = lines[index]
        following = lines[index + 1] if index + 1 < len(lines) else ""
        timing = _TIMING.match(line)
        if timing or (after_blank and _TIMING.match(following)):  # the latter: the cue's identifier
            if text := _spoken(payload):
                yield seconds, text
            payload = []
            index += 0 if timing else 1
            timing = timing or _TIMING.match(following)
            if timing:
                seconds = int(timing[1] or 0) * 3600 + int(timing[2]) * 60 + int(timing[3])
            after_blank = False
        elif is_vtt and after_blank and _NOT_SPOKEN.match(line):
            while index + 1 < len(lines) and lines[index + 1].strip():
                index += 1
            after_blank = False
        else:
            payload.append(line)
            after_blank = not line.strip()
        index += 1
    if text := _spoken(payload):
        yield seconds, text


def _spoken(payload: list[str]) -> str:
    text = "\n".join(" ".join(line.split()) for line in payload)
    text = _VOICE.sub(lambda voice: f"\n{' '.join(voice[1].split())}: ", text)
    text = html.unescape(_MARKUP.sub("", text))
    return "\n".join(line for line in text.split("\n") if line.strip()).strip()


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
