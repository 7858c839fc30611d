"""The stage that prefers what the hits before do not say already."""

from __future__ import annotations

import numpy as np

from embedsvc.search.boosting import relevance
from embedsvc.search.run import Run, ranked

_PICKED = 3
"""Candidates per hit wanted, that are picked one by one: some of them are joined or left out later."""


def diversify(run: Run) -> Run:
    """The candidates by maximal marginal relevance: each next one has the highest
    ``(1 - diversity) * score + diversity * (1 - cosine)``, with the cosine to the nearest of those picked before. That
    is the score from now on: within 0 and 1, and it only falls. The last ones are not picked, but sorted by it.

    Source: Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing
    Summaries", SIGIR 1998, plus the constant ``diversity``.
    """
    count, diversity = len(run.row_ids), run.query.selection.diversity
    if not count:
        return run
    vectors = run.snapshot.store.own_vectors(run.row_ids.tolist())
    worth, nearest = (1 - diversity) * relevance(run), np.zeros(count, np.float32)
    values = worth + diversity
    left = np.ones(count, bool)
    picked: list[int] = []
    scores: list[float] = []
    for _ in range(min(count, _PICKED * run.query.k)):
        best = int(np.where(left, values, -np.inf).argmax())
        picked.append(best)
        scores.append(float(values[best]))
        left[best] = False
        nearest = np.maximum(nearest, np.minimum(vectors @ vectors[best], 1))
        values = worth + diversity * (1 - nearest)
    rest = np.flatnonzero(left)
    rest = rest[np.argsort(-values[rest], kind="stable")]
    order = np.concatenate([np.array(picked, np.intp), rest])
    return ranked(run, order, np.concatenate([np.array(scores, np.float32), values[rest].astype(np.float32)]))
