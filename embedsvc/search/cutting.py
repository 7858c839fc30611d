"""The stage that leaves out what has too low a score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from embedsvc.search.run import Run, ranked


def cut(run: Run) -> Run:
    """The candidates from ``min_score`` on. Where some are left out there is no more to ask for, if what was not asked
    for yet scores no higher."""
    query, least = run.query, run.query.min_score
    assert least is not None, "the stage is not wanted"
    # Boosted and fused it may score higher. Reranked it is not read any more, and scores 0.
    falling = not query.selection.boosts and (query.mode != "hybrid" or run.rerank is not None)
    kept = np.flatnonzero(run.scores >= least)
    more = run.more and not (falling and len(kept) < len(run.scores))
    return replace(ranked(run, kept, run.scores[kept]), more=more)
