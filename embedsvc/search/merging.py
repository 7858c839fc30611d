"""The stage that reads text: the first hits wanted, overlapping passages of one document joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from embedsvc.search.run import Run, Span
from embedsvc.storage import StoredPassage

SPARE = 1.5
"""Candidates per hit wanted: some of them merge into one."""


def merge(run: Run) -> Run:
    """The first ``k`` spans, text read for the survivors only. No text is in two of them, unless ``merge`` is off."""
    query = run.query
    count = len(run.row_ids)
    spans: list[Span] = []
    taken = 0
    while taken < count and len(spans) < query.k:
        upto = min(count, max(int(query.k * SPARE) + 1, 2 * taken))
        for rank, passage in enumerate(run.snapshot.store.take(run.row_ids[taken:upto].tolist()), start=taken):
            start, end = _left_over(passage, spans) if query.merge else (passage.start, passage.end)
            if start == end or (query.merge and _join(passage, start, end, spans)):
                continue
            if len(spans) == query.k:
                break
            spans.append(_trimmed(rank, passage, start, end))
        taken = upto
    return replace(run, spans=tuple(spans))


def _trimmed(rank: int, passage: StoredPassage, start: int, end: int) -> Span:
    text = passage.text[start - passage.start : end - passage.start]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return Span(rank, passage, start, start + len(text), text)


def _join(passage: StoredPassage, start: int, end: int, spans: list[Span]) -> bool:
    """Whether a span took ``passage``'s part from ``start`` to ``end``: one whose best passage it overlaps."""
    text = passage.text[start - passage.start : end - passage.start]
    for at, span in enumerate(spans):
        if _overlap(passage, span.best):
            if end == span.start:
                spans[at] = replace(span, start=start, text=text + span.text)
                return True
            if start == span.end:
                spans[at] = replace(span, end=end, text=span.text + text)
                return True
    return False


def _left_over(passage: StoredPassage, spans: Sequence[Span]) -> tuple[int, int]:
    """The longest part of ``passage`` that no span has; empty where that is only white space."""
    taken = sorted((span.start, span.end) for span in spans if span.best.document_id == passage.document_id)
    longest, start = (passage.start, passage.start), passage.start
    for low, high in (*taken, (passage.end, passage.end)):
        end = min(low, passage.end)
        if end - start > longest[1] - longest[0]:
            longest = start, end
        start = max(start, high)
    start, end = longest
    blank = passage.text[start - passage.start : end - passage.start].isspace()
    return (start, start) if blank else longest


def _overlap(one: StoredPassage, other: StoredPassage) -> bool:
    return one.document_id == other.document_id and one.start < other.end and other.start < one.end
