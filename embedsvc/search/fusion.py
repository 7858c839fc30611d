"""Fusion of a dense and a lexical ranking into one."""

from __future__ import annotations

import numpy as np

from embedsvc.search.run import Floats, Run, ranked


def fuse(run: Run) -> Run:
    """The candidates of both sides in the order of their fused scores; equal ones in that of their rows."""
    assert run.dense is not None
    assert run.lexical is not None
    fused = convex_combination(run.dense, run.lexical)
    order = np.lexsort((run.row_ids, -fused))
    return ranked(run, order, fused[order])


def convex_combination(dense: Floats, lexical: Floats, weight: float = 0.5) -> Floats:
    """``weight * dense + (1 - weight) * lexical``, each first divided by the query's best score of its kind.

    Both are of shape (candidates,). The lower bound of either score is taken as 0, so negative and missing (NaN)
    scores count as 0. Scores of one kind that are all 0 stay 0.

    >>> convex_combination(np.array([0.8, 0.4]), np.array([0.0, 10.0])).tolist()
    [0.5, 0.75]

    Source: Bruch, Gai, Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023, with the theoretical
    minimum as lower bound and the maximum of the query as upper bound.
    """
    return weight * _scaled(dense) + (1 - weight) * _scaled(lexical)


def _scaled(scores: Floats) -> Floats:
    scores = np.maximum(np.nan_to_num(scores, nan=0.0), 0.0)
    best = scores.max(initial=0.0)
    return scores / best if best > 0 else scores
