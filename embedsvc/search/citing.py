"""The last stage: spans as hits, with their place in the document."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from embedsvc.search.hits import Citation, Hit, Scores
from embedsvc.search.run import Floats, Run, Span
from embedsvc.storage import StoredPassage

_MOST_COPIES = 100
"""Of one hit, that are cited."""


def cite(run: Run) -> Run:
    rows = list({row for span in run.spans for row in span.copies[:_MOST_COPIES]})
    cited = {passage.row_id: _citation(passage) for passage in run.snapshot.store.take(rows)} if rows else {}
    hits = (_hit(span, run, tuple(cited[row] for row in span.copies[:_MOST_COPIES])) for span in run.spans)
    return replace(run, hits=tuple(hits))


def _citation(passage: StoredPassage) -> Citation:
    return Citation(**{field.name: getattr(passage, field.name) for field in fields(Citation)})


def _hit(span: Span, run: Run, duplicates: tuple[Citation, ...]) -> Hit:
    best, rank, part = span.best, span.rank, span.part
    return Hit(
        id=best.id,
        document_id=best.document_id,
        uri=best.uri,
        title=best.title,
        text=span.text,
        start=span.start,
        end=span.end,
        page=part.page if part else best.page,
        heading=part.heading if part else best.heading,
        score=part.score if part else float(run.scores[rank]),
        scores=Scores(_at(run.dense, rank), _at(run.lexical, rank), _at(run.rerank, rank)),
        metadata=best.metadata,
        duplicates=duplicates,
    )


def _at(scores: Floats | None, rank: int) -> float | None:
    return None if scores is None or np.isnan(scores[rank]) else float(scores[rank])
