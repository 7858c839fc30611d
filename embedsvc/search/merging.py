"""The stage that reads text: the first hits wanted, overlapping passages of one document joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from embedsvc.search.hits import overlap
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
            copies = run.copies.get(passage.row_id, ())
            if (query.merge and _join(passage, start, end, copies, spans)) or start == end:
                continue
            if len(spans) == query.k:
                break
            spans.append(replace(_trimmed(rank, passage, start, end), copies=copies))
        taken = upto
    return replace(run, spans=tuple(spans))


def _trimmed(rank: int, passage: StoredPassage, start: int, end: int) -> Span:
    text = passage.text[start - passage.start : end - passage.start]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return Span(rank, passage, start, start + len(text), text, rows=(passage.row_id,))


def _join(passage: StoredPassage, start: int, end: int, copies: tuple[int, ...], spans: list[Span]) -> bool:
    """Whether a span took ``passage``'s part from ``start`` to ``end``: one whose best passage it overlaps; or, of a
    part that is empty, one that has some of it. With it the span takes its ``copies``."""
    text = passage.text[start - passage.start : end - passage.start]
    for at, span in enumerate(spans):
        if start == end and overlap(passage, span):
            wider = span
        elif start < end == span.start and overlap(passage, span.best):
            wider = replace(span, start=start, text=text + span.text, first=passage)
        elif span.end == start < end and overlap(passage, span.best):
            wider = replace(span, end=end, text=span.text + text)
        else:
            continue
        spans[at] = replace(wider, rows=(*span.rows, passage.row_id), copies=span.copies + copies)
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
