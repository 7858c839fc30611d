"""The last stage: spans as hits, with their place in the document."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from embedsvc.search.hits import Citation, Hit, Scores
from embedsvc.search.run import Floats, Part, Run, Span
from embedsvc.storage import StoredPassage, turn_at

_MOST_COPIES = 100
"""Of one hit, that are cited."""


def cite(run: Run) -> Run:
    rows = list({row for span in run.spans for row in span.copies[:_MOST_COPIES]})
    cited = {passage.row_id: _citation(passage) for passage in run.snapshot.store.take(rows)} if rows else {}
    hits = (
        _hit(span, run, part, tuple(cited[row] for row in span.copies[:_MOST_COPIES]))
        for span, part in zip(run.spans, _parts(run), strict=True)
    )
    return replace(run, hits=tuple(hits))


def _parts(run: Run) -> list[Part]:
    """The score of each span, and the page and heading that it begins under: those of its first passage, unless it
    begins further on. Parts have their own."""
    begun = [(span.first or span.best, span.start) for span in run.spans if span.part is None]
    later = [first.row_id for first, start in begun if start > first.start]
    turns = dict(zip(later, run.snapshot.store.turns(later), strict=True)) if later else {}

    def part(span: Span) -> Part:
        first = span.first or span.best
        begins = turn_at(first, turns.get(first.row_id), span.start)
        return Part(float(run.scores[span.rank]), begins.page, begins.heading)

    return [span.part or part(span) for span in run.spans]


def _citation(passage: StoredPassage) -> Citation:
    return Citation(**{field.name: getattr(passage, field.name) for field in fields(Citation)})


def _hit(span: Span, run: Run, part: Part, duplicates: tuple[Citation, ...]) -> Hit:
    best, rank = span.best, span.rank
    return Hit(
        id=best.id,
        document_id=best.document_id,
        uri=best.uri,
        title=best.title,
        text=span.text,
        start=span.start,
        end=span.end,
        page=part.page,
        heading=part.heading,
        score=part.score,
        scores=Scores(_at(run.dense, rank), _at(run.lexical, rank), _at(run.rerank, rank)),
        metadata=best.metadata,
        duplicates=duplicates,
    )


def _at(scores: Floats | None, rank: int) -> float | None:
    return None if scores is None or np.isnan(scores[rank]) else float(scores[rank])
