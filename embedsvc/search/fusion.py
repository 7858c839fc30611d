"""Fusion of a dense and a lexical ranking into one."""

from __future__ import annotations

import numpy as np

from embedsvc.records import Fusion, Normalisation
from embedsvc.search.run import Floats, Run, ranked

_RRF_K = 60
"""Of reciprocal ranks: the first and the second are to differ little."""


def fuse(run: Run) -> Run:
    """The candidates of both sides in the order of their fused scores; equal ones in that of their rows."""
    assert run.dense is not None
    assert run.lexical is not None
    assert run.query.fusion is not None, "the query is settled"
    scores = fused(run.dense, run.lexical, run.query.fusion)
    order = np.lexsort((run.row_ids, -scores))
    return ranked(run, order, scores[order])


def fused(dense: Floats, lexical: Floats, fusion: Fusion) -> Floats:
    """One score (n,) for the two of each candidate, (n,) each; higher is better."""
    if fusion.method == "rrf":
        return reciprocal_ranks(dense, lexical, fusion.weight)
    return convex_combination(dense, lexical, fusion.weight, fusion.normalisation)


def convex_combination(
    dense: Floats, lexical: Floats, weight: float = 0.5, normalisation: Normalisation = "max"
) -> Floats:
    """``weight * dense + (1 - weight) * lexical``, each first normalised over the candidates.

    Both are of shape (candidates,). ``max``: divided by the query's best score of its kind; the lower bound of either
    is taken as 0. ``minmax``: from 0 for the worst to 1 for the best; ``zscore``: by mean and standard deviation.
    Negative and missing (NaN) scores count as 0. Scores of one kind that are all equal say nothing: all 0, but for
    ``max``.

    >>> convex_combination(np.array([0.8, 0.4]), np.array([0.0, 10.0])).tolist()
    [0.5, 0.75]

    Source: Bruch, Gai, Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023, with the theoretical
    minimum as lower bound and the maximum of the query as upper bound (``max``).
    """
    return weight * _normalised(dense, normalisation) + (1 - weight) * _normalised(lexical, normalisation)


def reciprocal_ranks(dense: Floats, lexical: Floats, weight: float = 0.5) -> Floats:
    """The weighted sum of ``1 / (60 + rank)`` on either side, times 61: 1 is first on both. What a side did not find
    (NaN, or 0 and less) gets nothing from it.

    >>> reciprocal_ranks(np.array([0.8, 0.0]), np.array([0.0, 10.0])).tolist()
    [0.5, 0.5]

    Source: Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning
    Methods", SIGIR 2009.
    """
    return weight * _reciprocal(dense) + (1 - weight) * _reciprocal(lexical)


def _reciprocal(scores: Floats) -> Floats:
    found = np.nan_to_num(scores, nan=0.0)
    ranks = np.empty(len(found), np.float32)
    ranks[np.argsort(-found, kind="stable")] = np.arange(1, len(found) + 1)
    values: Floats = np.where(found > 0, (_RRF_K + 1) / (_RRF_K + ranks), np.float32(0))
    return values


def _normalised(scores: Floats, normalisation: Normalisation) -> Floats:
    scores = np.maximum(np.nan_to_num(scores, nan=0.0), 0.0)
    if not len(scores):
        return scores
    low, extent = 0.0, float(scores.max())
    if normalisation == "minmax":
        low = float(scores.min())
        extent -= low
    elif normalisation == "zscore":
        low, extent = float(scores.mean()), float(scores.std())
    return (scores - low) / extent if extent > 0 else scores - low
