"""Hits as frameworks take them: where each stands, and a score from 0 to 1."""

from __future__ import annotations

from typing import Any

from embedsvc.search.hits import Answer, Hit


def citation(hit: Hit) -> dict[str, Any]:
    """Where the hit stands, what is known of that: ``source`` (its document's uri), ``title``, ``page``, ``heading``,
    ``start_index`` and ``end_index`` (its text is the document's, from the one character to the other),
    ``document_id``, ``passage_id``; and how likely it answers (``confidence``)."""
    known = {
        "source": hit.uri,
        "title": hit.title,
        "page": hit.page,
        "heading": hit.heading,
        "start_index": hit.start,
        "end_index": hit.end,
        "document_id": hit.document_id,
        "passage_id": hit.id,
        "confidence": hit.confidence,
    }
    return {name: value for name, value in known.items() if value is not None}


def unit_scores(answer: Answer) -> list[float]:
    """Of the hits, from 0 to 1, higher is better: a cosine below 0 is 0; BM25, which has no upper end, is divided by
    that of the best hit."""
    best = max((hit.score for hit in answer.hits), default=0.0)
    is_bm25 = answer.mode == "lexical" and best > 0 and all(hit.scores.rerank is None for hit in answer.hits)
    scale = best if is_bm25 else 1.0
    return [min(max(hit.score / scale, 0.0), 1.0) for hit in answer.hits]
