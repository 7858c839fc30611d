"""The last stage: spans as hits, with their place in the document."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from embedsvc.search.hits import Hit, Scores
from embedsvc.search.run import Floats, Run, Span


def cite(run: Run) -> Run:
    return replace(run, hits=tuple(_hit(span, run) for span in run.spans))


def _hit(span: Span, run: Run) -> Hit:
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
    )


def _at(scores: Floats | None, rank: int) -> float | None:
    return None if scores is None or np.isnan(scores[rank]) else float(scores[rank])
